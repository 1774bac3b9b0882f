//! The data model: what is stored, sent and answered. No logic beyond parsing and validation.
//!
//! Everything here that derives `Serialize` and is part of a [`Command`] stands in logs and
//! snapshots on disk: fields are never reordered or removed, new variants go to the end.

mod agent;
mod cluster;
mod command;
mod error;
mod founding;
mod key;
mod member;
mod node;
mod read;
mod restore;

pub use agent::{
    AgentError, AgentReply, AgentRequest, ClusterOverview, Election, FilesCompacted, LogFilterSet,
    NodeReport, NodeView, PathType, PeerPath, SnapshotMade,
};
pub use cluster::{
    BackendAddresses, ClusterStatus, DiskState, DiskStatus, Member, MembershipChange, MembershipChanged,
    NodeState, Peer, Role,
};
pub use command::{
    Command, Compare, CompareOp, CompareTarget, OpResult, SessionId, SessionTag, Txn, TxnOp, WriteOp,
    WriteReply,
};
pub use error::{ClusterError, KvError, LeaderHint};
pub use founding::{Founders, Founding};
pub use key::{Key, KeyValue, Revision, Value};
pub use member::{
    Admitted, JoinCall, JoinRefusal, Joiner, MemberOp, MemberOpResult, OutstandingTicket, ParseTicketIdError,
    SecretHash, TicketId,
};
pub use node::{
    ClusterId, NodeId, NodeInfo, ParseClusterIdError, ParseNodeIdError, ParsePublicKeyError, PublicKey,
};
pub use read::{Consistency, KeyRange, RangeReply, ReadReply, ReadRequest, Staleness};
pub(crate) use restore::ensure_reached;
pub use restore::{BackupOrigin, BackupTotals, RestoreId, RestoreStep};
