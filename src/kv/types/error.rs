//! Errors of the two interfaces. Each has a stable code, a sentence, and what to do about it.
//!
//! They travel between nodes, so new variants go to the end.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{JoinRefusal, NodeId, RestoreId, Revision, TicketId};

/// Where the leader is, as far as the answering node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// The leader's id.
    pub node_id: NodeId,
    /// Where its HTTP API listens.
    pub http_addr: Option<SocketAddr>,
}

/// Why a read or a write failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvError {
    /// A key of no bytes.
    #[error("the key is empty")]
    EmptyKey,
    /// A key, prefix or bound over the limit.
    #[error("the key has {bytes} bytes, more than the {max_bytes} that a key may have")]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A value over the limit.
    #[error("the value has {bytes} bytes, more than the {max_bytes} that a value may have")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Too many comparisons or operations in a transaction.
    #[error("the transaction has {ops} operations in one list, more than the {max_ops} allowed")]
    TooManyOps {
        /// How many.
        ops: usize,
        /// The limit.
        max_ops: usize,
    },
    /// The command as a whole is over the limit.
    #[error("the write has {bytes} bytes in all, more than the {max_bytes} that one write may have")]
    CommandTooLarge {
        /// Its encoded length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Session sequences start at 1.
    #[error("the session's sequence is 0; sequences start at 1")]
    ZeroSequence,
    /// A sequence below the session's last one.
    #[error(
        "the session has applied sequence {last}, so {sequence} is from the past and was not applied again"
    )]
    SequenceTooOld {
        /// The sequence sent.
        sequence: u64,
        /// The last one applied.
        last: u64,
    },
    /// The session may have been forgotten, so the write may be a retry.
    #[error(
        "the session is not known, and sessions up to revision {forgotten} were forgotten: this write may have been applied before"
    )]
    SessionExpired {
        /// A write whose `since` is at least this is taken as new.
        forgotten: Revision,
    },
    /// A read of a revision whose history is gone.
    #[error("revision {requested} is compacted; the oldest that can be read is {compacted}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest readable one.
        compacted: Revision,
    },
    /// A read of, or compaction to, a revision that is not there yet.
    #[error("revision {requested} is in the future; the newest is {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The newest one.
        current: Revision,
    },
    /// This node could not reach the leader, but the caller may.
    #[error("this node is not the leader and could not forward the request to it: {reason}")]
    NotLeader {
        /// The leader.
        leader: LeaderHint,
        /// Why forwarding failed.
        reason: String,
    },
    /// No leader with a quorum showed up in time.
    #[error("no leader with a quorum behind it within {waited_ms} ms: {reason}")]
    NoQuorum {
        /// How long the request waited.
        waited_ms: u64,
        /// What was seen last.
        reason: String,
    },
    /// The request was begun, but its outcome was not learnt in time.
    #[error("no answer within {waited_ms} ms: the request may or may not take effect")]
    OutcomeUnknown {
        /// How long the request waited.
        waited_ms: u64,
    },
    /// The node belongs to no cluster.
    #[error("the node belongs to no cluster yet")]
    NotInitialized,
    /// The node replays its log.
    #[error("the node is still replaying its log after a start")]
    Recovering,
    /// Too many requests at once.
    #[error("the node has {in_work} requests in work, the most it takes")]
    Overloaded {
        /// How many are in work.
        in_work: usize,
    },
    /// The node stops, or a part of it failed for good.
    #[error("the node is stopping: {reason}")]
    Stopping {
        /// Why.
        reason: String,
    },
    /// The state could not be read.
    #[error("reading the state failed: {reason}")]
    Storage {
        /// The error of the storage engine.
        reason: String,
    },
    /// The chosen control backend has no such operation.
    #[error("the control backend '{backend}' has no {operation}")]
    UnsupportedByBackend {
        /// The backend.
        backend: String,
        /// The operation.
        operation: String,
    },
    /// A disk has too little room for what the write adds. Nothing was changed.
    #[error(
        "the disk of node {node_id} is full: {free_bytes} bytes are free, {kept_bytes} of them must stay free, and this write may take {needed_bytes}"
    )]
    DiskFull {
        /// The node.
        node_id: NodeId,
        /// What is free there.
        free_bytes: u64,
        /// What must stay free for writes of this kind.
        kept_bytes: u64,
        /// By how much the write may grow the files.
        needed_bytes: u64,
    },
    /// A restore that was not told to replace keys found some. Nothing was changed.
    #[error("the store holds {keys} keys at revision {revision}, and the restore may not replace any")]
    NotEmpty {
        /// The keys there are.
        keys: u64,
        /// The store's revision.
        revision: Revision,
    },
    /// A step of a restore that is not under way. What it had staged is gone; the keys are as they were.
    #[error(
        "restore {id} is not under way: it was aborted, or another one has begun since; the keys were not touched"
    )]
    NoSuchRestore {
        /// The restore.
        id: RestoreId,
    },
    /// A chunk of a restore that cannot come next.
    #[error("chunk {given} of the restore came, and chunk {expected} must come next")]
    RestoreOutOfOrder {
        /// The chunk that came.
        given: u64,
        /// The chunk that is missing.
        expected: u64,
    },
    /// As many backups are being made as the node makes at a time.
    #[error("the node makes {in_work} backup already, the most it makes at a time")]
    BackupsFull {
        /// How many are in work.
        in_work: usize,
    },
    /// A step of a restore that holds something else than a backup does.
    #[error("the restore was refused: {reason}; the keys were not touched")]
    BadRestore {
        /// What is wrong.
        reason: String,
    },
    /// A command that only the cluster itself makes.
    #[error("who may come into the cluster is decided by the cluster, and no client can say it")]
    NotForClients,
    /// A restore by a client that has a key alone.
    #[error(
        "a restore replaces all keys, and a client over iroh, which may read and write them, may not do that"
    )]
    NotOverIroh,
    /// Other writes came between, again and again. Nothing was changed.
    #[error("for {waited_ms} ms other writes kept changing the keys that this one depends on")]
    Contended {
        /// How long it was tried.
        waited_ms: u64,
    },
    /// The node is no member any more. Nothing was changed.
    #[error("node {node_id} was removed from the cluster, and serves nothing any more")]
    Removed {
        /// The node.
        node_id: NodeId,
    },
}

