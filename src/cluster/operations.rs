//! What an agent does to its node.

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::agent::AgentParts;
use crate::kv::types::{
    AgentError, ClusterError, Election, FilesCompacted, LogFilterSet, NodeId, SnapshotMade,
};
use crate::limits;
use crate::raft::RaftHandle;
use crate::raft::observe::{self, Metrics};

/// Makes a snapshot of all that is applied by now.
pub(super) async fn snapshot(parts: &AgentParts, bound: Duration) -> Result<SnapshotMade, AgentError> {
    const WHAT: &str = "a snapshot";
    let node_id = parts.node_id();
    let applied = observe::metrics(&parts.raft).last_applied.map(|log_id| log_id.index());
    let covered = |metrics: &Metrics| metrics.snapshot.as_ref().map(|log_id| log_id.index());
    let begun = parts.raft.trigger().snapshot().await;
    begun.map_err(|fatal| failed(node_id, WHAT, fatal))?;
    let made = watch(&parts.raft, bound, |metrics| covered(metrics) >= applied).await;
    let metrics = made.ok_or_else(|| not_done(node_id, WHAT, bound))?;
    Ok(SnapshotMade { node_id, snapshot_index: covered(&metrics) })
}

/// Copies the state into a file without free pages.
pub(super) async fn compact_files(parts: &AgentParts, bound: Duration) -> Result<FilesCompacted, AgentError> {
    const WHAT: &str = "making the state's file smaller";
    let node_id = parts.node_id();
    let reader = parts.reader.clone();
    // It goes on when its caller gives up, and is refused while it does.
    let shrinking = tokio::task::spawn_blocking(move || reader.shrink());
    let shrunk = tokio::time::timeout(bound, shrinking).await.map_err(|_| not_done(node_id, WHAT, bound))?;
    let shrunk = shrunk.map_err(|panic| failed(node_id, WHAT, panic))?;
    match shrunk.map_err(|error| failed(node_id, WHAT, error))? {
        Some(shrunk) => {
            Ok(FilesCompacted { node_id, before_bytes: shrunk.before_bytes, after_bytes: shrunk.after_bytes })
        }
        None => Err(failed(node_id, WHAT, "its state is in memory and has no file")),
    }
}

/// Has the node stand for election. It asks first whether a majority would vote for it, so a leader that a
/// majority hears stays.
pub(super) async fn elect(parts: &AgentParts, bound: Duration) -> Result<Election, AgentError> {
    let node_id = parts.node_id();
    let begun = parts.raft.trigger().elect(true).await;
    begun.map_err(|fatal| failed(node_id, "an election", fatal))?;
    // It is won within an election's time, or not at all.
    let bound = bound.min(Duration::from_millis(limits::AGENT_ELECTION_WAIT_MS));
    let won = watch(&parts.raft, bound, |metrics| metrics.current_leader == Some(node_id)).await;
    Ok(outcome(node_id, &won.unwrap_or_else(|| observe::metrics(&parts.raft))))
}

/// Hands the leadership over.
pub(super) async fn transfer_leader(
    parts: &AgentParts,
    to: Option<NodeId>,
    bound: Duration,
) -> Result<Election, AgentError> {
    const WHAT: &str = "handing the leadership over";
    let node_id = parts.node_id();
    let metrics = observe::metrics(&parts.raft);
    if metrics.state != ServerState::Leader {
        return Err(AgentError::NotLeading { node_id, leader: metrics.current_leader });
    }
    let handed_over = tokio::time::timeout(bound, parts.service.hand_over(to)).await;
    match handed_over.map_err(|_| not_done(node_id, WHAT, bound))? {
        Ok(leader) => {
            let outcome = outcome(node_id, &observe::metrics(&parts.raft));
            Ok(Election { leader: Some(leader), ..outcome })
        }
        Err(ClusterError::UnknownNode { node_id: to }) => Err(AgentError::NotAVoter { node_id, to }),
        Err(ClusterError::NotHandedOver { node_id, reason }) => {
            Err(AgentError::NotHandedOver { node_id, reason })
        }
        Err(error) => Err(failed(node_id, WHAT, error)),
    }
}

/// Changes what is logged.
pub(super) fn set_log_filter(parts: &AgentParts, filter: Option<&str>) -> Result<LogFilterSet, AgentError> {
    let node_id = parts.node_id();
    let refused = |reason: String| {
        let filter = filter.unwrap_or_default().chars().take(80).collect();
        AgentError::BadLogFilter { filter, reason }
    };
    if filter.is_some_and(|filter| filter.len() > limits::LOG_FILTER_MAX_BYTES) {
        return Err(refused(format!("it has more than {} bytes", limits::LOG_FILTER_MAX_BYTES)));
    }
    let (filter, before) = parts.host.set_log_filter(filter).map_err(refused)?;
    Ok(LogFilterSet { node_id, filter, before })
}

fn outcome(node_id: NodeId, metrics: &Metrics) -> Election {
    Election { node_id, leader: metrics.current_leader, term: metrics.current_term }
}

/// Waits until Raft's metrics fulfil a condition. None if they do not in time.
async fn watch(raft: &RaftHandle, bound: Duration, holds: impl Fn(&Metrics) -> bool) -> Option<Metrics> {
    let mut metrics = raft.metrics();
    let fulfilled = async {
        loop {
            let now = metrics.borrow_watched().clone();
            if holds(&now) {
                return Some(now);
            }
            metrics.changed().await.ok()?;
        }
    };
    tokio::time::timeout(bound, fulfilled).await.ok().flatten()
}

fn failed(node_id: NodeId, what: &str, reason: impl std::fmt::Display) -> AgentError {
    AgentError::Failed { node_id, what: what.to_owned(), reason: reason.to_string() }
}

fn not_done(node_id: NodeId, what: &str, bound: Duration) -> AgentError {
    let waited_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
    AgentError::NotDone { node_id, what: what.to_owned(), waited_ms }
}
