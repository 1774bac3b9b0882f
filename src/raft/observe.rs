//! What a node's Raft metrics say: who leads, whether a quorum follows, how far it has got.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};

use super::RaftHandle;
use super::construct::RaftTimings;
use super::types::TypeConfig;
use crate::kv::types::{NodeId, Role};

/// A node's view of its Raft at one moment.
pub type Metrics = RaftMetrics<TypeConfig>;

/// Where a request has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// This node leads, and a quorum has followed it lately.
    Local,
    /// Another node leads, as far as this one knows.
    Remote(NodeId),
    /// Nobody leads right now, for this reason.
    NoLeader(String),
    /// The node belongs to no cluster.
    NotInitialized,
    /// Raft has stopped for good.
    Stopped(String),
}

/// The newest metrics, to keep.
pub fn metrics(raft: &RaftHandle) -> Metrics {
    look(raft, Metrics::clone)
}

/// Looks at the newest metrics, without a copy. Raft waits while it looks.
pub fn look<T>(raft: &RaftHandle, at: impl FnOnce(&Metrics) -> T) -> T {
    at(&raft.metrics().borrow_watched())
}

/// Decides where a request has to go.
pub fn route(metrics: &Metrics, timings: &RaftTimings) -> Route {
    if let Err(fatal) = &metrics.running_state {
        return Route::Stopped(fatal.to_string());
    }
    if !is_initialized(metrics) {
        return Route::NotInitialized;
    }
    match metrics.current_leader {
        Some(leader) if leader != metrics.id => Route::Remote(leader),
        // A leader that has restarted still finds its own vote, and leads no more.
        Some(_) if metrics.state != ServerState::Leader => Route::NoLeader(format!(
            "node {} led in term {} before it was started again, and nobody leads since, as far as it knows",
            metrics.id, metrics.current_term
        )),
        Some(_) => match quorum_lost_for(metrics, timings) {
            None => Route::Local,
            Some(lost) => Route::NoLeader(format!(
                "node {} leads, but no majority of the voters has answered it for {} ms",
                metrics.id,
                lost.as_millis()
            )),
        },
        None => Route::NoLeader(format!(
            "node {} knows no leader in term {}; voters are {}",
            metrics.id,
            metrics.current_term,
            join(metrics.membership_config.voter_ids())
        )),
    }
}

/// Whether a member has answered this node, which leads, lately. A leader answers itself.
pub fn answers(metrics: &Metrics, node_id: NodeId, within: Duration) -> bool {
    let heard = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&node_id)?.as_ref());
    node_id == metrics.id || heard.is_some_and(|heard| Instant::elapsed(&**heard) <= within)
}

/// Whether the node belongs to a cluster.
pub fn is_initialized(metrics: &Metrics) -> bool {
    metrics.membership_config.voter_ids().next().is_some()
}

/// The node's part in the cluster.
pub fn role(metrics: &Metrics) -> Role {
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    }
}

/// Time since a quorum last answered this leader, if that is longer than it may be.
fn quorum_lost_for(metrics: &Metrics, timings: &RaftTimings) -> Option<Duration> {
    if metrics.membership_config.voter_ids().all(|voter| voter == metrics.id) {
        return None;
    }
    // A leader without any acknowledgement has just been elected, by a quorum.
    let silent = Instant::elapsed(&**metrics.last_quorum_acked.as_ref()?);
    (silent > Duration::from_millis(timings.quorum_lost_after_ms())).then_some(silent)
}

/// Numbers with commas between them, for sentences.
pub fn join(ids: impl Iterator<Item = NodeId>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}
