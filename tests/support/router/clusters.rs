//! Making clusters, their leaders and their members, and waiting until all agree.

use std::collections::BTreeMap;
use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::raft::observe::Metrics;
use openraft::ServerState;

use super::{AspenRouter, PATIENCE, ids, index, info};

impl AspenRouter {
    /// Makes a cluster of these voters, led by `id`, which is one of them.
    pub async fn initialize(&self, id: u64, voters: &[u64]) {
        let members: BTreeMap<_, _> = voters.iter().map(|id| (NodeId(*id), info(*id))).collect();
        self.raft(id).initialize(members).await.expect("a pristine node can be initialized");
        self.lead(id).await;
    }

    /// Adds a node without a vote and waits until it has caught up. Returns the index of the change.
    pub async fn add_learner(&self, leader: u64, id: u64) -> u64 {
        // openraft's own wait ends at a lag that it would take for none.
        let added = self.raft(leader).add_learner(NodeId(id), info(id), false);
        let added = tokio::time::timeout(PATIENCE, added).await.expect("the change ends");
        let last = added.expect("the leader adds it").log_id.index;
        self.await_applied(&[id], last).await;
        last
    }

    /// Changes the voters, and waits until the change is through. Returns the index of its last entry.
    pub async fn change_voters(&self, leader: u64, voters: &[u64]) -> u64 {
        let changed = self.raft(leader).change_membership(ids(voters), true);
        let changed = tokio::time::timeout(PATIENCE, changed).await.expect("the change ends");
        changed.expect("the leader changes the voters").log_id.index
    }

    /// Starts nodes and makes a cluster of them, led by the first voter. Returns the last log index,
    /// which all have applied.
    pub async fn new_cluster(&mut self, voters: &[u64], learners: &[u64]) -> u64 {
        self.add_nodes(voters).await;
        self.add_nodes(learners).await;
        let leader = voters[0];
        self.initialize(leader, voters).await;
        let mut last = self.wait_applied_own(leader).await;
        for learner in learners {
            last = self.add_learner(leader, *learner).await;
        }
        let all: Vec<_> = voters.iter().chain(learners).copied().collect();
        self.await_applied(&all, last).await;
        last
    }

    /// Has a node stand for election until it leads. Returns its term.
    pub async fn elect(&self, id: u64) -> u64 {
        let until = tokio::time::Instant::now() + PATIENCE;
        let patience = Duration::from_millis(self.settings.timings.election_timeout_max_ms);
        while tokio::time::Instant::now() < until {
            self.raft(id).trigger().elect(false).await.expect("Raft runs");
            let won = self.raft(id).wait(Some(patience)).state(ServerState::Leader, "elected").await;
            if let Ok(metrics) = won {
                return metrics.current_term;
            }
        }
        panic!("node {id} was not elected within {PATIENCE:?}; it is {}", self.metrics(id));
    }

    /// Hands the leadership over, and waits until both agree on it.
    pub async fn transfer(&self, from: u64, to: u64) {
        self.raft(from).trigger().transfer_leader(NodeId(to)).await.expect("Raft runs");
        let led = self.wait(to).state(ServerState::Leader, "it takes over").await;
        led.expect("the leadership is handed over");
        self.await_leader(&[from, to], to).await;
        self.wait_applied_own(to).await;
    }

    /// Waits until a node that was just initialized leads.
    async fn lead(&self, id: u64) {
        let patience = Duration::from_millis(self.settings.timings.election_timeout_max_ms);
        let first = self.raft(id).wait(Some(patience)).state(ServerState::Leader, "elected").await;
        // On a busy machine the answers to its first request for votes can come too late.
        if first.is_err() {
            self.elect(id).await;
        }
    }

    /// Waits until a leader has applied all that is in its log. Returns the last index.
    pub async fn wait_applied_own(&self, leader: u64) -> u64 {
        let whole = |metrics: &Metrics| {
            metrics.state == ServerState::Leader && index(metrics.last_applied) == metrics.last_log_index
        };
        let applied = self.wait(leader).metrics(whole, "the leader has applied its log").await;
        applied.expect("the leader applies its log").last_log_index.expect("a leader's log is not empty")
    }

    /// Waits until nodes have applied at least as far as `index`.
    pub async fn await_applied(&self, ids: &[u64], index: u64) {
        for id in ids {
            let applied = self.wait(*id).applied_index_at_least(Some(index), "applied").await;
            applied.unwrap_or_else(|error| panic!("node {id}: {error}"));
        }
    }

    /// Waits until nodes name the same leader.
    pub async fn await_leader(&self, ids: &[u64], leader: u64) {
        for id in ids {
            let known = self.wait(*id).current_leader(NodeId(leader), "the leader is known").await;
            known.unwrap_or_else(|error| panic!("node {id}: {error}"));
        }
    }

    /// Waits until one of these nodes leads and the others know it.
    pub async fn await_any_leader(&self, ids: &[u64]) -> u64 {
        let among = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| ids.contains(&leader.0));
        let known = self.wait(ids[0]).metrics(among, "a leader among them").await;
        let leader = known.expect("a leader is elected").current_leader.expect("it was just seen").0;
        self.await_leader(ids, leader).await;
        leader
    }
}
