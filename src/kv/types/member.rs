//! Who may come into the cluster: tickets, their redemption, and the data directories that members are
//! known by.
//!
//! The operations stand in logs: fields are never reordered or removed, new variants go to the end.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

use super::{ClusterId, NodeId, NodeInfo, PublicKey};

/// Hash of a ticket's secret, all that the cluster keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// Names a ticket: the first bytes of its secret's hash, from which nobody can tell the secret. Printed as 16
/// hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId([u8; 8]);

impl TicketId {
    /// The id of the ticket whose secret has this hash.
    pub fn of(hash: &SecretHash) -> Self {
        Self(*hash.0.first_chunk().expect("a hash has 32 bytes"))
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string that is no ticket's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no ticket's id: `aspen ticket list` shows them, each of 16 hex digits")]
pub struct ParseTicketIdError;

impl FromStr for TicketId {
    type Err = ParseTicketIdError;

    // What was given instead is not repeated: it may be a ticket, which is a secret.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER_PERMISSIVE.decode(s.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(ParseTicketIdError)
    }
}

impl Serialize for TicketId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for TicketId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 8]>::deserialize(deserializer).map(Self)
        }
    }
}

/// A ticket that nodes can still come in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutstandingTicket {
    /// Its id.
    pub id: TicketId,
    /// When it expires, in milliseconds of the Unix epoch.
    pub expires_at_ms: u64,
    /// How many more nodes may come in with it.
    pub uses_left: u32,
}

/// An operation on who may come in, as the log holds it. Times are the wall clock of the leader that proposed
/// it: those who apply it look at no clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberOp {
    /// Take tickets with this secret.
    IssueTicket {
        /// Its hash.
        hash: SecretHash,
        /// When it was issued, in milliseconds of the Unix epoch.
        now_ms: u64,
        /// From when on it is refused.
        expires_at_ms: u64,
        /// How many nodes may come in with it.
        uses: u32,
    },
    /// Take one use of a ticket, and allot a node id.
    Redeem {
        /// The hash of the ticket's secret.
        hash: SecretHash,
        /// When, in milliseconds of the Unix epoch.
        now_ms: u64,
        /// Who comes in.
        joiner: Joiner,
    },
    /// Note the data directories that members have.
    NoteIncarnations {
        /// The members.
        members: Vec<(NodeId, PublicKey, u64)>,
    },
    /// Take a ticket no more. Who has come in with it stays.
    RevokeTicket {
        /// The ticket.
        id: TicketId,
    },
}

/// A node that comes in with a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joiner {
    /// Its key, which its connection proves.
    pub public_key: PublicKey,
    /// Drawn when its data directory was made.
    pub incarnation: u64,
    /// Whether it is to get a vote once it has caught up.
    pub wants_vote: bool,
}

/// What an operation on who may come in came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberOpResult {
    /// It was done.
    Done,
    /// The node has this id from now on.
    Admitted {
        /// The id.
        node_id: NodeId,
    },
    /// Nothing was changed.
    Refused(JoinRefusal),
}

/// Why a node does not come in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum JoinRefusal {
    /// No such secret.
    #[error("this cluster knows no such ticket: it was never issued here, or expired long ago")]
    UnknownTicket,
    /// Its time is up.
    #[error("the ticket expired {ago_ms} ms ago")]
    Expired {
        /// How long ago.
        ago_ms: u64,
    },
    /// It was taken by others.
    #[error("the ticket is used up: as many nodes as it was issued for have come in with it")]
    UsedUp,
    /// A member that comes in again.
    #[error(
        "the key belongs to node {node_id} already, which has another data directory or came in otherwise"
    )]
    AlreadyMember {
        /// The member.
        node_id: NodeId,
    },
    /// Another cluster's ticket.
    #[error("the ticket is one of cluster {given}, and this node belongs to {own:?}")]
    OtherCluster {
        /// The ticket's.
        given: ClusterId,
        /// The answering node's.
        own: Option<ClusterId>,
    },
    /// Too many of them.
    #[error("there are {max} tickets that have not expired yet, the most that are kept")]
    TooManyTickets {
        /// The bound.
        max: usize,
    },
    /// Too many nodes.
    #[error("{max} nodes have been let in, the most that are kept")]
    TooManyNodes {
        /// The bound.
        max: usize,
    },
}

impl JoinRefusal {
    /// What can be done about it.
    pub fn action(&self) -> &'static str {
        match self {
            Self::UnknownTicket | Self::Expired { .. } | Self::UsedUp => {
                "make a new one on a member: `aspen ticket new`"
            }
            Self::AlreadyMember { .. } => {
                "remove that member first (`aspen member remove`), then join on an empty data directory"
            }
            Self::OtherCluster { .. } => "make a ticket on a member of the cluster that is meant",
            Self::TooManyTickets { .. } => "wait until some expire, or make tickets with more uses",
            Self::TooManyNodes { .. } => {
                "remove members that are gone, or wait a day for those that never came"
            }
        }
    }
}

/// What the cluster knows of a node that it let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its key.
    pub public_key: PublicKey,
    /// The data directory that its vote hangs on.
    pub incarnation: u64,
    /// Whether it is to get a vote once it has caught up.
    pub wants_vote: bool,
    /// Whether it has been a member. Until then it is remembered for a while only.
    pub is_member: bool,
    /// The ticket that it came in with, if it did.
    pub ticket: Option<SecretHash>,
    /// When it came in with it, in milliseconds of the Unix epoch.
    pub since_ms: u64,
}

/// A node that asks the leader to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCall {
    /// The hash of its ticket's secret.
    pub hash: SecretHash,
    /// Who it is.
    pub joiner: Joiner,
    /// Where it is, once it can be reached: then it is made a member.
    pub info: Option<NodeInfo>,
}