impl KvError {
    /// The error's stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyKey => "empty_key",
            Self::KeyTooLarge { .. } => "key_too_large",
            Self::ValueTooLarge { .. } => "value_too_large",
            Self::TooManyOps { .. } => "too_many_ops",
            Self::CommandTooLarge { .. } => "command_too_large",
            Self::ZeroSequence => "zero_sequence",
            Self::SequenceTooOld { .. } => "sequence_too_old",
            Self::SessionExpired { .. } => "session_expired",
            Self::Compacted { .. } => "compacted",
            Self::FutureRevision { .. } => "future_revision",
            Self::NotLeader { .. } => "not_leader",
            Self::NoQuorum { .. } => "no_quorum",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::NotInitialized => "not_initialized",
            Self::Recovering => "recovering",
            Self::Overloaded { .. } => "overloaded",
            Self::Stopping { .. } => "stopping",
            Self::Storage { .. } => "storage",
            Self::UnsupportedByBackend { .. } => "unsupported_by_backend",
            Self::DiskFull { .. } => "disk_full",
            Self::NotEmpty { .. } => "not_empty",
            Self::NoSuchRestore { .. } => "no_such_restore",
            Self::RestoreOutOfOrder { .. } => "restore_out_of_order",
            Self::BackupsFull { .. } => "backups_full",
            Self::BadRestore { .. } => "bad_restore",
            Self::NotForClients => "not_for_clients",
            Self::NotOverIroh => "not_over_iroh",
            Self::Contended { .. } => "contended",
            Self::Removed { .. } => "removed",
        }
    }

    /// What the caller can do.
    pub fn action(&self) -> &'static str {
        match self {
            Self::EmptyKey => "send a key of at least one byte",
            Self::KeyTooLarge { .. } => "shorten the key",
            Self::ValueTooLarge { .. } => "split the value over several keys",
            Self::TooManyOps { .. } | Self::CommandTooLarge { .. } => "split the write into smaller ones",
            Self::ZeroSequence => "number the session's writes from 1",
            Self::SequenceTooOld { .. } => "use a new sequence for a new write",
            Self::SessionExpired { .. } => {
                "if this write was never sent before, send it with `since` set to a revision read just now; otherwise read the keys to see whether it took effect"
            }
            Self::Compacted { .. } => "read a newer revision",
            Self::FutureRevision { .. } => "name a revision that exists",
            Self::NotLeader { .. } => "send the request to the leader, or try again",
            Self::NoQuorum { .. } => {
                "check that a majority of the voters runs and can reach each other, then try again"
            }
            Self::OutcomeUnknown { .. } => {
                "send it again with the same session and sequence, or read the keys to see whether it took effect"
            }
            Self::NotInitialized => "POST /init here, or add this node to a cluster from one of its members",
            Self::Recovering | Self::Overloaded { .. } | Self::Contended { .. } => "try again in a moment",
            Self::Stopping { .. } => "use another member, or this one once it is back",
            Self::Storage { .. } => "look at the node's log and its disk",
            Self::UnsupportedByBackend { .. } => "use the control backend 'raft' for it",
            Self::DiskFull { .. } => {
                "make room on that node's disk or enlarge it, or delete keys, few at a time, and compact the history; reads go on, and writes do by themselves once there is room"
            }
            Self::NotEmpty { .. } => {
                "restore into an empty cluster, or say that the keys are to be replaced; back them up first"
            }
            Self::NoSuchRestore { .. } => "begin the restore anew, and run one at a time",
            Self::BackupsFull { .. } => "wait for it to end, or ask another member",
            Self::Removed { .. } => {
                "use another member; stop this node, and let the machine join on an empty data directory with a ticket (`aspen ticket new`, `aspen-node --join`)"
            }
            Self::NotForClients => "use POST /tickets or POST /change-membership",
            Self::NotOverIroh => "restore over HTTP: `aspen --addr http://HOST:PORT restore FILE`",
            Self::RestoreOutOfOrder { .. } => "send the chunks in their order",
            Self::BadRestore { .. } => {
                "check the backup with `aspen backup --check FILE`; what is staged goes with the next restore, or an abort"
            }
        }
    }

    /// Whether a caller that sends the request to another member, or again, may be served: the cause
    /// lies in the cluster and not in the request.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. }
                | Self::NoQuorum { .. }
                | Self::OutcomeUnknown { .. }
                | Self::NotInitialized
                | Self::Recovering
                | Self::Overloaded { .. }
                | Self::Contended { .. }
                | Self::Stopping { .. }
                | Self::Removed { .. }
        )
    }
}

