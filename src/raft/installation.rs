//! Installing a snapshot that a leader has sent.
//!
//! Raft acknowledges a snapshot at once if it covers nothing that is not committed here already. The
//! leader takes that for entries on disk; they may still be on their way there, and a crash would lose
//! what was acknowledged. So the answer waits for the disk.
//!
//! A snapshot of what the log has is not installed.
//!
//! # Tiger Style
//! The wait ends after [`limits::SNAPSHOT_ACK_WAIT_MS`], with an error for the leader.

use std::time::{Duration, Instant};

use openraft::alias::SnapshotOf;
use openraft::raft::SnapshotResponse;

use super::RaftHandle;
use super::types::{LogId, TypeConfig, Vote};
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
    let response = if is_in_log(raft, vote, snapshot.meta.last_log_id).await? {
        SnapshotResponse::new(vote)
    } else {
        raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?
    };
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

/// Whether the log has the snapshot's last entry already, under the same leader. Its answers to that may
/// have got lost; then the leader may purge what it takes for missing here, and send a snapshot. The log
/// leads to the same state, and nothing of it is lost by waiting for the leader to say that it is committed.
///
/// Raft would install it, and say that its log goes no further than the snapshot: in a debug build it
/// takes that for a broken invariant.
async fn is_in_log(raft: &RaftHandle, vote: Vote, last: Option<LogId>) -> Result<bool, String> {
    let Some(last) = last else { return Ok(false) };
    raft.with_raft_state(move |state| {
        *state.vote_ref() == vote && state.log_ids.get(last.index) == Some(last)
    })
    .await
    .map_err(|error| error.to_string())
}
