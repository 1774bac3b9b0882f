//! What goes over the network, and the record of it.

use std::collections::HashMap;

use aspen::kv::types::NodeId;
use aspen::raft::types::{LogId, TypeConfig, Vote};
use openraft::raft::{TransferLeaderRequest, VoteRequest};

/// Messages that one test may have on record. One that sends more has run away.
const RECORDED_MAX_MESSAGES: usize = 1_000_000;

/// Kinds of RPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RpcKind {
    /// Entries, or a commit index, on the stream for replication.
    Append,
    /// The same message without entries, on the line for heartbeats.
    Heartbeat,
    /// A request for a vote.
    Vote,
    /// A question whether a vote would be given.
    PreVote,
    /// A whole snapshot.
    Snapshot,
    /// A leader hands over.
    TransferLeader,
    /// A client's request that a member forwards.
    Forward,
}

/// An RPC on its way.
#[derive(Clone, Debug)]
pub struct Rpc {
    /// The node that sends it.
    pub from: NodeId,
    /// The node that it is addressed to.
    pub to: NodeId,
    /// What it says.
    pub message: Message,
}

/// What an RPC says.
#[derive(Clone, Debug)]
pub enum Message {
    /// Entries to append.
    Append {
        /// Whether it came on the line for heartbeats.
        heartbeat: bool,
        /// The leader's vote.
        vote: Vote,
        /// The entry in front of the first.
        prev: Option<LogId>,
        /// The entries.
        entries: Vec<LogId>,
    },
    /// A request for a vote.
    Vote(VoteRequest<TypeConfig>),
    /// A question whether a vote would be given.
    PreVote(VoteRequest<TypeConfig>),
    /// A snapshot.
    Snapshot {
        /// The leader's vote.
        vote: Vote,
    },
    /// A leader hands over.
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    /// A client's request.
    Forward,
}

impl Rpc {
    /// Its kind.
    pub fn kind(&self) -> RpcKind {
        match &self.message {
            Message::Append { heartbeat: true, .. } => RpcKind::Heartbeat,
            Message::Append { .. } => RpcKind::Append,
            Message::Vote(_) => RpcKind::Vote,
            Message::PreVote(_) => RpcKind::PreVote,
            Message::Snapshot { .. } => RpcKind::Snapshot,
            Message::TransferLeader(_) => RpcKind::TransferLeader,
            Message::Forward => RpcKind::Forward,
        }
    }

    /// The vote in whose name it is sent.
    pub fn vote(&self) -> Option<Vote> {
        match &self.message {
            Message::Append { vote, .. } | Message::Snapshot { vote } => Some(*vote),
            Message::Vote(request) | Message::PreVote(request) => Some(request.vote),
            Message::TransferLeader(request) => Some(*request.from_leader()),
            Message::Forward => None,
        }
    }

    /// The entries that it carries.
    pub fn entries(&self) -> &[LogId] {
        match &self.message {
            Message::Append { entries, .. } => entries,
            _ => &[],
        }
    }
}

/// An RPC that reached a node.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where it came out.
    pub at: NodeId,
    /// What came.
    pub rpc: Rpc,
}

/// RPCs of one kind on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent off.
    pub sent: u64,
    /// Reached the other node.
    pub delivered: u64,
    /// Their answer came back.
    pub answered: u64,
}

/// Who got what.
#[derive(Default)]
pub struct Recorder {
    deliveries: Vec<Delivery>,
    counts: HashMap<(NodeId, NodeId, RpcKind), Counts>,
    misrouted: u64,
    /// Nodes that a service has let in no more.
    pub let_go: Vec<NodeId>,
}

impl Recorder {
    /// RPCs of a kind on a link.
    pub fn counts(&self, from: NodeId, to: NodeId, kind: RpcKind) -> Counts {
        self.counts.get(&(from, to, kind)).copied().unwrap_or_default()
    }

    /// What reached a node, in order.
    pub fn delivered_to(&self, id: NodeId) -> Vec<Delivery> {
        self.deliveries.iter().filter(|delivery| delivery.at == id).cloned().collect()
    }

    /// RPCs that came out at another node than they were sent to.
    pub fn misrouted(&self) -> u64 {
        self.misrouted
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn sent(&mut self, rpc: &Rpc) {
        self.counts_mut(rpc).sent += 1;
    }

    pub(super) fn delivered(&mut self, at: NodeId, rpc: &Rpc) {
        self.counts_mut(rpc).delivered += 1;
        assert!(self.deliveries.len() < RECORDED_MAX_MESSAGES, "the test sends without end");
        self.deliveries.push(Delivery { at, rpc: rpc.clone() });
    }

    pub(super) fn answered(&mut self, rpc: &Rpc) {
        self.counts_mut(rpc).answered += 1;
    }

    pub(super) fn came_out_wrong(&mut self) {
        self.misrouted += 1;
    }

    fn counts_mut(&mut self, rpc: &Rpc) -> &mut Counts {
        self.counts.entry((rpc.from, rpc.to, rpc.kind())).or_default()
    }
}
