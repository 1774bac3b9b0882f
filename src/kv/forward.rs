//! What a member asks of the leader on behalf of its clients, and the two sides of asking.
//!
//! The transport carries these; the service calls [`Forwarder`] and implements [`ForwardHandler`].

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::types::{
    ClusterError, DiskStatus, JoinCall, MembershipChange, MembershipChanged, NodeId, Peer, PublicKey,
    SecretHash, TicketId, WriteReply,
};
use crate::raft::types::Proposal;

/// A request that only the leader can serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ForwardRequest {
    /// Commit and apply an encoded command.
    Propose(Proposal),
    /// Confirm leadership with a quorum and name the index that a linearizable read must wait for.
    ReadIndex,
    /// Add a node without a vote.
    AddLearner(Peer),
    /// Change voters and members.
    ChangeMembership(MembershipChange),
    /// Note how a member's disk is, by its own word.
    ReportDisk {
        /// The member.
        node_id: NodeId,
        /// Its disk.
        status: DiskStatus,
    },
    /// Take tickets with this secret.
    IssueTicket {
        /// Its hash.
        hash: SecretHash,
        /// For how long.
        ttl_ms: u64,
        /// How many nodes may come in with it.
        uses: u32,
    },
    /// Let a node in that has a ticket.
    Join(JoinCall),
    /// Hand the leadership over, to a certain voter or to the best.
    TransferLeader(Option<NodeId>),
    /// Take a ticket no more.
    RevokeTicket {
        /// The ticket.
        id: TicketId,
    },
}

/// The leader's answer; its variant follows that of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ForwardReply {
    /// The command was applied (or refused by the state machine, which is in the error).
    Proposed(WriteReply),
    /// The log index to wait for.
    ReadIndex(u64),
    /// The membership after the change.
    Membership(MembershipChanged),
    /// The report was noted.
    Noted,
    /// Tickets with the secret are taken.
    TicketIssued {
        /// Until then, in milliseconds of the Unix epoch.
        expires_at_ms: u64,
    },
    /// The node was let in.
    Joined {
        /// Its id.
        node_id: NodeId,
    },
    /// The leadership was handed over.
    Leads {
        /// Who leads.
        node_id: NodeId,
    },
    /// The ticket is taken no more.
    TicketRevoked,
}

/// The request got no answer from the other node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It certainly was not delivered: it is safe to send elsewhere.
    #[error("node {node_id} could not be reached: {reason}")]
    Unreachable {
        /// The other node.
        node_id: NodeId,
        /// What failed.
        reason: String,
    },
    /// It may have been delivered and may still take effect.
    #[error("node {node_id} gave no answer: {reason}")]
    NoAnswer {
        /// The other node.
        node_id: NodeId,
        /// What failed.
        reason: String,
    },
}

/// What a node was before it was introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquaintance {
    /// Nobody had heard of it, so that it is let in for its introduction alone.
    New,
    /// It was declared, or a member.
    Known,
}

/// Carries requests to another member.
#[async_trait]
pub trait Forwarder: Send + Sync + 'static {
    /// Makes a node known, so that it is let in, and checks that it answers as itself. A node that was new and
    /// does not answer is forgotten again. Ends within `timeout_ms`.
    ///
    /// # Errors
    /// [`ForwardError::Unreachable`].
    async fn introduce(&self, peer: &Peer, timeout_ms: u64) -> Result<Acquaintance, ForwardError>;

    /// Lets a node in no more that was introduced, unless it is a member.
    fn forget(&self, peer: &Peer);

    /// Asks `leader`. Ends within `timeout_ms`.
    ///
    /// # Errors
    /// [`ForwardError`] outside, if there is no answer; that of the leader inside.
    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError>;

    /// Says hello to a member, unless it has been met and stays within reach, and notes whether it lets this
    /// node in. Returns whether it does.
    async fn greet(&self, _node_id: NodeId) -> bool {
        true
    }

    /// The members that did not let this node in when it called last, as they do not know it any more.
    fn shut_out_by(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// The nodes that have said where they are since this process started, this one among them.
    fn whereabouts(&self) -> Vec<Peer> {
        Vec::new()
    }

    /// What keeps this node from all others, and what an operator can do about it.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// The data directory that the owner of a key has, by its own word, if it has been met.
    fn incarnation_of(&self, _key: &PublicKey) -> Option<u64> {
        None
    }
}

/// Serves requests that another member forwarded.
#[async_trait]
pub trait ForwardHandler: Send + Sync + 'static {
    /// Serves one request here and now: it is never forwarded a second time.
    ///
    /// # Errors
    /// [`ClusterError`]; [`KvError::NotLeader`](super::types::KvError::NotLeader) in it, if this node does not lead.
    async fn handle(&self, request: ForwardRequest) -> Result<ForwardReply, ClusterError>;

    /// Has the leader, wherever it is, let a node in that has a ticket.
    ///
    /// # Errors
    /// [`ClusterError::JoinRefused`], and those of asking the leader.
    async fn join(&self, call: JoinCall) -> Result<NodeId, ClusterError>;
}
