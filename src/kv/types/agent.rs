//! What the agent of a node can be asked for, and what it answers.
//!
//! Requests and answers go from node to node as JSON: a node ignores fields that it does not know, and
//! says of a request that it does not know so, whichever of the two is newer.

use serde::{Deserialize, Serialize};

use super::{ClusterStatus, DiskStatus, NodeId, NodeState, Revision, Role};

/// What an agent is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentRequest {
    /// How the node is.
    Report,
    /// Make a snapshot of the state now.
    Snapshot,
    /// Copy the state into a smaller file.
    CompactFiles,
    /// Stand for election.
    Elect,
    /// Hand the leadership over.
    TransferLeader {
        /// To this voter; to the fittest if absent.
        to: Option<NodeId>,
    },
    /// Log by another filter.
    SetLogFilter {
        /// The filter; the configured one if absent.
        filter: Option<String>,
    },
    /// All that somebody needs who is to find out what is wrong.
    SupportBundle,
}

/// An agent's answer to a request of the same kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentReply {
    /// How the node is.
    Report(Box<NodeReport>),
    /// The snapshot was made.
    Snapshot(SnapshotMade),
    /// The file was made smaller.
    CompactFiles(FilesCompacted),
    /// How the election went.
    Elect(Election),
    /// Another node leads.
    TransferLeader(Election),
    /// The filter is in force.
    SetLogFilter(LogFilterSet),
    /// The bundle, a JSON object.
    SupportBundle(serde_json::Value),
}

/// A node, as its own agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The version of Aspen that it runs.
    pub version: String,
    /// Time since its process started, in seconds.
    pub uptime_s: u64,
    /// What it can do.
    pub state: NodeState,
    /// The state in a sentence.
    pub detail: String,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader that it follows, or itself.
    pub leader: Option<NodeId>,
    /// The store's revision on it.
    pub revision: Revision,
    /// Last index of its log.
    pub last_log_index: Option<u64>,
    /// Last index that it knows to be committed.
    pub committed_index: Option<u64>,
    /// Last index that it has applied.
    pub applied_index: Option<u64>,
    /// Last index in its newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Entries that are committed and that it has not applied.
    pub lag_entries: u64,
    /// Its disk; absent if it does not watch it.
    pub disk: Option<DiskStatus>,
    /// What its state takes up on disk; absent if that is in memory.
    pub state_bytes: Option<u64>,
    /// What it logs.
    pub log_filter: String,
    /// How it reaches the others.
    pub peers: Vec<PeerPath>,
}

impl NodeReport {
    /// Counts its lag from the newest entry that any node knows to be committed.
    pub fn count_lag_from(&mut self, committed: Option<u64>) {
        let behind = |index: Option<u64>| index.map_or(0, |index| index + 1);
        self.lag_entries = behind(committed).saturating_sub(behind(self.applied_index));
    }
}

/// What leads from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathType {
    /// Packets go straight to the other node.
    Direct,
    /// They go through a relay.
    Relay,
}

/// The way from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPath {
    /// The other node.
    pub node_id: NodeId,
    /// What the path in use is; absent if there is no connection.
    pub path_type: Option<PathType>,
    /// The address or the relay that it leads to.
    pub path: Option<String>,
    /// The time of a round trip on it, in microseconds.
    pub rtt_us: Option<u64>,
    /// Why the last attempt to connect failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A member as one node gets to see it: its own word, or since when there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The member.
    pub node_id: NodeId,
    /// Whether its agent answered.
    pub reachable: bool,
    /// When it was last known to be reachable, or when this process began to look for it: milliseconds
    /// since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_since_ms: Option<u64>,
    /// Why it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<NodeReport>,
}

/// The cluster as one node sees it, and each member by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterOverview {
    /// The cluster as the answering node sees it.
    #[serde(flatten)]
    pub status: ClusterStatus,
    /// All members, by id. Empty in the answer of an older node.
    #[serde(default)]
    pub nodes: Vec<NodeView>,
}

/// A snapshot was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMade {
    /// The node.
    pub node_id: NodeId,
    /// The last log index that the snapshot covers; absent where nothing has been applied.
    pub snapshot_index: Option<u64>,
}

/// The file of the state was made smaller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesCompacted {
    /// The node.
    pub node_id: NodeId,
    /// What it took up before.
    pub before_bytes: u64,
    /// What it takes up now.
    pub after_bytes: u64,
}

/// Who leads after an operation that may have changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The node that was asked.
    pub node_id: NodeId,
    /// Whom it knows to lead.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: u64,
}

/// A log filter is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilterSet {
    /// The node.
    pub node_id: NodeId,
    /// What is logged now.
    pub filter: String,
    /// What was logged before.
    pub before: String,
}

