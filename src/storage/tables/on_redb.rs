//! The tables in a redb transaction.

use std::array;
use std::cell::OnceCell;
use std::iter::Map;
use std::ops::{Bound, Deref};

use bytes::Bytes;
use redb::{
    AccessGuard, CursorError, Database, Range, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, TableDefinition, TableError, TableHandle, WriteTransaction,
};

use crate::storage::record;

use super::{ReadTables, RowBounds, StateError, Table, WriteTables};

type Raw = &'static [u8];

const fn definition(table: Table) -> TableDefinition<'static, Raw, Raw> {
    TableDefinition::new(table.name())
}

/// Bytes in a page of the database.
pub(crate) struct RedbSlice<'a>(AccessGuard<'a, Raw>);

impl Deref for RedbSlice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.value()
    }
}

type RedbPair<'a> = redb::Result<(AccessGuard<'a, Raw>, AccessGuard<'a, Raw>)>;
type RedbRow<'a> = Result<(RedbSlice<'a>, RedbSlice<'a>), StateError>;
type RedbRows<'a> = Map<Range<'a, Raw, Raw>, fn(RedbPair<'a>) -> RedbRow<'a>>;

fn get<'a>(table: &'a impl ReadableTable<Raw, Raw>, key: &[u8]) -> Result<Option<RedbSlice<'a>>, StateError> {
    Ok(table.get(key).map_err(StateError::database)?.map(RedbSlice))
}

fn rows<'a>(
    table: &'a impl ReadableTable<Raw, Raw>,
    bounds: RowBounds<'_>,
) -> Result<RedbRows<'a>, StateError> {
    let row: fn(RedbPair<'a>) -> RedbRow<'a> = |pair| {
        let (key, value) = pair.map_err(StateError::database)?;
        Ok((RedbSlice(key), RedbSlice(value)))
    };
    Ok(table.range::<&[u8]>(bounds).map_err(StateError::database)?.map(row))
}

/// The tables as of one read transaction, each opened when it is first used: most reads touch two.
pub(crate) struct RedbRead {
    transaction: ReadTransaction,
    tables: [OnceCell<ReadOnlyTable<Raw, Raw>>; Table::ALL.len()],
}

impl RedbRead {
    pub(crate) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction, tables: array::from_fn(|_| OnceCell::new()) }
    }

    /// Makes the tables that an older Aspen did not. Those that every Aspen makes are not made again: one
    /// that is missing is damage.
    pub(crate) fn add_missing(database: &Database) -> Result<(), StateError> {
        const NEWER: [Table; 2] = [Table::Staging, Table::Admissions];
        let transaction = database.begin_read().map_err(StateError::database)?;
        let is_missing = |table: &Table| match transaction.open_table(definition(*table)) {
            Err(TableError::TableDoesNotExist(_)) => Ok(true),
            found => found.map(|_| false).map_err(StateError::database),
        };
        let mut missing = Vec::new();
        for table in NEWER {
            if is_missing(&table)? {
                missing.push(table);
            }
        }
        drop(transaction);
        if missing.is_empty() {
            return Ok(());
        }
        let mut transaction = database.begin_write().map_err(StateError::database)?;
        transaction.set_quick_repair(true);
        for table in missing {
            transaction.open_table(definition(table)).map_err(StateError::database)?;
        }
        transaction.commit().map_err(StateError::database)
    }

    /// Opens every table, to see that they are there and of the right kind.
    pub(crate) fn open_all(&self) -> Result<(), StateError> {
        Table::ALL.into_iter().try_for_each(|table| self.table(table).map(drop))
    }

    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Raw, Raw>, StateError> {
        let cell = &self.tables[table.index()];
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open = self.transaction.open_table(definition(table)).map_err(StateError::database)?;
        Ok(cell.get_or_init(|| open))
    }
}

impl ReadTables for RedbRead {
    type Slice<'a> = RedbSlice<'a>;
    type Rows<'a> = RedbRows<'a>;

