//! Writes: the command that goes through the log, and the reply that applying it gives.
//!
//! Every write is a transaction (compare, then one of two lists of operations), a compaction, or a step
//! of a restore.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Key, KeyRange, KvError, MemberOp, MemberOpResult, RangeReply, RestoreStep, Revision, Value};
use crate::limits;

/// Names a sequence of writes by one client, of which at most one is in work at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

impl SessionId {
    /// Draws a new id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// Makes a write safe to send again: the cluster applies it once and repeats the first reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTag {
    /// The session.
    pub id: SessionId,
    /// The write's number in its session, growing from 1. A retry repeats it.
    pub sequence: u64,
    /// A revision that the client had seen before it first sent this write. The cluster refuses a
    /// session which it does not know if it may have forgotten one since that revision: then it cannot
    /// tell a new write from a retry.
    pub since: Revision,
}

/// A write as a client asks for it and as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Present where the client may send the command again.
    pub session: Option<SessionTag>,
    /// What to do.
    pub op: WriteOp,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteOp {
    /// Change keys.
    Txn(Txn),
    /// Forget history before this revision.
    Compact {
        /// The oldest revision that can still be read afterwards.
        revision: Revision,
    },
    /// Replace all keys by those of a backup, step by step.
    Restore(RestoreStep),
    /// Decide who may come into the cluster. No client can ask for it.
    Member(MemberOp),
}

/// Compares, then runs one of two lists of operations, all at one revision or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All of them must hold for `success` to run.
    pub compare: Vec<Compare>,
    /// Runs, in order, if every comparison holds.
    pub success: Vec<TxnOp>,
    /// Runs, in order, otherwise.
    pub failure: Vec<TxnOp>,
}

/// One comparison: `target of key  op  operand`. An absent key has version and revisions 0 and no
/// value, which differs from every value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key looked at.
    pub key: Key,
    /// How the two are compared.
    pub op: CompareOp,
    /// What is compared, with the operand.
    pub target: CompareTarget,
}

/// How a comparison compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareOp {
    /// They are the same.
    Equal,
    /// They differ.
    NotEqual,
    /// The key's is greater than the operand.
    Greater,
    /// The key's is less than the operand.
    Less,
}

/// What a comparison looks at, with what it is compared to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    /// The value, bytewise.
    Value(Value),
    /// The number of writes since creation; 0 for an absent key.
    Version(u64),
    /// The revision of creation.
    CreateRevision(Revision),
    /// The revision of the last change.
    ModRevision(Revision),
}

/// One operation of a transaction. Later ones see what earlier ones did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// The lease it hangs on; 0 for none.
        lease: u64,
    },
    /// Deletes the keys of a range, in order, at most [`limits::DELETE_PREFIX_MAX_KEYS`] of them.
    Delete {
        /// The keys to delete.
        range: KeyRange,
    },
    /// Reads a range, within [`limits::TXN_READ_MAX_BYTES`] for the whole transaction.
    Range {
        /// The keys to read.
        range: KeyRange,
        /// At most so many keys.
        limit: Option<u64>,
        /// Leave the values out.
        keys_only: bool,
    },
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The key was set.
    Put,
    /// Keys were deleted.
    Delete {
        /// How many.
        deleted: u64,
        /// Whether the range holds more keys, left for a further call.
        more: bool,
    },
    /// Keys were read.
    Range(RangeReply),
    /// Who may come into the cluster was decided.
    Member(MemberOpResult),
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReply {
    /// The store's revision after the command; the command's own if it changed something.
    pub revision: Revision,
    /// Whether every comparison held.
    pub succeeded: bool,
    /// One for each operation that ran.
    pub results: Vec<OpResult>,
    /// Whether this is the reply of an earlier sending of the same session and sequence.
    pub replayed: bool,
}

impl WriteReply {
    /// Length of all keys and values that were read.
    pub fn payload_bytes(&self) -> usize {
        let read = self.results.iter().filter_map(|result| match result {
            OpResult::Range(range) => Some(range),
            OpResult::Put | OpResult::Delete { .. } | OpResult::Member(_) => None,
        });
        read.map(RangeReply::payload_bytes).sum()
    }
}

