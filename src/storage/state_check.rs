//! What must hold for each row of the state, whoever looks: the scrub and the check of a stopped store.
//!
//! A row is whole if its checksum fits, its content decodes, a look-up by its key finds it, and the
//! rows that it points to are there. The look-up matters: a damaged inner page of a table leaves every
//! row readable in order, and hides some from those who ask for them by name.
//!
//! A damaged inner page can also lead a scan to a page that belongs elsewhere. Each row there is whole, and
//! those that it hides are never looked at. So rows must grow, and be as many as their table says.
//!
//! # Tiger Style
//! The change behind each live key and each tombstone that is above the compacted revision has its undo
//! record, and so has every change that an undo record leads back to.

use bytes::Bytes;

use super::admissions;
use super::apply::{Reply, Session};
use super::head::Head;
use super::record::{self, Change, Live, Previous, Undo};
use super::tables::{ReadTables, StateError, Table};
use crate::kv::types::Revision;

/// A scan of a table, which must see its rows in order, and all of them.
#[derive(Clone, Debug)]
pub(crate) struct RowOrder {
    table: Table,
    last: Option<Vec<u8>>,
    rows: u64,
}

impl RowOrder {
    /// A scan that begins at the first row.
    pub(crate) const fn begin(table: Table) -> Self {
        Self { table, last: None, rows: 0 }
    }

    /// The table.
    pub(crate) const fn table(&self) -> Table {
        self.table
    }

    /// The key of the last row.
    pub(crate) fn last(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    /// Takes the next row, whose key must be above the last one.
    pub(crate) fn next(&mut self, key: &[u8]) -> Result<(), StateError> {
        if self.last().is_some_and(|last| last >= key) {
            let last = self.last().unwrap_or_default().escape_ascii();
            let reason =
                format!("it comes after key \"{last}\" and is not above it: a page is in the wrong place");
            return Err(StateError::Malformed {
                table: self.table,
                key: Bytes::copy_from_slice(key),
                reason,
            });
        }
        key.clone_into(self.last.get_or_insert_default());
        self.rows += 1;
        Ok(())
    }

    /// Checks at the end that the table has no other rows. The tables must be those that all of the scan
    /// saw.
    pub(crate) fn ensure_all(&self, tables: &impl ReadTables) -> Result<(), StateError> {
        let (table, found, expected) = (self.table, self.rows, tables.count(self.table)?);
        if found == expected {
            return Ok(());
        }
        Err(StateError::Rows { table, expected, found })
    }
}

/// Checks one row as it stands in a scan of its table.
pub(crate) fn check_row(
    tables: &impl ReadTables,
    head: &Head,
    table: Table,
    key: &[u8],
    value: &[u8],
) -> Result<(), StateError> {
    let malformed =
        |reason: String| StateError::Malformed { table, key: Bytes::copy_from_slice(key), reason };
    match table {
        Table::Data => {
            let (live, _): (Live, _) = record::unseal_open(table, key, value)?;
            check_live(tables, head, table, key, key, live)?;
        }
        Table::Tombstones => {
            let (deleted, _): (Change, _) = record::unseal_open(table, key, value)?;
            check_change(tables, head, table, key, key, deleted)?;
        }
        Table::History => check_undo(tables, head, key, value)?,
        Table::Sessions => {
            let (session, reply): (Session, _) = record::unseal_open(table, key, value)?;
            let (_, rest): (Reply, _) = record::open(table, key, reply)?;
            let ordered = tables.get(Table::SessionOrder, &session.stamp.to_be_bytes())?;
            if !rest.is_empty() || ordered.is_none_or(|id| *id != *key) {
                return Err(malformed("its place in the order of use is another session's".to_owned()));
            }
        }
        Table::SessionOrder => {
            let Some(sealed) = tables.get(Table::Sessions, value)? else {
                return Err(malformed("the session that it names is not known".to_owned()));
            };
            let (session, _): (Session, _) = record::unseal_open(Table::Sessions, value, &sealed)?;
            if session.stamp.to_be_bytes() != *key || session.stamp >= head.sessions.next_stamp {
                return Err(malformed("the session that it names was used at another time".to_owned()));
            }
        }
        Table::Staging => {
            let (live, _): (Live, _) = record::unseal_open(Table::Data, key, value)?;
            check_versions(table, key, live)?;
        }
        Table::Admissions => admissions::check(key, value)?,
        Table::Leases | Table::Meta => {
            record::unseal(table, key, value)?;
        }
    }
    match tables.get(table, key)? {
        Some(found) if *found == *value => Ok(()),
        _ => Err(malformed("a look-up by its key does not find it".to_owned())),
    }
}

/// Checks the record of a key that is or was live.
fn check_live(
    tables: &impl ReadTables,
    head: &Head,
    table: Table,
    row: &[u8],
    key: &[u8],
    live: Live,
) -> Result<(), StateError> {
    check_versions(table, row, live)?;
    check_change(tables, head, table, row, key, live.changed)
}

fn check_versions(table: Table, row: &[u8], live: Live) -> Result<(), StateError> {
    if live.create_revision <= live.changed.revision && live.version > 0 {
        return Ok(());
    }
    let reason = format!(
        "version {} of a key that was created at revision {} cannot have been written at {}",
        live.version, live.create_revision, live.changed.revision
    );
    Err(StateError::Malformed { table, key: Bytes::copy_from_slice(row), reason })
}

/// Checks that a change was made, and can be undone unless it is compacted.
fn check_change(
    tables: &impl ReadTables,
    head: &Head,
    table: Table,
    row: &[u8],
    key: &[u8],
    change: Change,
) -> Result<(), StateError> {
    let current = head.revisions.current;
    if change.revision > current || change.revision == Revision(0) {
        let reason = format!("it was changed at revision {}, and the store is at {current}", change.revision);
        return Err(StateError::Malformed { table, key: Bytes::copy_from_slice(row), reason });
    }
    if change.revision <= head.revisions.compacted {
        return Ok(());
    }
    let broken = || StateError::BrokenHistory {
        key: Bytes::copy_from_slice(key),
        revision: change.revision.0,
        sub: change.sub,
    };
    let history = change.to_key();
    let sealed = tables.get(Table::History, &history)?.ok_or_else(broken)?;
    let (undo, _): (Undo, _) = record::unseal_open(Table::History, &history, &sealed)?;
    if undo.key == key { Ok(()) } else { Err(broken()) }
}

fn check_undo(tables: &impl ReadTables, head: &Head, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    let table = Table::History;
    let change = Change::from_key(key)?;
    let (undo, content): (Undo, _) = record::unseal_open(table, key, value)?;
    // A compaction that ended inside a revision leaves some of its changes.
    if change.revision > head.revisions.current || change.revision < head.revisions.compacted {
        let reason = format!(
            "it undoes a change of revision {}, and the history goes from {} to {}",
            change.revision, head.revisions.compacted, head.revisions.current
        );
        return Err(StateError::Malformed { table, key: Bytes::copy_from_slice(key), reason });
    }
    match undo.previous {
        Previous::Absent => Ok(()),
        Previous::Live => {
            let (live, _): (Live, _) = record::open(table, key, content)?;
            check_live(tables, head, table, key, &undo.key, live)
        }
        Previous::Deleted(deleted) => check_change(tables, head, table, key, &undo.key, deleted),
    }
}

#[cfg(test)]
pub(crate) mod tests;