    fn get<'a>(&'a self, table: Table, key: &[u8]) -> Result<Option<RedbSlice<'a>>, StateError> {
        get(self.table(table)?, key)
    }

    fn rows<'a>(&'a self, table: Table, bounds: RowBounds<'_>) -> Result<RedbRows<'a>, StateError> {
        rows(self.table(table)?, bounds)
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        self.table(table)?.len().map_err(StateError::database)
    }
}

/// The tables in a write transaction, each opened when it is first used: a put touches three. Dropping it leaves
/// the transaction free to commit.
pub(crate) struct RedbWrite<'t> {
    transaction: &'t WriteTransaction,
    tables: [OnceCell<redb::Table<'t, Raw, Raw>>; Table::ALL.len()],
}

impl<'t> RedbWrite<'t> {
    pub(crate) fn new(transaction: &'t WriteTransaction) -> Self {
        Self { transaction, tables: array::from_fn(|_| OnceCell::new()) }
    }

    /// Makes those tables that are not there.
    pub(crate) fn make_all(&self) -> Result<(), StateError> {
        Table::ALL.into_iter().try_for_each(|table| self.table(table).map(drop))
    }

    fn table(&self, table: Table) -> Result<&redb::Table<'t, Raw, Raw>, StateError> {
        let cell = &self.tables[table.index()];
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open = self.transaction.open_table(definition(table)).map_err(StateError::database)?;
        Ok(cell.get_or_init(|| open))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut redb::Table<'t, Raw, Raw>, StateError> {
        self.table(table)?;
        Ok(self.tables[table.index()].get_mut().expect("it was just opened"))
    }

    /// Gives a table a name under which nobody looks for it, and closes it.
    fn put_away(&mut self, table: Table) -> Result<(), StateError> {
        self.tables[table.index()].take();
        let taken = |name: &str| -> Result<bool, StateError> {
            let mut names = self.transaction.list_tables().map_err(StateError::database)?;
            Ok(names.any(|handle| handle.name() == name))
        };
        let mut number = 0_u64;
        let name = loop {
            let name = format!("{DISCARDED}{number}");
            if !taken(&name)? {
                break name;
            }
            number += 1;
        };
        let renamed = self.transaction.rename_table(definition(table), discarded(&name));
        renamed.map_err(StateError::database)
    }
}

/// What the names of discarded tables begin with. They are no part of the state; their rows are removed a
/// few at a time.
const DISCARDED: &str = "discarded-";

fn discarded(name: &str) -> TableDefinition<'_, Raw, Raw> {
    TableDefinition::new(name)
}

/// Removes some rows of a discarded table, or the table once it is empty. Returns whether there may be
/// more to remove.
pub(crate) fn sweep_discarded(transaction: &WriteTransaction, max_rows: usize) -> Result<bool, StateError> {
    let mut names = transaction.list_tables().map_err(StateError::database)?;
    let Some(name) = names.find(|handle| handle.name().starts_with(DISCARDED)) else { return Ok(false) };
    let mut table = transaction.open_table(discarded(name.name())).map_err(StateError::database)?;
    for _ in 0..max_rows {
        if table.pop_first().map_err(StateError::database)?.is_none() {
            drop(table);
            transaction.delete_table(discarded(name.name())).map_err(StateError::database)?;
            break;
        }
    }
    Ok(true)
}

/// Whether a database has discarded tables.
pub(crate) fn has_discarded(database: &Database) -> Result<bool, StateError> {
    let transaction = database.begin_read().map_err(StateError::database)?;
    let mut names = transaction.list_tables().map_err(StateError::database)?;
    Ok(names.any(|handle| handle.name().starts_with(DISCARDED)))
}

