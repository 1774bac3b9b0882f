//! The cluster as an operator sees it: members, roles, progress, and changes to them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{ClusterId, NodeId, NodeInfo, PublicKey, Revision};

/// A node that can be talked to: what a ticket holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node's id.
    pub node_id: NodeId,
    /// Its key and addresses.
    pub info: NodeInfo,
}

/// A member's part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Voter that leads.
    Leader,
    /// Voter that follows.
    Follower,
    /// Voter that stands for election.
    Candidate,
    /// Replicates without a vote.
    Learner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        })
    }
}

/// What a node can do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It belongs to no cluster yet and waits for `init`, or for a leader that adds it.
    WaitingForInit,
    /// It replays its log after a start.
    Recovering,
    /// It knows no leader that a quorum follows: reads and writes must wait.
    NoLeader,
    /// It serves.
    Serving,
    /// It stops.
    Stopping,
    /// Its disk does not finish a write: it can keep nothing, and lags behind the others.
    DiskStalled,
    /// It follows, and its disk has no room for what the leader sends: it falls behind.
    DiskExhausted,
    /// It was removed: the members let it in no more.
    Removed,
}

impl NodeState {
    /// The state as a word, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForInit => "waiting_for_init",
            Self::Recovering => "recovering",
            Self::NoLeader => "no_leader",
            Self::Serving => "serving",
            Self::Stopping => "stopping",
            Self::DiskStalled => "disk_stalled",
            Self::DiskExhausted => "disk_exhausted",
            Self::Removed => "removed",
        }
    }
}

/// How a node's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// It has room and is quick enough.
    Well,
    /// A write has been under way for longer than is normal.
    Slow,
    /// Its reserve is touched: it takes deletes and compaction, but no write that adds data.
    Full,
    /// The reserve is all but used up as well: it takes nothing from clients, and no entries from a
    /// leader.
    Exhausted,
    /// A write has been under way for so long that the node must not lead, or was lately.
    Stalled,
}

impl DiskState {
    /// The state as a word, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Exhausted => "exhausted",
            Self::Stalled => "stalled",
        }
    }

    /// Whether a node with such a disk may lead while another could.
    pub fn may_lead(self) -> bool {
        matches!(self, Self::Well | Self::Slow)
    }
}

/// A node's disk, in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// How it is.
    pub state: DiskState,
    /// Bytes that are free on the data directory's file system; absent where data is in memory.
    pub free_bytes: Option<u64>,
    /// Bytes that are kept free of data; absent where data is in memory.
    pub reserve_bytes: Option<u64>,
    /// Time that the sync under way has taken so far, in milliseconds; 0 if there is none.
    pub sync_ms: u64,
}

/// Where a node of a backend with addresses of its own listens: a host and a port each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendAddresses {
    /// For the other nodes.
    pub raft_addr: String,
    /// For clients and management.
    pub api_addr: String,
}

/// One member as another node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node_id: NodeId,
    /// Its part, as far as the answering node knows.
    pub role: Role,
    /// The key that its connections prove; none on a backend whose nodes prove shared secrets.
    pub public_key: Option<PublicKey>,
    /// Where it was reachable last.
    pub addresses: Vec<SocketAddr>,
    /// The relay that it can be reached through.
    pub relay_url: Option<String>,
    /// Where its HTTP API listens, as a hint for clients.
    pub http_addr: Option<SocketAddr>,
    /// Where the backend `hiqlite` reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendAddresses>,
    /// The last log index known to be on its disk; only a leader knows.
    pub matched_index: Option<u64>,
    /// Time since the leader last heard from it, in milliseconds; only a leader knows.
    pub last_heard_ms: Option<u64>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The answering node.
    pub node_id: NodeId,
    /// Its cluster, once it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// What it can do.
    pub state: NodeState,
    /// The state in a sentence, with what to do where something is to be done.
    pub detail: String,
    /// Its part.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader that it follows, or itself.
    pub leader: Option<NodeId>,
    /// The store's revision on this node.
    pub revision: Revision,
    /// The oldest revision that can still be read on this node.
    pub compacted_revision: Revision,
    /// Last index of its log.
    pub last_log_index: Option<u64>,
    /// Last index that it knows to be committed.
    pub committed_index: Option<u64>,
    /// Last index that it has applied.
    pub applied_index: Option<u64>,
    /// Last index in its newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Last index purged from its log.
    pub purged_index: Option<u64>,
    /// Its disk. Absent in the answer of a node that does not watch it.
    #[serde(default)]
    pub disk: Option<DiskStatus>,
    /// All members, by id.
    pub members: Vec<Member>,
}

/// A change to who belongs to the cluster and who votes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The voters afterwards. Each must be a member already; a voter that is not named becomes a
    /// learner. Absent: the voters stay, less those that are removed.
    pub voters: Option<BTreeSet<NodeId>>,
    /// Members that leave the cluster altogether.
    pub remove: BTreeSet<NodeId>,
    /// Do it although too few of the voters afterwards would answer.
    pub force: bool,
}

/// The membership after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChanged {
    /// Who votes now.
    pub voters: BTreeSet<NodeId>,
    /// Who replicates without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The log index of the change; in the answer of a node that was removed by it, that of the last one that it
    /// was told of.
    pub log_index: u64,
}

impl MembershipChanged {
    /// The same after some have left.
    pub(crate) fn without(mut self, gone: &BTreeSet<NodeId>) -> Self {
        self.voters.retain(|node_id| !gone.contains(node_id));
        self.learners.retain(|node_id| !gone.contains(node_id));
        self
    }
}
