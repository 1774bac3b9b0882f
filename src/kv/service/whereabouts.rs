//! Keeping the membership up to date on where its nodes are, on the leader.
//!
//! Nodes tell each other directly where they are. The membership is what a node reads that was not there to
//! be told: one that comes in, one that lost its peers, a client that looks for the leader, an operator.
//!
//! # Tiger Style
//! - Only what a node has said of itself, known by its key, is written down; its key never changes by it.
//! - There are [`limits::WHEREABOUTS_NOTE_INTERVAL_MS`] between two entries in the log.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::KvService;
use crate::kv::types::NodeId;
use crate::limits;
use crate::raft::membership;
use crate::raft::observe::{self, Route};

/// Writes down where members are while this node leads. Runs until it is dropped.
pub async fn keep_noted(service: KvService) {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::WHEREABOUTS_CHECK_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if service.route() == Route::Local && service.note_addresses().await {
            tokio::time::sleep(Duration::from_millis(limits::WHEREABOUTS_NOTE_INTERVAL_MS)).await;
        }
    }
}

impl KvService {
    /// True if something was written down.
    async fn note_addresses(&self) -> bool {
        let parts = &self.0.parts;
        let said = parts.forwarder.whereabouts();
        let moved = observe::look(&parts.raft, |metrics| membership::moved(metrics, said));
        if moved.is_empty() {
            return false;
        }
        let nodes: BTreeSet<NodeId> = moved.iter().map(|peer| peer.node_id).collect();
        let nodes = observe::join(nodes.into_iter());
        let bound = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
        let noted = self.change(parts.operations.note_addresses(moved, bound)).await;
        match noted.into_result(limits::MEMBERSHIP_TIMEOUT_MS) {
            Ok(_) => {
                tracing::info!("the membership says now where these nodes are: {nodes}");
                true
            }
            Err(error) => {
                tracing::debug!("the membership does not say yet where these nodes are: {nodes}: {error}");
                false
            }
        }
    }
}