/// Adds rows behind all others of a table, in their order, until there are `max_bytes` or no more.
/// Returns how many there were, and whether there may be more.
pub(crate) fn append_rows<'a>(
    transaction: &WriteTransaction,
    table: Table,
    rows: &mut impl Iterator<Item = RedbRow<'a>>,
    max_bytes: usize,
) -> Result<(u64, bool), StateError> {
    let mut to = transaction.open_table(definition(table)).map_err(StateError::database)?;
    let mut end = to.upper_bound_mut(Bound::<&[u8]>::Unbounded).map_err(StateError::database)?;
    let (mut count, mut bytes) = (0, 0);
    for row in rows {
        let (key, value) = row?;
        record::check_row(table, &key, &value)?;
        end.insert_before(&*key, &*value).map_err(|error| not_appended(table, &key, error))?;
        count += 1;
        bytes += key.len() + value.len();
        if bytes >= max_bytes {
            end.close().map_err(StateError::database)?;
            return Ok((count, true));
        }
    }
    end.close().map_err(StateError::database)?;
    Ok((count, false))
}

/// Keys that do not grow mean that a page stands in the wrong place.
fn not_appended(table: Table, key: &[u8], error: CursorError) -> StateError {
    match error {
        CursorError::Storage(error) => StateError::database(error),
        other => StateError::Malformed { table, key: Bytes::copy_from_slice(key), reason: other.to_string() },
    }
}

impl ReadTables for RedbWrite<'_> {
    type Slice<'a>
        = RedbSlice<'a>
    where
        Self: 'a;
    type Rows<'a>
        = RedbRows<'a>
    where
        Self: 'a;

    fn get<'a>(&'a self, table: Table, key: &[u8]) -> Result<Option<RedbSlice<'a>>, StateError> {
        get(self.table(table)?, key)
    }

    fn rows<'a>(&'a self, table: Table, bounds: RowBounds<'_>) -> Result<RedbRows<'a>, StateError> {
        rows(self.table(table)?, bounds)
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        self.table(table)?.len().map_err(StateError::database)
    }
}

impl WriteTables for RedbWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.table_mut(table)?.insert(key, value).map_err(StateError::database)?;
        Ok(())
    }

    fn replace(
        &mut self,
        table: Table,
        key: &[u8],
        next: impl FnOnce(&[u8]) -> Result<Vec<u8>, StateError>,
    ) -> Result<bool, StateError> {
        let table = self.table_mut(table)?;
        let Some(mut found) = table.get_mut(key).map_err(StateError::database)? else { return Ok(false) };
        let value = next(found.value())?;
        // In its place a page is never split: one whose values grow would grow with them.
        if value.len() <= found.value().len() {
            found.insert(&*value).map_err(StateError::database)?;
        } else {
            drop(found);
            table.insert(key, &*value).map_err(StateError::database)?;
        }
        Ok(true)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StateError> {
        self.table_mut(table)?.remove(key).map_err(StateError::database)?;
        Ok(())
    }

    fn append(
        &mut self,
        table: Table,
        rows: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)],
    ) -> Result<(), StateError> {
        let to = self.table_mut(table)?;
        let mut end = to.upper_bound_mut(Bound::<&[u8]>::Unbounded).map_err(StateError::database)?;
        for (key, value) in rows {
            let (key, value) = (key.as_ref(), value.as_ref());
            end.insert_before(key, value).map_err(|error| not_appended(table, key, error))?;
        }
        end.close().map_err(StateError::database)
    }

    fn discard(&mut self, table: Table) -> Result<(), StateError> {
        if self.count(table)? == 0 {
            return Ok(());
        }
        self.put_away(table)?;
        self.table(table).map(drop)
    }

    fn take_over(&mut self, from: Table, to: Table) -> Result<(), StateError> {
        self.put_away(to)?;
        self.tables[from.index()].take();
        let renamed = self.transaction.rename_table(definition(from), definition(to));
        renamed.map_err(StateError::database)?;
        // The one that was taken over is there again, and empty.
        self.table(from).map(drop)
    }
}
