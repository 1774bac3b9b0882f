//! A word of warning to who runs a node that founds by itself, once there are others.

use openraft::async_runtime::WatchReceiver;

use crate::config::{Bootstrap, Config};
use crate::raft::RaftHandle;
use crate::raft::types::StoredMembership;

/// Whether a node with this configuration founds a cluster when it starts on an empty directory. `joins` is
/// whether it has a ticket to join one with.
pub(super) fn founds_by_itself(config: &Config, joins: bool) -> bool {
    config.bootstrap == Bootstrap::Auto && config.peers.is_empty() && !joins
}

/// Waits until the cluster has other members, and says what the loss of the data directory would lead to.
pub(super) async fn warn_once_there_are_others(raft: RaftHandle) -> Result<(), anyhow::Error> {
    let mut metrics = raft.server_metrics();
    loop {
        if has_others(&metrics.borrow_watched().membership_config) {
            tracing::warn!(
                "if the data directory of this node were lost, or not mounted, the next start would found a second, empty cluster at this address, as bootstrap is \"auto\" and no peers are configured: now that there are other members, set bootstrap = \"manual\", or their tickets as peers"
            );
            return Ok(());
        }
        metrics.changed().await?;
    }
}

fn has_others(membership: &StoredMembership) -> bool {
    membership.nodes().count() > 1
}
