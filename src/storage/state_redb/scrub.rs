//! The state as the scrub sees it: the blocks of the file, and the rows of one table after the other.

use std::ops::Bound;
use std::time::{Duration, Instant};

use super::RedbState;
use crate::limits;
use crate::storage::checked_file::CheckedFile;
use crate::storage::damage::{Damage, DamageAlarm, looking_at};
use crate::storage::head::Head;
use crate::storage::state_check::check_row;
use crate::storage::tables::{ReadTables, StateError, Table};

/// Rows that one step has checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct ScrubbedRows {
    /// The key behind which to go on; none at the end of the table.
    pub(in crate::storage) after: Option<Vec<u8>>,
    pub(in crate::storage) records: u64,
    pub(in crate::storage) bytes: u64,
}

impl RedbState {
    /// The file that is the state now; a snapshot from a peer replaces it.
    pub(in crate::storage) fn file(&self) -> CheckedFile {
        self.store.handle().file.clone()
    }

    pub(in crate::storage) fn alarm(&self) -> &DamageAlarm {
        &self.store.alarm
    }

    /// Checks the rows of a table behind a key.
    pub(in crate::storage) fn scrub_rows(
        &self,
        table: Table,
        after: Option<&[u8]>,
    ) -> Result<ScrubbedRows, Damage> {
        let path = &self.store.path;
        let checked = looking_at(path, || {
            self.check_rows(table, after).or_else(|error| match error.damage_in(path) {
                Some(damage) => Err(damage),
                // The database is being closed under the scrub.
                None => Ok(ScrubbedRows::default()),
            })
        });
        checked.inspect_err(|damage| self.store.alarm.raise(damage.clone()))
    }

    fn check_rows(&self, table: Table, after: Option<&[u8]>) -> Result<ScrubbedRows, StateError> {
        let handle = self.store.handle();
        let tables = handle.read()?;
        let head = Head::load(&tables)?;
        let mut done = ScrubbedRows::default();
        let until = Instant::now() + Duration::from_millis(limits::SCRUB_STEP_MAX_MS);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for row in tables.rows(table, (from, Bound::Unbounded))? {
            let (key, value) = row?;
            check_row(&tables, &head, table, &key, &value)?;
            done.records += 1;
            done.bytes += (key.len() + value.len()) as u64;
            if done.bytes >= limits::SCRUB_STEP_MAX_BYTES as u64 || Instant::now() >= until {
                done.after = Some(key.to_vec());
                break;
            }
        }
        Ok(done)
    }
}
