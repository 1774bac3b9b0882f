//! The JSON forms of the HTTP API, one source of truth for the server and the client library.
//!
//! A form is what stands in JSON; the types of [`super::types`] are what it means. Keys and values
//! are text in JSON: UTF-8 as it is, or base64, as the request's `encoding` says for all of them and
//! for the reply. Requests refuse unknown fields, so that a misspelt option is an error and not a
//! default; replies ignore them, so that an older client understands a newer node.

mod cluster;
mod error;
mod read;
mod restore;
#[cfg(test)]
mod tests;
mod write;
mod write_reply;

use std::fmt::Display;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

pub use cluster::{
    AddLearnerForm, AddPeersForm, ChangeMembershipForm, Connection, HealthForm, KnownPeer, LeaderForm,
    LogFilterForm, NewTicket, NewTicketForm, OTHER_CLUSTER, OTHER_CLUSTER_ACTION, PeersForm,
    ReplaceMemberForm, RevokedForm, TicketsForm, TransferLeaderForm,
};
pub use error::{ErrorBody, ErrorForm};
pub use read::{GetForm, KeyValueForm, RangeForm, ReadForm, ReadReplyForm};
pub use restore::{
    AbortRestoreForm, BeginRestoreForm, CommitRestoreForm, MoveOnForm, RestoreChunkForm, RestoreForm,
};
pub use write::{
    CompactForm, CompareForm, CompareWith, DeleteRangeForm, OpForm, PrefixForm, PutForm, SessionForm,
    SetMultiForm, TxnForm, WriteForm,
};
pub use write_reply::{OpResultForm, WriteReplyForm};

use super::types::{Key, KvError, Value};

/// How bytes stand in JSON strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As text; bytes that are no UTF-8 cannot be said.
    #[default]
    Utf8,
    /// As base64 with padding; any bytes.
    Base64,
}

/// Why a form has no meaning, or a meaning no form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A string that is no base64.
    #[error("{field} is no base64: {reason}")]
    NotBase64 {
        /// Which field.
        field: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// None or several of fields that exclude each other.
    #[error("{form} must have exactly one of {allowed}; it has {given}")]
    NotExactlyOne {
        /// The object.
        form: String,
        /// The fields to choose from.
        allowed: &'static str,
        /// Those that were sent.
        given: String,
    },
    /// A field that the others rule out or ask for.
    #[error("{field} {problem}")]
    Field {
        /// Which field.
        field: String,
        /// What is wrong with it, and what is allowed.
        problem: &'static str,
    },
    /// A key or value out of bounds.
    #[error("{field}: {error}")]
    Limit {
        /// Which field.
        field: String,
        /// The bound.
        error: KvError,
    },
    /// Bytes that a UTF-8 reply cannot say.
    #[error("{field} is no UTF-8")]
    NotUtf8 {
        /// Which field.
        field: String,
    },
}

impl FormError {
    /// The error's stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Limit { error, .. } => error.code(),
            Self::NotUtf8 { .. } => "not_utf8",
            _ => "bad_request",
        }
    }

    /// What the caller can do.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Limit { error, .. } => error.action(),
            Self::NotUtf8 { .. } => "ask for it with \"encoding\": \"base64\"",
            Self::NotBase64 { .. } => "send base64 with padding, or leave \"encoding\" out to send text",
            _ => "correct the request",
        }
    }

    fn field(field: impl Display, problem: &'static str) -> Self {
        Self::Field { field: field.to_string(), problem }
    }

    /// Exactly one of `fields` (name, whether sent) must be there.
    fn exactly_one(
        form: impl Display,
        allowed: &'static str,
        fields: &[(&'static str, bool)],
    ) -> Result<(), Self> {
        let given: Vec<_> = fields.iter().filter(|(_, sent)| *sent).map(|(name, _)| *name).collect();
        if given.len() == 1 {
            return Ok(());
        }
        let given = if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
        Err(Self::NotExactlyOne { form: form.to_string(), allowed, given })
    }
}

impl Encoding {
    /// Whether this is what a request gets that does not ask.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The bytes that a string stands for; `field` says which one in an error.
    ///
    /// # Errors
    /// [`FormError::NotBase64`].
    pub fn decode(self, text: String, field: &dyn Display) -> Result<Bytes, FormError> {
        match self {
            Self::Utf8 => Ok(text.into()),
            Self::Base64 => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => Ok(bytes.into()),
                Err(reason) => {
                    Err(FormError::NotBase64 { field: field.to_string(), reason: reason.to_string() })
                }
            },
        }
    }

    /// The string that stands for bytes; `field` says which ones in an error.
    ///
    /// # Errors
    /// [`FormError::NotUtf8`].
    pub fn encode(self, bytes: &[u8], field: &dyn Display) -> Result<String, FormError> {
        match self {
            Self::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_owned()),
                Err(_) => Err(FormError::NotUtf8 { field: field.to_string() }),
            },
            Self::Base64 => Ok(BASE64.encode(bytes)),
        }
    }

    fn key(self, text: String, field: &dyn Display) -> Result<Key, FormError> {
        Key::new(self.decode(text, field)?)
            .map_err(|error| FormError::Limit { field: field.to_string(), error })
    }

    fn value(self, text: String, field: &dyn Display) -> Result<Value, FormError> {
        Value::new(self.decode(text, field)?)
            .map_err(|error| FormError::Limit { field: field.to_string(), error })
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
