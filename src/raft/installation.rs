//! Installing a snapshot that a leader has sent.
//!
//! Raft acknowledges a snapshot at once if it covers nothing that is not committed here already. The
//! leader takes that for entries on disk; they may still be on their way there, and a crash would lose
//! what was acknowledged. So the answer waits for the disk.
//!
//! # Tiger Style
//! The wait ends after [`limits::SNAPSHOT_ACK_WAIT_MS`], with an error for the leader.

use std::time::{Duration, Instant};

use openraft::alias::SnapshotOf;
use openraft::raft::SnapshotResponse;

use super::RaftHandle;
use super::types::{TypeConfig, Vote};
use crate::limits;
use crate::storage::snapshot::SnapshotData;
use crate::storage::state::StateReader;

/// Installs a snapshot, and returns once what it covers is on disk.
///
/// # Errors
/// In a sentence for the leader: Raft has stopped, or the disk is too slow.
pub async fn install(
    raft: &RaftHandle,
    reader: &StateReader,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    let covered = snapshot.meta.last_log_id.map(|log_id| log_id.index);
    let response = raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
    // A higher vote is a refusal: nothing was installed.
    let Some(covered) = covered.filter(|_| response.vote <= vote) else { return Ok(response) };
    let began = Instant::now();
    while !reader.is_on_disk(covered) {
        if began.elapsed() >= Duration::from_millis(limits::SNAPSHOT_ACK_WAIT_MS) {
            return Err(format!("the log up to {covered} is not on disk after {:?}", began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(limits::FLUSH_POLL_INTERVAL_MS)).await;
    }
    Ok(response)
}
