//! What a member asks of the leader on behalf of its clients, and the two sides of asking.
//!
//! The transport carries these; the service calls [`Forwarder`] and implements [`ForwardHandler`].

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::types::{ClusterError, DiskStatus, MembershipChange, MembershipChanged, NodeId, Peer, WriteReply};
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

/// Carries requests to another member.
#[async_trait]
pub trait Forwarder: Send + Sync + 'static {
    /// Makes a node known, so that it is let in, and checks that it answers as itself. A node that does
    /// not answer is forgotten again. Ends within `timeout_ms`.
    async fn introduce(&self, peer: &Peer, timeout_ms: u64) -> Result<(), ForwardError>;

    /// Asks `leader`. Ends within `timeout_ms`.
    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError>;
}

/// Serves requests that another member forwarded.
#[async_trait]
pub trait ForwardHandler: Send + Sync + 'static {
    /// Serves one request here and now: it is never forwarded a second time.
    async fn handle(&self, request: ForwardRequest) -> Result<ForwardReply, ClusterError>;
}
