//! The ordered byte tables that the state consists of, and their two implementations.
//!
//! Applying commands and reading know only the traits here. They must never see the difference
//! between maps in memory and a redb transaction: the same commands give the same bytes in both.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::io;
use std::iter::Map;
use std::ops::{Bound, Deref};
use std::path::Path;

use bytes::Bytes;

use super::checked_file::CheckedFile;
use super::damage::{Damage, Place};
use super::database::is_io_failure;
use super::record::DecodeCommandError;

mod on_redb;

pub(crate) use on_redb::{RedbRead, RedbWrite, append_rows, has_discarded, sweep_discarded};

/// A table of the state. The numbers and names are on disk and in snapshots: they must stay stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Live keys: key -> its record. Entries live until the key is deleted.
    Data = 0,
    /// Deleted keys: key -> the change that deleted it. Entries live until that change is compacted.
    Tombstones = 1,
    /// Undo log: change -> the key and what it was before. Entries live until they are compacted.
    History = 2,
    /// Sessions: id -> last sequence and its reply. Entries live until they are evicted.
    Sessions = 3,
    /// Sessions by last use: stamp -> id. One entry for each session.
    SessionOrder = 4,
    /// Reserved for leases: id -> its record.
    Leases = 5,
    /// Single facts: name -> fact. Entries live as long as the state.
    Meta = 6,
    /// Keys of a restore that is under way: key -> the record that it will have, sealed as in `data`. Entries
    /// live until they become the data, or are thrown away.
    Staging = 7,
    /// Who may come into the cluster: tickets until they are forgotten, nodes until they are removed, and then
    /// their keys until they are members again.
    Admissions = 8,
}

impl Table {
    /// All tables, each at the index of its number, which is also the order in a snapshot.
    pub const ALL: [Self; 9] = [
        Self::Data,
        Self::Tombstones,
        Self::History,
        Self::Sessions,
        Self::SessionOrder,
        Self::Leases,
        Self::Meta,
        Self::Staging,
        Self::Admissions,
    ];

    /// The table's number in snapshots and checksums.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The table of a number; none if this version does not know it.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The table's name in the database and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tombstones => "tombstones",
            Self::History => "history",
            Self::Sessions => "sessions",
            Self::SessionOrder => "session_order",
            Self::Leases => "leases",
            Self::Meta => "meta",
            Self::Staging => "staging",
            Self::Admissions => "admissions",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state cannot be read or written any more: the node must stop.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The storage engine failed.
    #[error("the state database failed: {0}")]
    Database(Box<redb::Error>),
    /// A stored value is not what was written.
    #[error("the value of {key:?} in table '{table}' fails its checksum: the state on disk is damaged")]
    Checksum {
        /// Where it stands.
        table: Table,
        /// Its key.
        key: Bytes,
    },
    /// A stored value has its checksum but no known form.
    #[error("the value of {key:?} in table '{table}' cannot be decoded: {reason}")]
    Malformed {
        /// Where it stands.
        table: Table,
        /// Its key.
        key: Bytes,
        /// What the decoder said.
        reason: String,
    },
    /// A table holds other rows than it says.
    #[error("table '{table}' says that it has {expected} rows and has {found}: the state on disk is damaged")]
    Rows {
        /// The table.
        table: Table,
        /// Its own count.
        expected: u64,
        /// The rows there are.
        found: u64,
    },
    /// The undo log lacks a change that is not compacted.
    #[error("the history lacks change {sub} of revision {revision}, which key {key:?} needs")]
    BrokenHistory {
        /// The key whose history is broken.
        key: Bytes,
        /// The change's revision.
        revision: u64,
        /// The change's number in its revision.
        sub: u32,
    },
    /// A log entry cannot be applied.
    #[error(transparent)]
    Command(#[from] DecodeCommandError),
}

impl StateError {
    pub(crate) fn database(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }

    /// Whether the disk failed, and nothing says that what is on it is wrong.
    pub(crate) fn is_io_failure(&self) -> bool {
        matches!(self, Self::Database(error) if is_io_failure(error))
    }

    /// This error, or the earlier one in the state's file that it only points back to.
    pub(crate) fn with_cause(self, file: &CheckedFile) -> Self {
        match self {
            Self::Database(error) => Self::Database(Box::new(file.cause_of(*error))),
            other => other,
        }
    }

    /// The damage of a state in `file`, or the failure of its disk, that this error tells of; none where it
    /// tells of something else.
    pub(crate) fn damage_in(&self, file: &Path) -> Option<Damage> {
        let (place, problem) = match self {
            Self::Command(_) => return None,
            Self::Database(error) if matches!(**error, redb::Error::DatabaseClosed) => return None,
            Self::Database(error) => return Some(Damage::of_database(file, Place::File, error)),
            Self::Checksum { table, key } => (Place::row(table, key), "its checksum is wrong".to_owned()),
            Self::Malformed { table, key, reason } => (Place::row(table, key), reason.clone()),
            Self::Rows { .. } => (Place::File, self.to_string()),
            Self::BrokenHistory { key, .. } => (Place::row(Table::History, key), self.to_string()),
        };
        Some(Damage::new(file, place, problem))
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        Self::other(error)
    }
}

/// Bounds of keys in a table. The lower one must not be above the upper one.
pub type RowBounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// Reads of one consistent state.
pub trait ReadTables {
    /// Stored bytes, borrowed from the table.
    type Slice<'a>: Deref<Target = [u8]>
    where
        Self: 'a;
    /// Rows in bytewise order of their keys. Dropping it stops the scan.
    type Rows<'a>: Iterator<Item = Result<(Self::Slice<'a>, Self::Slice<'a>), StateError>>
    where
        Self: 'a;

