//! The metrics of a Hiqlite node, of which there is one shape: what the node itself gives, and what its API
//! answers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::kv::types::{BackendAddresses, Member, MembershipChanged, NodeId, Role};
use crate::limits;

/// A Hiqlite node, as it sees its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct View {
    id: u64,
    current_term: u64,
    last_log_index: Option<u64>,
    last_applied: Option<LogId>,
    snapshot: Option<LogId>,
    purged: Option<LogId>,
    state: State,
    current_leader: Option<u64>,
    millis_since_quorum_ack: Option<u64>,
    membership_config: Stored,
    replication: Option<BTreeMap<u64, Option<LogId>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct LogId {
    index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum State {
    Learner,
    Follower,
    Candidate,
    Leader,
    Shutdown,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Stored {
    log_id: Option<LogId>,
    membership: Config,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Config {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Addresses>,
}

/// Where a Hiqlite node listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Addresses {
    /// For the other nodes.
    pub addr_raft: String,
    /// For clients and management.
    pub addr_api: String,
}

impl View {
    /// The node that says so.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.id)
    }

    /// Its term.
    pub fn term(&self) -> u64 {
        self.current_term
    }

    /// The leader, if a majority follows it as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        let is_deserted = self.current_leader == Some(self.id)
            && self.millis_since_quorum_ack.is_some_and(|ms| ms > limits::HIQLITE_QUORUM_LOST_AFTER_MS);
        self.current_leader.filter(|_| !is_deserted).map(NodeId)
    }

    /// Its part.
    pub fn role(&self) -> Role {
        match self.state {
            State::Leader => Role::Leader,
            State::Follower => Role::Follower,
            State::Candidate => Role::Candidate,
            State::Learner | State::Shutdown => Role::Learner,
        }
    }

    /// Whether it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Shutdown
    }

    /// Time since a majority answered it, where it leads.
    pub fn since_quorum_ms(&self) -> Option<u64> {
        self.millis_since_quorum_ack.filter(|_| self.state == State::Leader)
    }

    /// Last indexes of its log, its state, its snapshot, and what was purged.
    pub(super) fn indexes(&self) -> [Option<u64>; 4] {
        let index = |id: &Option<LogId>| id.map(|id| id.index);
        [self.last_log_index, index(&self.last_applied), index(&self.snapshot), index(&self.purged)]
    }

    pub(super) fn last_log_index(&self) -> u64 {
        self.last_log_index.unwrap_or(0)
    }

    /// How far a member's log is known to be; only the leader knows.
    pub(super) fn matched_index(&self, node_id: NodeId) -> Option<u64> {
        self.replication.as_ref()?.get(&node_id.0)?.map(|id| id.index)
    }

    pub(super) fn is_member(&self, id: NodeId) -> bool {
        self.membership_config.membership.nodes.contains_key(&id.0)
    }

    pub(super) fn addresses(&self, id: NodeId) -> Option<&Addresses> {
        self.membership_config.membership.nodes.get(&id.0)
    }

    /// Who votes.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.membership_config.membership.configs.iter().flatten().copied().map(NodeId).collect()
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.membership_config.membership.nodes.keys().copied().map(NodeId)
    }

    /// The membership, as the answer to a change of it.
    pub(super) fn membership(&self) -> MembershipChanged {
        let voters = self.voters();
        MembershipChanged {
            learners: self.ids().filter(|id| !voters.contains(id)).collect(),
            log_index: self.membership_config.log_id.map_or(0, |id| id.index),
            voters,
        }
    }

    /// All members.
    pub(super) fn members(&self) -> Vec<Member> {
        let voters = self.voters();
        let nodes = self.membership_config.membership.nodes.iter();
        nodes.map(|(id, addresses)| self.member(NodeId(*id), addresses, &voters)).collect()
    }

    fn member(&self, node_id: NodeId, addresses: &Addresses, voters: &BTreeSet<NodeId>) -> Member {
        let role = if self.leader() == Some(node_id) {
            Role::Leader
        } else if voters.contains(&node_id) {
            Role::Follower
        } else {
            Role::Learner
        };
        Member {
            node_id,
            role,
            public_key: None,
            addresses: [&addresses.addr_raft, &addresses.addr_api]
                .into_iter()
                .filter_map(|addr| addr.parse().ok())
                .collect(),
            relay_url: None,
            http_addr: None,
            backend: Some(BackendAddresses {
                raft_addr: addresses.addr_raft.clone(),
                api_addr: addresses.addr_api.clone(),
            }),
            matched_index: self.matched_index(node_id),
            last_heard_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a node of version 0.15.3 answers.
    const METRICS: &str = r#"{"running_state":{"Ok":null},"id":1,"current_term":3,
        "vote":{"leader_id":{"term":3,"node_id":1},"committed":true},"last_log_index":9,
        "last_applied":{"leader_id":{"term":3,"node_id":1},"index":9},"snapshot":null,"purged":null,
        "state":"Leader","current_leader":1,"millis_since_quorum_ack":12,
        "membership_config":{"log_id":{"leader_id":{"term":3,"node_id":1},"index":7},
          "membership":{"configs":[[1,2]],"nodes":{
            "1":{"id":1,"addr_raft":"127.0.0.1:1","addr_api":"127.0.0.1:2"},
            "2":{"id":2,"addr_raft":"n2.example:1","addr_api":"n2.example:2"},
            "3":{"id":3,"addr_raft":"n3.example:1","addr_api":"n3.example:2"}}}},
        "replication":{"1":null,"2":{"leader_id":{"term":3,"node_id":1},"index":8}}}"#;

    #[test]
    fn metrics_are_read_as_a_node_gives_them() {
        let view: View = serde_json::from_str(METRICS).unwrap();
        assert_eq!((view.leader(), view.role(), view.term()), (Some(NodeId(1)), Role::Leader, 3));
        let roles: Vec<Role> = view.members().iter().map(|member| member.role).collect();
        assert_eq!(roles, [Role::Leader, Role::Follower, Role::Learner]);
        assert_eq!(view.members()[1].matched_index, Some(8));
        assert_eq!(view.membership().log_index, 7);
        assert_eq!(view.membership().learners, [NodeId(3)].into());
    }

    #[test]
    fn a_leader_that_no_majority_answers_leads_nobody() {
        let text = METRICS.replace("\"millis_since_quorum_ack\":12", "\"millis_since_quorum_ack\":60000");
        let view: View = serde_json::from_str(&text).unwrap();
        assert_eq!(view.leader(), None);
    }
}
