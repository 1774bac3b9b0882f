//! Reads: what is asked for and what comes back.

use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Key, KeyValue, KvError, Revision};
use crate::limits;

/// A set of keys: one, all with a prefix, or a half-open span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// This key alone.
    Key(Key),
    /// Every key that starts with these bytes; all keys if there are none.
    Prefix(Bytes),
    /// From `start` on (inclusive) up to `end` (exclusive; to the last key if absent).
    Span {
        /// First key of the span; may be empty.
        start: Bytes,
        /// First key behind the span.
        end: Option<Bytes>,
    },
}

impl KeyRange {
    /// The bounds of the range in bytewise order.
    pub fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        match self {
            Self::Key(key) => {
                let key = key.clone().into_bytes();
                (Bound::Included(key.clone()), Bound::Included(key))
            }
            Self::Prefix(prefix) => {
                let end = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
                (Bound::Included(prefix.clone()), end)
            }
            Self::Span { start, end } => {
                let end = end.clone().map_or(Bound::Unbounded, Bound::Excluded);
                (Bound::Included(start.clone()), end)
            }
        }
    }

    /// Whether no key can be in the range. Such bounds must not reach an ordered map: it would panic.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span { start, end: Some(end) } if end <= start)
    }

    /// Length of the keys that it names.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Key(key) => key.as_bytes().len(),
            Self::Prefix(prefix) => prefix.len(),
            Self::Span { start, end } => start.len() + end.as_ref().map_or(0, Bytes::len),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KvError> {
        let longest = match self {
            Self::Key(key) => return key.validate(),
            Self::Prefix(prefix) => prefix.len(),
            Self::Span { start, end } => start.len().max(end.as_ref().map_or(0, Bytes::len)),
        };
        if longest > limits::KEY_MAX_BYTES {
            return Err(KvError::KeyTooLarge { bytes: longest, max_bytes: limits::KEY_MAX_BYTES });
        }
        Ok(())
    }
}

/// The first key behind all keys with this prefix; none if the prefix is empty or all 0xff.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end.into())
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began, wherever it was sent.
    #[default]
    Linearizable,
    /// What this node has applied, without asking anyone.
    Stale,
}

/// A read of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// The keys to read.
    pub range: KeyRange,
    /// At most so many keys; [`limits::RANGE_MAX_KEYS`] where absent or larger.
    pub limit: Option<u64>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Read as of this revision rather than the newest.
    pub revision: Option<Revision>,
    /// How fresh it must be.
    pub consistency: Consistency,
}

impl ReadRequest {
    /// A linearizable read of one key.
    pub fn get(key: Key) -> Self {
        Self::range(KeyRange::Key(key))
    }

    /// A linearizable read of a range.
    pub fn range(range: KeyRange) -> Self {
        Self { range, limit: None, keys_only: false, revision: None, consistency: Consistency::default() }
    }

    /// The limit that applies, in keys.
    pub fn effective_limit(&self) -> usize {
        let asked = self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        asked.min(limits::RANGE_MAX_KEYS)
    }

    /// Checks the request's bounds.
    ///
    /// # Errors
    /// Those of keys that are too long.
    pub fn validate(&self) -> Result<(), KvError> {
        self.range.validate()
    }
}

/// The keys that a range read found, in bytewise order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReply {
    /// What was found.
    pub kvs: Vec<KeyValue>,
    /// Whether the range holds more keys behind the last one, left out for a limit.
    pub more: bool,
}

impl RangeReply {
    /// Length of all keys and values that were found.
    pub fn payload_bytes(&self) -> usize {
        self.kvs.iter().map(|kv| kv.key.as_bytes().len() + kv.value.as_bytes().len()).sum()
    }
}

/// How old the answer of a stale read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staleness {
    /// Time since this node knew that it had applied all that the leader had committed; absent if it
    /// has not known since it started.
    pub age_ms: Option<u64>,
}

/// The answer to a [`ReadRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReply {
    /// The newest revision in the state that was read (not the revision that was asked for).
    pub revision: Revision,
    /// What was found.
    pub range: RangeReply,
    /// Only for stale reads: how old the answer may be.
    pub staleness: Option<Staleness>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_first_key_without_it() {
        assert_eq!(prefix_end(b"a"), Some(Bytes::from_static(b"b")));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