/// Why an operation on the cluster failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ClusterError {
    /// `init` on a node that belongs to a cluster.
    #[error("node {node_id} already belongs to a cluster")]
    AlreadyInitialized {
        /// The node.
        node_id: NodeId,
    },
    /// A node that is no member.
    #[error("node {node_id} is no member of the cluster")]
    UnknownNode {
        /// The node.
        node_id: NodeId,
    },
    /// A voter set without voters.
    #[error("the change would leave the cluster without a voter")]
    NoVoters,
    /// A node id that another key already has.
    #[error("node {node_id} is a member already, with another key")]
    NodeIdTaken {
        /// The node.
        node_id: NodeId,
    },
    /// Another change is under way.
    #[error("another change of the membership is under way")]
    ChangeInProgress,
    /// A new learner could not be reached.
    #[error("node {node_id} could not be reached: {reason}")]
    Unreachable {
        /// The node.
        node_id: NodeId,
        /// What was tried.
        reason: String,
    },
    /// The same conditions as for reads and writes.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// `init` on a node that comes to its cluster in another way.
    #[error("this node makes no cluster by itself: {waits_for}")]
    MakesNoCluster {
        /// What it waits for.
        waits_for: String,
    },
    /// A node that does not come in with its ticket.
    #[error(transparent)]
    JoinRefused(#[from] JoinRefusal),
    /// A change after which too few voters would answer.
    #[error(
        "the voters would be {}, of which {needed} must answer, and {} silent: the cluster would take no writes until they are back",
        list(voters),
        are(silent)
    )]
    QuorumAtStake {
        /// The voters after the change.
        voters: BTreeSet<NodeId>,
        /// Those of them that have not answered lately.
        silent: BTreeSet<NodeId>,
        /// How many must answer.
        needed: usize,
    },
    /// The leadership stayed where it was.
    #[error("node {node_id} leads on: {reason}")]
    NotHandedOver {
        /// The leader.
        node_id: NodeId,
        /// Why.
        reason: String,
    },
    /// A node that answers and has not caught up yet. It goes on by itself.
    #[error(
        "node {node_id} answers and is still catching up: within {waited_ms} ms its log got to index {matched}, and {needed} is needed"
    )]
    CatchingUp {
        /// The node.
        node_id: NodeId,
        /// How far its log is.
        matched: u64,
        /// How far it must be.
        needed: u64,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// A ticket that cannot be revoked.
    #[error("no ticket with the id {id} is outstanding: it is used up, expired or revoked, or never was")]
    UnknownTicket {
        /// The id that was asked for.
        id: TicketId,
    },
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn are(nodes: &BTreeSet<NodeId>) -> String {
    if nodes.len() == 1 { format!("node {} is", list(nodes)) } else { format!("nodes {} are", list(nodes)) }
}

impl ClusterError {
    /// The error's stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInitialized { .. } => "already_initialized",
            Self::UnknownNode { .. } => "unknown_node",
            Self::NoVoters => "no_voters",
            Self::NodeIdTaken { .. } => "node_id_taken",
            Self::ChangeInProgress => "change_in_progress",
            Self::Unreachable { .. } => "unreachable",
            Self::Kv(error) => error.code(),
            Self::MakesNoCluster { .. } => "makes_no_cluster",
            Self::JoinRefused(_) => "join_refused",
            Self::QuorumAtStake { .. } => "quorum_at_stake",
            Self::NotHandedOver { .. } => "not_handed_over",
            Self::CatchingUp { .. } => "catching_up",
            Self::UnknownTicket { .. } => "unknown_ticket",
        }
    }

    /// What the caller can do.
    pub fn action(&self) -> &'static str {
        match self {
            Self::AlreadyInitialized { .. } => "nothing is to be done; GET /cluster shows the cluster",
            Self::UnknownNode { .. } => "add it as a learner first, with its ticket",
            Self::NoVoters => "name at least one voter",
            Self::NodeIdTaken { .. } => "give the new node an id of its own",
            Self::ChangeInProgress => "wait for it to end, then try again",
            Self::Unreachable { .. } => {
                "check that the node runs, that its ticket is current, and that UDP gets through"
            }
            // No session, and no key, says whether it took effect.
            Self::Kv(KvError::OutcomeUnknown { .. }) => {
                "see with `aspen member list`, or `aspen ticket list`, whether it took effect, before it is tried again"
            }
            Self::Kv(error) => error.action(),
            Self::JoinRefused(refusal) => refusal.action(),
            Self::QuorumAtStake { .. } => {
                "bring the silent ones back first, or remove them instead if they are gone for good; `--force` (\"force\": true) makes the change all the same"
            }
            Self::UnknownTicket { .. } => "see with `aspen ticket list` which there are",
            Self::NotHandedOver { .. } => "see with `aspen member list` which voters answer, and try again",
            Self::CatchingUp { .. } => {
                "wait, it goes on by itself: `aspen member list` shows how far it is; then try again"
            }
            Self::MakesNoCluster { .. } => {
                "let it come to its cluster as it was configured; to make a cluster without the others, start a node on an empty data directory with `--bootstrap manual`"
            }
        }
    }
}
