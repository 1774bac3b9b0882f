//! Keeps the history bounded: the leader compacts what is older than the configured number of
//! revisions.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::KvService;
use crate::kv::interface::KeyValueStore;
use crate::kv::types::{Command, KvError, Revision, WriteOp};
use crate::raft::observe::Route;

const CHECK_INTERVAL_MS: u64 = 1_000;

/// Compacts whenever the history is more than a tenth over `keep_revisions`. Runs until it is dropped.
pub async fn keep_bounded(service: KvService, keep_revisions: u64) {
    let mut ticks = tokio::time::interval(Duration::from_millis(CHECK_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if service.route() != Route::Local {
            continue;
        }
        let reader = &service.0.parts.reader;
        let (newest, oldest) = (reader.revision().0, reader.compacted_revision().0);
        if newest.saturating_sub(oldest) <= keep_revisions + keep_revisions / 10 {
            continue;
        }
        let revision = Revision(newest - keep_revisions);
        if let Err(error) = compact(&service, revision).await {
            tracing::warn!("the history up to revision {revision} was not compacted: {error}");
        }
    }
}

/// Compacts in steps until all up to `revision` is forgotten.
///
/// # Errors
/// Those of a write, and [`KvError::FutureRevision`].
async fn compact(service: &KvService, revision: Revision) -> Result<(), KvError> {
    // A step that is not the last answers that it did not succeed.
    while !service.write(Command::new(WriteOp::Compact { revision })).await?.succeeded {}
    Ok(())
}