/// Why an agent did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentError {
    /// The node is no member.
    #[error("node {node_id} is no member of the cluster")]
    NotAMember {
        /// The node.
        node_id: NodeId,
    },
    /// There is no way to the node's agent. Nothing was sent.
    #[error("the agent of node {node_id} cannot be reached: {reason}")]
    Unreachable {
        /// The node.
        node_id: NodeId,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
        /// Why.
        reason: String,
    },
    /// The agent did not answer.
    #[error(
        "the agent of node {node_id} did not answer within {waited_ms} ms; what was asked for may be done yet"
    )]
    NoAnswer {
        /// The node.
        node_id: NodeId,
        /// How long was waited.
        waited_ms: u64,
    },
    /// More requests at a time than an agent takes.
    #[error("{in_work} requests to the agent of node {node_id} are in work, the most at a time")]
    Busy {
        /// The node.
        node_id: NodeId,
        /// How many.
        in_work: usize,
    },
    /// The node runs a version that does not know the request, or answers it otherwise.
    #[error("node {node_id} runs version {version}, which does not know this request: {reason}")]
    NotUnderstood {
        /// The node.
        node_id: NodeId,
        /// Its version.
        version: String,
        /// What is wrong.
        reason: String,
    },
    /// A filter that makes no sense.
    #[error("the log filter '{filter}' is refused: {reason}")]
    BadLogFilter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Only a leader can hand over.
    #[error("node {node_id} does not lead{}", leader_hint(*.leader))]
    NotLeading {
        /// The node.
        node_id: NodeId,
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// The leadership cannot go there.
    #[error("node {to} is no voter that node {node_id} could hand the leadership to")]
    NotAVoter {
        /// The node that leads.
        node_id: NodeId,
        /// The node that should.
        to: NodeId,
    },
    /// The leadership stayed where it was.
    #[error("node {node_id} leads on: {reason}")]
    NotHandedOver {
        /// The node that leads.
        node_id: NodeId,
        /// Why.
        reason: String,
    },
    /// It was begun and is not done yet.
    #[error("{what} on node {node_id} was begun and is not done after {waited_ms} ms; it may be done yet")]
    NotDone {
        /// The node.
        node_id: NodeId,
        /// What was begun.
        what: String,
        /// How long was waited.
        waited_ms: u64,
    },
    /// It failed.
    #[error("{what} on node {node_id} failed: {reason}")]
    Failed {
        /// The node.
        node_id: NodeId,
        /// What was tried.
        what: String,
        /// Why.
        reason: String,
    },
    /// The chosen control backend has no agents.
    #[error("the control backend '{backend}' has no agents on its nodes")]
    UnsupportedByBackend {
        /// The backend.
        backend: String,
    },
}

impl AgentError {
    /// The error's stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAMember { .. } => "unknown_node",
            Self::Unreachable { .. } => "node_unreachable",
            Self::NoAnswer { .. } => "node_silent",
            Self::Busy { .. } => "node_busy",
            Self::NotUnderstood { .. } => "node_version",
            Self::BadLogFilter { .. } => "bad_log_filter",
            Self::NotLeading { .. } => "not_leading",
            Self::NotAVoter { .. } => "not_a_voter",
            Self::NotHandedOver { .. } => "not_handed_over",
            Self::NotDone { .. } => "not_done",
            Self::Failed { .. } => "node_failed",
            Self::UnsupportedByBackend { .. } => "unsupported_by_backend",
        }
    }

    /// What to do about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::NotAMember { .. } => "name a member; GET /cluster lists them",
            Self::Unreachable { .. } => "look at the node and at the network to it, or ask another member",
            Self::NoAnswer { .. } | Self::NotDone { .. } => "look at GET /cluster to see what became of it",
            Self::Busy { .. } => "try again in a moment",
            Self::NotUnderstood { .. } => "bring all nodes to the same version",
            Self::BadLogFilter { .. } => "give a filter such as info,aspen::transport=debug",
            Self::NotLeading { .. } => "ask the node that leads",
            Self::NotAVoter { .. } => "name a voter other than the leader; GET /cluster lists them",
            Self::NotHandedOver { .. } => "see with `aspen member list` which voters answer, and try again",
            Self::UnsupportedByBackend { .. } => "use the control backend 'raft' for it",
            Self::Failed { .. } => "do what the reason says; the node's log may say more",
        }
    }
}

fn leader_hint(leader: Option<NodeId>) -> String {
    leader.map_or_else(String::new, |leader| format!(", node {leader} does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_from_the_newest_entry_that_is_known_anywhere() {
        let text = r#"{"version":"1","uptime_s":1,"state":"serving","detail":"","role":"follower","term":1,
            "leader":1,"revision":1,"last_log_index":9,"committed_index":7,"applied_index":7,
            "snapshot_index":null,"lag_entries":0,"disk":null,"state_bytes":null,"log_filter":"info",
            "peers":[],"a field of a newer version":1}"#;
        let mut report: NodeReport = serde_json::from_str(text).unwrap();
        report.count_lag_from(Some(12));
        assert_eq!(report.lag_entries, 5);
        report.count_lag_from(Some(3));
        assert_eq!(report.lag_entries, 0, "the others know less");
        report.applied_index = None;
        report.count_lag_from(Some(0));
        assert_eq!(report.lag_entries, 1);
    }

    #[test]
    fn a_request_that_is_not_known_is_an_error_and_no_panic() {
        let request = serde_json::from_str::<AgentRequest>(r#"{"make_coffee":{}}"#);
        assert!(request.unwrap_err().to_string().contains("make_coffee"));
    }
}