impl Command {
    /// Whether all that it may do is to set one key or none.
    pub(crate) fn only_puts(&self) -> bool {
        match &self.op {
            WriteOp::Txn(Txn { success, failure, .. }) => {
                let is_put = |op: &TxnOp| matches!(op, TxnOp::Put { .. });
                success.len() <= 1 && failure.len() <= 1 && success.iter().chain(failure).all(is_put)
            }
            WriteOp::Compact { .. } | WriteOp::Restore(_) | WriteOp::Member(_) => false,
        }
    }

    /// A command without a session.
    pub fn new(op: WriteOp) -> Self {
        Self { session: None, op }
    }

    /// Sets one key.
    pub fn put(key: Key, value: Value) -> Self {
        Self::ops(vec![TxnOp::Put { key, value, lease: 0 }])
    }

    /// Deletes the keys of a range.
    pub fn delete(range: KeyRange) -> Self {
        Self::ops(vec![TxnOp::Delete { range }])
    }

    /// Runs operations at one revision, without a condition.
    pub fn ops(success: Vec<TxnOp>) -> Self {
        Self::new(WriteOp::Txn(Txn { success, ..Txn::default() }))
    }

    /// Length of all keys and values that it names.
    pub fn payload_bytes(&self) -> usize {
        let Txn { compare, success, failure } = match &self.op {
            WriteOp::Txn(txn) => txn,
            WriteOp::Restore(RestoreStep::Chunk { rows, .. }) => return rows.len(),
            WriteOp::Compact { .. } | WriteOp::Restore(_) | WriteOp::Member(_) => return 0,
        };
        let compared = compare.iter().map(Compare::payload_bytes);
        let ops = success.iter().chain(failure).map(TxnOp::payload_bytes);
        compared.chain(ops).sum()
    }

    /// Checks the command's bounds, all but its encoded length.
    ///
    /// # Errors
    /// One for each bound of [`limits`] that a command can break.
    pub fn validate(&self) -> Result<(), KvError> {
        if let Some(session) = &self.session
            && session.sequence == 0
        {
            return Err(KvError::ZeroSequence);
        }
        match &self.op {
            WriteOp::Txn(txn) => txn.validate(),
            WriteOp::Compact { .. } => Ok(()),
            WriteOp::Restore(step) => step.validate(),
            // It goes to the log from the leader itself: whoever could send it would let in whom he likes.
            WriteOp::Member(_) => Err(KvError::NotForClients),
        }
    }

    /// Whether it has the same effect however often it is applied, without a session too.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.op, WriteOp::Compact { .. } | WriteOp::Restore(_))
    }
}

impl Txn {
    fn validate(&self) -> Result<(), KvError> {
        let longest = self.compare.len().max(self.success.len()).max(self.failure.len());
        if longest > limits::TXN_OPS_MAX_COUNT {
            return Err(KvError::TooManyOps { ops: longest, max_ops: limits::TXN_OPS_MAX_COUNT });
        }
        for compare in &self.compare {
            compare.key.validate()?;
            if let CompareTarget::Value(value) = &compare.target {
                value.validate()?;
            }
        }
        self.success.iter().chain(&self.failure).try_for_each(TxnOp::validate)
    }
}

impl Compare {
    fn payload_bytes(&self) -> usize {
        let value = match &self.target {
            CompareTarget::Value(value) => value.as_bytes().len(),
            CompareTarget::Version(_) | CompareTarget::CreateRevision(_) | CompareTarget::ModRevision(_) => 0,
        };
        self.key.as_bytes().len() + value
    }
}

impl TxnOp {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.as_bytes().len() + value.as_bytes().len(),
            Self::Delete { range } | Self::Range { range, .. } => range.payload_bytes(),
        }
    }

    fn validate(&self) -> Result<(), KvError> {
        match self {
            Self::Put { key, value, .. } => {
                key.validate()?;
                value.validate()
            }
            Self::Delete { range } | Self::Range { range, .. } => range.validate(),
        }
    }
}

impl From<Key> for KeyRange {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}