    /// The value of a key.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn get<'a>(&'a self, table: Table, key: &[u8]) -> Result<Option<Self::Slice<'a>>, StateError>;

    /// The rows of a range of keys.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn rows<'a>(&'a self, table: Table, bounds: RowBounds<'_>) -> Result<Self::Rows<'a>, StateError>;

    /// How many rows a table has, without looking at them.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn count(&self, table: Table) -> Result<u64, StateError>;
}

/// Writes to one state, all kept or all dropped by whoever owns the transaction.
pub trait WriteTables: ReadTables {
    /// Sets a key.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StateError>;

    /// Sets a key that is there to what `next` makes of its value, with one search for it. Returns false
    /// where it is not there; then nothing has happened.
    ///
    /// # Errors
    /// Those of the storage engine, and those of `next`: then the key has the value that it had.
    fn replace(
        &mut self,
        table: Table,
        key: &[u8],
        next: impl FnOnce(&[u8]) -> Result<Vec<u8>, StateError>,
    ) -> Result<bool, StateError>;

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StateError>;

    /// Adds rows, in the order of their keys, behind all others of a table.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn append(
        &mut self,
        table: Table,
        rows: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)],
    ) -> Result<(), StateError>;

    /// Empties a table, in a time that does not depend on how much is in it.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn discard(&mut self, table: Table) -> Result<(), StateError>;

    /// Makes the rows of `from` those of `to`, whose own are discarded, and leaves `from` empty; in a time
    /// that does not depend on how many there are.
    ///
    /// # Errors
    /// Those of the storage engine.
    fn take_over(&mut self, from: Table, to: Table) -> Result<(), StateError>;
}

/// The tables in memory. A clone shares the bytes of keys and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemTables([BTreeMap<Bytes, Bytes>; Table::ALL.len()]);

type MemRow<'a> = Result<(&'a [u8], &'a [u8]), StateError>;

impl ReadTables for MemTables {
    type Slice<'a> = &'a [u8];
    type Rows<'a> = Map<btree_map::Range<'a, Bytes, Bytes>, for<'b> fn((&'b Bytes, &'b Bytes)) -> MemRow<'b>>;

    fn get<'a>(&'a self, table: Table, key: &[u8]) -> Result<Option<&'a [u8]>, StateError> {
        Ok(self.0[table.index()].get(key).map(Bytes::as_ref))
    }

    fn rows<'a>(&'a self, table: Table, bounds: RowBounds<'_>) -> Result<Self::Rows<'a>, StateError> {
        let row: for<'b> fn((&'b Bytes, &'b Bytes)) -> MemRow<'b> = |(key, value)| Ok((key, value));
        Ok(self.0[table.index()].range::<[u8], _>(bounds).map(row))
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        Ok(self.0[table.index()].len() as u64)
    }
}

impl WriteTables for MemTables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.0[table.index()].insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn replace(
        &mut self,
        table: Table,
        key: &[u8],
        next: impl FnOnce(&[u8]) -> Result<Vec<u8>, StateError>,
    ) -> Result<bool, StateError> {
        let Some(value) = self.0[table.index()].get_mut(key) else { return Ok(false) };
        *value = next(value)?.into();
        Ok(true)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StateError> {
        self.0[table.index()].remove(key);
        Ok(())
    }

    fn append(
        &mut self,
        table: Table,
        rows: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)],
    ) -> Result<(), StateError> {
        rows.iter().try_for_each(|(key, value)| self.put(table, key.as_ref(), value.as_ref()))
    }

    // What goes is freed at once, which is quick in memory, though not independent of how much it is.

    fn discard(&mut self, table: Table) -> Result<(), StateError> {
        self.0[table.index()].clear();
        Ok(())
    }

    fn take_over(&mut self, from: Table, to: Table) -> Result<(), StateError> {
        self.0[to.index()] = std::mem::take(&mut self.0[from.index()]);
        Ok(())
    }
}

/// All rows of all tables, for comparing two states.
#[cfg(test)]
pub(crate) fn dump(tables: &impl ReadTables) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        for row in tables.rows(table, (Bound::Unbounded, Bound::Unbounded)).unwrap() {
            let (key, value) = row.unwrap();
            rows.push((table, key.to_vec(), value.to_vec()));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_numbers_and_names_are_stable() {
        let all = Table::ALL.map(|table| (table.id(), table.name()));
        assert_eq!(
            all,
            [
                (0, "data"),
                (1, "tombstones"),
                (2, "history"),
                (3, "sessions"),
                (4, "session_order"),
                (5, "leases"),
                (6, "meta"),
                (7, "staging"),
                (8, "admissions"),
            ]
        );
        assert!(Table::ALL.iter().all(|table| Table::from_id(table.id()) == Some(*table)));
        assert_eq!(Table::from_id(9), None);
    }
}
