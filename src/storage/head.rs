//! The single facts of the state, in [`Table::Meta`]: revisions, session counters, log position.
//!
//! They are read once before a batch of commands and written once behind it, so that how entries are
//! batched leaves no trace in the tables.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record;
use super::tables::{ReadTables, StateError, Table, WriteTables};
use crate::kv::types::Revision;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

// Names in the table of facts. They are on disk: they must stay stable.
const REVISIONS: &[u8] = b"revisions";
const SESSIONS: &[u8] = b"sessions";
const APPLIED: &[u8] = b"applied";
pub(crate) const MEMBERSHIP: &[u8] = b"membership";

/// How far the data goes, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revisions {
    /// The newest revision.
    pub(crate) current: Revision,
    /// The oldest revision that can be read.
    pub(crate) compacted: Revision,
}

impl Revisions {
    pub(crate) fn load(tables: &impl ReadTables) -> Result<Self, StateError> {
        load(tables, REVISIONS)
    }
}

/// What the session table holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionTotals {
    /// Sessions remembered.
    pub(crate) count: u64,
    /// Bytes of their encoded replies.
    pub(crate) reply_bytes: u64,
    /// A session that is not known is new if its `since` is at least this.
    pub(crate) forgotten: Revision,
    /// The stamp of the next use of a session.
    pub(crate) next_stamp: u64,
}

/// The facts that commands change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revisions: Revisions,
    pub(crate) sessions: SessionTotals,
}

impl Head {
    pub(crate) fn load(tables: &impl ReadTables) -> Result<Self, StateError> {
        Ok(Self { revisions: Revisions::load(tables)?, sessions: load(tables, SESSIONS)? })
    }

    pub(crate) fn store(&self, tables: &mut impl WriteTables) -> Result<(), StateError> {
        store(tables, REVISIONS, &self.revisions)?;
        store(tables, SESSIONS, &self.sessions)
    }
}

/// The last log entry in the state; none if it is empty.
pub(crate) fn load_applied(tables: &impl ReadTables) -> Result<Option<LogId>, StateError> {
    load(tables, APPLIED)
}

/// Sets the last log entry in the state.
pub(crate) fn store_applied(tables: &mut impl WriteTables, applied: LogId) -> Result<(), StateError> {
    store(tables, APPLIED, &Some(applied))
}

/// The last membership in the state.
pub(crate) fn load_membership(tables: &impl ReadTables) -> Result<StoredMembership, StateError> {
    load(tables, MEMBERSHIP)
}

/// Sets the last membership in the state.
pub(crate) fn store_membership(
    tables: &mut impl WriteTables,
    membership: &StoredMembership,
) -> Result<(), StateError> {
    store(tables, MEMBERSHIP, membership)
}

/// What a snapshot of this state is a snapshot of.
pub(crate) fn snapshot_meta(tables: &impl ReadTables) -> Result<SnapshotMeta, StateError> {
    Ok(SnapshotMeta { last_log_id: load_applied(tables)?, last_membership: load_membership(tables)? })
}

fn load<T: Default + DeserializeOwned>(tables: &impl ReadTables, name: &[u8]) -> Result<T, StateError> {
    match tables.get(Table::Meta, name)? {
        Some(sealed) => Ok(record::unseal_open(Table::Meta, name, &sealed)?.0),
        None => Ok(T::default()),
    }
}

fn store<T: Serialize>(tables: &mut impl WriteTables, name: &[u8], fact: &T) -> Result<(), StateError> {
    tables.put(Table::Meta, name, &record::seal(Table::Meta, name, fact, &[]))
}
