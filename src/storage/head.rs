//! The single facts of the state, in [`Table::Meta`]: revisions, session counters, log
//! position, restores.
//!
//! They are read once before a batch of commands and written once behind it, so that how entries are
//! batched leaves no trace in the tables.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record;
use super::tables::{ReadTables, StateError, Table, WriteTables};
use crate::kv::types::{BackupTotals, NodeId, RestoreId, Revision};
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership};

// Names in the table of facts. They are on disk: they must stay stable.
const REVISIONS: &[u8] = b"revisions";
const SESSIONS: &[u8] = b"sessions";
const APPLIED: &[u8] = b"applied";
const RESTORING: &[u8] = b"restoring";
const RESTORED: &[u8] = b"restored";
pub(crate) const MEMBERSHIP: &[u8] = b"membership";
const HIGHEST_ID: &[u8] = b"highest_node_id";

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

/// The restore that is under way. Its keys are in [`Table::Staging`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restoring {
    pub(crate) id: RestoreId,
    /// The revision that the backup holds.
    pub(crate) backup_revision: Revision,
    /// The revision at which its keys will be there.
    pub(crate) revision: Revision,
    /// Whether keys that are there may be replaced.
    pub(crate) replace: bool,
    /// What is staged.
    pub(crate) staged: BackupTotals,
    /// The last key that is staged; empty if there is none.
    pub(crate) last_key: Bytes,
}

/// The restore that ended last, so that its commit is known when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restored {
    pub(crate) id: RestoreId,
    /// The revision at which its keys came.
    pub(crate) revision: Revision,
}

/// The restore that is under way, if one is.
pub(crate) fn load_restoring(tables: &impl ReadTables) -> Result<Option<Restoring>, StateError> {
    load(tables, RESTORING)
}

/// Sets the restore that is under way.
pub(crate) fn store_restoring(
    tables: &mut impl WriteTables,
    restoring: Option<&Restoring>,
) -> Result<(), StateError> {
    match restoring {
        Some(_) => store(tables, RESTORING, &restoring),
        None => tables.remove(Table::Meta, RESTORING),
    }
}

/// The restore that ended last, if one did.
pub(crate) fn load_restored(tables: &impl ReadTables) -> Result<Option<Restored>, StateError> {
    load(tables, RESTORED)
}

/// Sets the restore that ended last.
pub(crate) fn store_restored(tables: &mut impl WriteTables, restored: Restored) -> Result<(), StateError> {
    store(tables, RESTORED, &Some(restored))
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

/// The highest node id that was allotted, or that a member has had.
pub(crate) fn load_highest_id(tables: &impl ReadTables) -> Result<NodeId, StateError> {
    load(tables, HIGHEST_ID)
}

/// Sets the highest node id.
pub(crate) fn store_highest_id(tables: &mut impl WriteTables, node_id: NodeId) -> Result<(), StateError> {
    store(tables, HIGHEST_ID, &node_id)
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
