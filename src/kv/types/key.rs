//! Keys, values, revisions, and the record that a read returns.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::KvError;
use crate::limits;

/// A key: 1 to [`limits::KEY_MAX_BYTES`] arbitrary bytes, ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Bytes);

impl Key {
    /// Takes the bytes as a key.
    ///
    /// # Errors
    /// [`KvError::EmptyKey`] and [`KvError::KeyTooLarge`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KvError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(KvError::EmptyKey);
        }
        if bytes.len() > limits::KEY_MAX_BYTES {
            return Err(KvError::KeyTooLarge { bytes: bytes.len(), max_bytes: limits::KEY_MAX_BYTES });
        }
        Ok(Self(bytes))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Checks a key that came from the wire, where only its type was known.
    pub(crate) fn validate(&self) -> Result<(), KvError> {
        Self::new(self.0.clone()).map(drop)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A value: up to [`limits::VALUE_MAX_BYTES`] arbitrary bytes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value(Bytes);

impl Value {
    /// Takes the bytes as a value.
    ///
    /// # Errors
    /// [`KvError::ValueTooLarge`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KvError> {
        let bytes = bytes.into();
        if bytes.len() > limits::VALUE_MAX_BYTES {
            return Err(KvError::ValueTooLarge { bytes: bytes.len(), max_bytes: limits::VALUE_MAX_BYTES });
        }
        Ok(Self(bytes))
    }

    /// The value's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value's bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Wraps bytes that were checked when they were written.
    pub(crate) fn stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Checks a value that came from the wire, where only its type was known.
    pub(crate) fn validate(&self) -> Result<(), KvError> {
        Self::new(self.0.clone()).map(drop)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0.len())
    }
}

/// The cluster-wide counter of write transactions. It grows by one with each transaction that
/// changes something; 0 is the empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("restores stay far below 2^64, and writes never come so far"))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value and where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value; empty where only keys were asked for.
    pub value: Value,
    /// The revision that created the key (again, if it was deleted before).
    pub create_revision: Revision,
    /// The revision that last changed the key.
    pub mod_revision: Revision,
    /// How often the key was written since it was created; 1 for a new key.
    pub version: u64,
    /// The lease that the key hangs on; 0 for none.
    pub lease: u64,
}
