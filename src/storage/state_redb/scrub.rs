//! The state as the scrub sees it: the blocks of the file, and the rows of one table after the other.
//!
//! # Tiger Style
//! A step goes over its rows twice: forth with all checks, and back with none but their number.

use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::RedbState;
use crate::limits;
use crate::raft::types::LogId;
use crate::storage::checked_file::CheckedFile;
use crate::storage::damage::{Damage, DamageAlarm, looking_at};
use crate::storage::head::{self, Head};
use crate::storage::state_check::{RowOrder, check_row};
use crate::storage::tables::{ReadTables, RowBounds, StateError, Table};

/// What one step takes. Little in tests, so that steps end within a page.
const STEP_MAX_BYTES: u64 = if cfg!(test) { 1024 } else { limits::SCRUB_STEP_MAX_BYTES as u64 };

/// How far a scrub has come in a table.
#[derive(Clone, Debug)]
pub(in crate::storage) struct TableScrub {
    order: RowOrder,
    state: Seen,
}

/// The states that the steps in a table have seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    /// All of them this one, by what was applied.
    One(Option<LogId>),
    Several,
}

/// Rows that one step has checked.
#[derive(Debug, Default)]
pub(in crate::storage) struct ScrubbedRows {
    /// Where to go on; none at the end of the table.
    pub(in crate::storage) next: Option<TableScrub>,
    pub(in crate::storage) records: u64,
    pub(in crate::storage) bytes: u64,
}

impl TableScrub {
    /// At the beginning of a table.
    pub(in crate::storage) const fn begin(table: Table) -> Self {
        Self { order: RowOrder::begin(table), state: Seen::Nothing }
    }

    /// The table.
    pub(in crate::storage) const fn table(&self) -> Table {
        self.order.table()
    }

    fn see(&mut self, applied: Option<LogId>) {
        self.state = match self.state {
            Seen::Nothing => Seen::One(applied),
            Seen::One(same) if same == applied => Seen::One(applied),
            Seen::One(_) | Seen::Several => Seen::Several,
        };
    }
}

impl RedbState {
    /// The file that is the state now; a snapshot from a peer replaces it.
    pub(in crate::storage) fn file(&self) -> CheckedFile {
        self.store.handle().file.clone()
    }

    pub(in crate::storage) fn alarm(&self) -> &DamageAlarm {
        &self.store.alarm
    }

    /// Checks the next rows of a table.
    pub(in crate::storage) fn scrub_rows(&self, scrub: TableScrub) -> Result<ScrubbedRows, Damage> {
        let path = &self.store.path;
        let checked = looking_at(path, || {
            let checked = self.store.handle().read().and_then(|tables| check_rows(&tables, scrub));
            checked.or_else(|error| match error.damage_in(path) {
                Some(damage) => Err(damage),
                // The database is being closed under the scrub.
                None => Ok(ScrubbedRows::default()),
            })
        });
        checked.inspect_err(|damage| self.store.alarm.raise(damage.clone()))
    }
}

/// Checks rows until there are enough for one step.
fn check_rows<'t, T>(tables: &'t T, mut scrub: TableScrub) -> Result<ScrubbedRows, StateError>
where
    T: ReadTables<Rows<'t>: DoubleEndedIterator>,
{
    let head = Head::load(tables)?;
    scrub.see(head::load_applied(tables)?);
    let table = scrub.table();
    let behind = scrub.order.last().map(<[u8]>::to_vec);
    let from = behind.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut done = ScrubbedRows::default();
    let until = Instant::now() + Duration::from_millis(limits::SCRUB_STEP_MAX_MS);
    for row in tables.rows(table, (from, Bound::Unbounded))? {
        let (key, value) = row?;
        check_row(tables, &head, table, &key, &value)?;
        scrub.order.next(&key)?;
        done.records += 1;
        done.bytes += (key.len() + value.len()) as u64;
        if done.bytes >= STEP_MAX_BYTES || Instant::now() >= until {
            ensure_same_way_back(tables, table, (from, Bound::Included(&key)), done.records)?;
            done.next = Some(scrub);
            return Ok(done);
        }
    }
    // While entries are applied there is no number that rows of several states must come to. What the
    // scrub cannot count then, each snapshot counts.
    if let Seen::One(_) = scrub.state {
        scrub.order.ensure_all(tables)?;
    }
    Ok(done)
}

/// Checks that the rows of a step are as many from their end as from their beginning. A step that ends in a
/// page that stands in the wrong place has seen nothing but rows that grow, and the next one, which begins
/// with a look-up, would go on behind the right place and leave out what is between the two.
fn ensure_same_way_back<'t, T>(
    tables: &'t T,
    table: Table,
    rows: RowBounds<'_>,
    forth: u64,
) -> Result<(), StateError>
where
    T: ReadTables<Rows<'t>: DoubleEndedIterator>,
{
    let mut back = 0;
    for row in tables.rows(table, rows)?.rev() {
        let (key, _) = row?;
        back += 1;
        if back > forth {
            let reason = "a scan up to it leaves it out: a page is in the wrong place".to_owned();
            return Err(StateError::Malformed { table, key: Bytes::copy_from_slice(&key), reason });
        }
    }
    if back == forth {
        return Ok(());
    }
    let problem = format!("table '{table}' has {forth} rows in one direction and {back} in the other");
    Err(StateError::database(redb::Error::Corrupted(problem)))
}

#[cfg(test)]
mod tests;
