//! The answer of `POST /write`: what the operations did.

use serde::{Deserialize, Serialize};

use super::{Encoding, FormError, KeyValueForm};
use crate::kv::types::{OpResult, RangeReply, Revision, WriteReply};

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReplyForm {
    /// The store's revision after the write.
    pub revision: u64,
    /// Whether every comparison held; for a compaction, whether it is complete.
    pub succeeded: bool,
    /// One for each operation that ran.
    pub results: Vec<OpResultForm>,
    /// Whether this is the reply to an earlier sending of the same session and sequence.
    pub replayed: bool,
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpResultForm {
    /// The key was set.
    Put {},
    /// Keys were deleted.
    Delete {
        /// How many.
        deleted: u64,
        /// Whether more are left for a further call.
        more: bool,
    },
    /// Keys were read, by `get` or by `range`.
    Range {
        /// What was found.
        kvs: Vec<KeyValueForm>,
        /// Whether the range holds more.
        more: bool,
    },
}

impl WriteReplyForm {
    /// The form of `reply`.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`].
    pub fn new(reply: &WriteReply, encoding: Encoding) -> Result<Self, FormError> {
        Ok(Self {
            revision: reply.revision.0,
            succeeded: reply.succeeded,
            results: reply
                .results
                .iter()
                .map(|result| OpResultForm::new(result, encoding))
                .collect::<Result<_, _>>()?,
            replayed: reply.replayed,
        })
    }

    /// The reply that the form means.
    ///
    /// # Errors
    /// One that names the field at fault.
    pub fn into_reply(self, encoding: Encoding) -> Result<WriteReply, FormError> {
        Ok(WriteReply {
            revision: Revision(self.revision),
            succeeded: self.succeeded,
            results: self
                .results
                .into_iter()
                .map(|result| result.into_result(encoding))
                .collect::<Result<_, _>>()?,
            replayed: self.replayed,
        })
    }
}

impl OpResultForm {
    fn new(result: &OpResult, encoding: Encoding) -> Result<Self, FormError> {
        Ok(match result {
            OpResult::Put => Self::Put {},
            OpResult::Delete { deleted, more } => Self::Delete { deleted: *deleted, more: *more },
            OpResult::Range(range) => {
                Self::Range { kvs: KeyValueForm::list(&range.kvs, encoding)?, more: range.more }
            }
            OpResult::Member(_) => {
                return Err(FormError::field("the reply", "is about who may come in: no client is told it"));
            }
        })
    }

    fn into_result(self, encoding: Encoding) -> Result<OpResult, FormError> {
        Ok(match self {
            Self::Put {} => OpResult::Put,
            Self::Delete { deleted, more } => OpResult::Delete { deleted, more },
            Self::Range { kvs, more } => {
                OpResult::Range(RangeReply { kvs: KeyValueForm::into_list(kvs, encoding)?, more })
            }
        })
    }
}
