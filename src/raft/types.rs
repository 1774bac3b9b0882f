//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::kv::types::{KvError, NodeId, NodeInfo, WriteReply};

openraft::declare_raft_types!(
    /// Aspen's choice of openraft's types.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = NodeInfo,
        AsyncRuntime = super::runtime::Runtime,
);

/// An encoded command. It is encoded once, where the client's request arrives, and shared from there
/// to the log, the wire and the state machine, which decodes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The entry was blank or a membership: there is nothing to say.
    Nothing,
    /// The command's reply, or why it was refused. Both are the same on every replica.
    Command(Result<WriteReply, KvError>),
}

/// Position in the log: leader (term and node) and index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote, for oneself or for a leader.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// A membership with the log id that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A snapshot's last log id and membership.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
