//! Giving back what a restore has thrown away: the rows of the tables that were the data before it.
//!
//! To free a table takes a look at each of its pages, which can be all of the file. So a commit only gives
//! it another name, under which nobody reads it, and its rows go a few at a time. They are no part of the
//! state: a replica may be done with them or not, and a crash in between costs nothing.
//!
//! # Tiger Style
//! Writes wait for [`limits::SWEEP_STEP_MAX_ROWS`] rows at a time, with
//! [`limits::SWEEP_PAUSE_MS`] in between.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::Durability;
use tracing::{error, info};

use super::RedbStore;
use crate::limits;
use crate::storage::tables::{StateError, has_discarded, sweep_discarded};

impl RedbStore {
    /// Removes all that was discarded, unless the store is closed before.
    pub(super) fn sweep(&self) {
        match self.watched(|| self.sweep_all()) {
            Ok(0) => {}
            Ok(steps) => info!(steps, "what a restore had replaced is removed from the state's file"),
            // The alarm, which ends the node, is raised already.
            Err(error) => error!(%error, "what a restore had replaced could not be removed"),
        }
    }

    fn sweep_all(&self) -> Result<u64, StateError> {
        let mut steps = 0;
        while !self.closing.load(Ordering::Relaxed) && self.sweep_step()? {
            steps += 1;
            // In the simulation there is one thread, and time stands still while it rests.
            if !cfg!(madsim) {
                std::thread::sleep(Duration::from_millis(limits::SWEEP_PAUSE_MS));
            }
        }
        Ok(steps)
    }

    /// Removes some rows. Returns whether there was something to remove.
    fn sweep_step(&self) -> Result<bool, StateError> {
        // Not while somebody else writes, for nothing: mostly there is nothing to sweep.
        if !has_discarded(&self.handle().database)? {
            return Ok(false);
        }
        let _pending = self.writer();
        let handle = self.handle();
        let mut transaction = handle.database.begin_write().map_err(StateError::database)?;
        transaction.set_durability(Durability::None).map_err(StateError::database)?;
        let swept = sweep_discarded(&transaction, limits::SWEEP_STEP_MAX_ROWS)?;
        transaction.commit().map_err(StateError::database)?;
        Ok(swept)
    }
}
