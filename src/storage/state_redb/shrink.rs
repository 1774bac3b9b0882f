//! Giving disk space back: the state is copied into a new file, which takes the old one's place.
//!
//! A database file never gets smaller by itself: what is deleted leaves free pages behind. The copy is
//! made from a view of the state while entries go on being applied; those are kept, and applied to the
//! copy as well, in rounds that get shorter, the last one while writes wait. Applying is a pure
//! function of the rows and the entries, so both files end with the same rows.
//!
//! Damage must never be copied: each row's checksum is looked at, and the rows are counted.
//!
//! # Tiger Style
//! - A crash at any point leaves the old file or the new one, whole: the copy has another name until it
//!   is durable, and it never is what the log is not.
//! - Writes wait for [`limits::SHRINK_LAST_STEP_BYTES`] of entries, one small commit, a rename and the
//!   sync of a directory.
//! - At most [`limits::SHRINK_BEHIND_MAX_BYTES`] of entries are kept for the copy; it is given up above
//!   that, when the store closes, and when a snapshot from a peer replaces the state.

use std::collections::VecDeque;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redb::Durability;
use tracing::{debug, error, info, warn};

use super::handle::{Handle, create_database, remove_leftover};
use super::{DurableView, Pending, RedbStore, caught};
use crate::limits;
use crate::storage::StorageError;
use crate::storage::batch::{self, BatchEntry, Marks};
use crate::storage::damage::{Damage, Place};
use crate::storage::disk;
use crate::storage::pace::Pace;
use crate::storage::tables::{ReadTables, RedbRead, RedbWrite, StateError, Table, append_rows};

/// The copy, until it takes the state's name. What a crash leaves of it is removed at the next start.
pub(in crate::storage) const SHRUNK_STATE_FILE: &str = "state.redb.shrunk";

/// What a copy achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// What the file took up before.
    pub before_bytes: u64,
    /// What it takes up now.
    pub after_bytes: u64,
    /// How long writes waited in the end.
    pub stalled: Duration,
}

/// Why no copy took the file's place. But for [`Self::NotDurable`], and where the state itself is damaged or its
/// disk fails, the state goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum ShrinkError {
    /// Another one is under way.
    #[error("the state is being copied already")]
    Busy,
    /// There is no room for a second file.
    #[error("a copy needs {needed_bytes} bytes and the disk has {free_bytes} free: make room on it")]
    NoRoom {
        /// What the copy may take.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The state was replaced, or the store is being closed.
    #[error("the state that was being copied is not the current one any more")]
    Superseded,
    /// The copy does not catch up.
    #[error("the state changes faster than it can be copied")]
    TooFarBehind,
    /// The log is not on disk as far as the state.
    #[error("the log was not on disk as far as the copy: the disk is too slow or stuck")]
    LogBehind,
    /// A database failed, or a row is damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// The new file could not be made.
    #[error(transparent)]
    Open(#[from] StorageError),
    /// The operating system refused.
    #[error("the files of the state could not be exchanged: {0}")]
    Io(#[from] io::Error),
    /// They were exchanged, and a power cut may undo that. The node must start again.
    #[error("the files of the state were exchanged, and that could not be made durable: {0}. The node ends")]
    NotDurable(io::Error),
}

/// Entries that were applied since the view of a copy, for the copy.
#[derive(Default)]
pub(super) struct Behind {
    batches: VecDeque<Vec<BatchEntry>>,
    bytes: usize,
    overflown: bool,
}

impl Behind {
    /// Keeps a batch that the state has applied.
    pub(super) fn push(&mut self, batch: Vec<BatchEntry>, bytes: usize) {
        self.bytes += bytes;
        if self.overflown || self.bytes > limits::SHRINK_BEHIND_MAX_BYTES {
            *self = Self { overflown: true, ..Self::default() };
        } else {
            self.batches.push_back(batch);
        }
    }
}

impl RedbStore {
    /// What the state's file takes up.
    pub(super) fn file_bytes(&self) -> io::Result<u64> {
        self.disk.allocated_bytes(&self.path)
    }

    /// Shrinks the file if it is far larger than the rows in it. The newest snapshot tells how much
    /// that is: it has just these rows and nothing else.
    pub(super) fn shrink_if_due(&self) {
        let Some((_, snapshot)) = self.snapshots.current() else { return };
        let due = match self.file_bytes() {
            Ok(bytes) => is_due(bytes, snapshot.len()),
            Err(error) => return warn!(%error, "the length of the state's file is not known"),
        };
        if !due {
            return;
        }
        match self.shrink() {
            Ok(_) => {}
            Err(error @ (ShrinkError::Superseded | ShrinkError::Busy)) => debug!(%error, "no copy was made"),
            Err(error) if self.alarm.get().is_some() => {
                error!(%error, "the state's file was not made smaller");
            }
            Err(error) => warn!(%error, "the state's file was not made smaller; it is tried again later"),
        }
    }

    /// Copies the state into a new file, which takes the old one's place. It blocks until then.
    pub(super) fn shrink(&self) -> Result<Shrunk, ShrinkError> {
        let Ok(_one) = self.shrinking.try_lock() else { return Err(ShrinkError::Busy) };
        let path = self.path.with_file_name(SHRUNK_STATE_FILE);
        let started = Instant::now();
        let before_bytes = self.file_bytes()?;
        self.ensure_room()?;
        let copied = caught(|| self.copy_and_replace(&path)).map_err(|error| self.noticed_in_copy(error));
        self.writer().behind = None;
        let stalled = match copied {
            Ok(stalled) => stalled,
            Err(error) => {
                remove_leftover(&*self.disk, &path)?;
                return Err(error);
            }
        };
        let after_bytes = self.file_bytes()?;
        metrics::counter!("aspen_state_shrinks_total").increment(1);
        info!(
            before_bytes,
            after_bytes,
            took_ms = started.elapsed().as_millis(),
            writes_waited_ms = stalled.as_millis(),
            "the state was copied into a smaller file"
        );
        Ok(Shrunk { before_bytes, after_bytes, stalled })
    }

    /// A copy of random rows takes about one and a half times their bytes.
    fn ensure_room(&self) -> Result<(), ShrinkError> {
        let rows_bytes = self.snapshots.current().map_or(0, |(_, snapshot)| snapshot.len());
        let needed_bytes = rows_bytes * 2 + limits::SHRINK_FREE_MIN_BYTES;
        let free_bytes = self.disk.free_bytes(&self.path)?;
        if free_bytes < needed_bytes {
            return Err(ShrinkError::NoRoom { needed_bytes, free_bytes });
        }
        Ok(())
    }

    fn copy_and_replace(&self, path: &Path) -> Result<Duration, ShrinkError> {
        remove_leftover(&*self.disk, path)?;
        let view = self.durable_view(|pending| pending.behind = Some(Behind::default()))?;
        let handle = create_database(&self.disk, path, self.options, &self.alarm)?;
        let copy = Copy { store: self, path: path.to_owned(), handle };
        copy.copy_rows(view)?;
        copy.catch_up()?;
        copy.replace()
    }

    /// Raises the alarm where the state is damaged or its disk fails. A copy that fails, for want of room say,
    /// is given up, and the state goes on.
    fn noticed_in_copy(&self, error: ShrinkError) -> ShrinkError {
        let error = match error {
            ShrinkError::State(error) => error,
            ShrinkError::Io(error) => match error.downcast::<StateError>() {
                Ok(error) => error,
                Err(error) => return ShrinkError::Io(error),
            },
            other => return other,
        };
        match error.is_io_failure() && !self.handle().file.has_failed() {
            true => ShrinkError::State(error),
            false => ShrinkError::State(self.noticed(error)),
        }
    }

    /// What was applied since the view or the last call.
    fn take_behind(&self) -> Result<Behind, ShrinkError> {
        take_behind(&mut self.writer())
    }
}

fn take_behind(pending: &mut Pending) -> Result<Behind, ShrinkError> {
    let behind = pending.behind.as_mut().ok_or(ShrinkError::Superseded)?;
    if behind.overflown {
        return Err(ShrinkError::TooFarBehind);
    }
    Ok(std::mem::take(behind))
}

fn is_due(file_bytes: u64, rows_bytes: u64) -> bool {
    file_bytes >= limits::SHRINK_MIN_BYTES && file_bytes > rows_bytes * limits::SHRINK_MIN_RATIO
}

/// A copy that is being made. The file of one that is given up is removed by whoever began it.
struct Copy<'s> {
    store: &'s RedbStore,
    path: PathBuf,
    handle: Handle,
}

impl Copy<'_> {
    fn copy_rows(&self, view: DurableView) -> Result<(), ShrinkError> {
        let DurableView { transaction, _handle } = view;
        let from = RedbRead::new(transaction);
        let mut pace = Pace::begin();
        for table in Table::ALL {
            let mut rows = from.rows(table, (Bound::Unbounded, Bound::Unbounded))?;
            let (mut found, mut more) = (0, true);
            while more {
                self.ensure_wanted()?;
                let transaction = self.handle.database.begin_write().map_err(StateError::database)?;
                let (count, more_rows) =
                    append_rows(&transaction, table, &mut rows, limits::COPY_STEP_BYTES)?;
                transaction.commit().map_err(StateError::database)?;
                (found, more) = (found + count, more_rows);
                pace.end_step();
            }
            let expected = from.count(table)?;
            if found != expected {
                return Err(StateError::Rows { table, expected, found }.into());
            }
        }
        Ok(())
    }

    fn ensure_wanted(&self) -> Result<(), ShrinkError> {
        if self.store.closing.load(Ordering::Relaxed) {
            return Err(ShrinkError::Superseded);
        }
        match &self.store.writer().behind {
            None => Err(ShrinkError::Superseded),
            Some(behind) if behind.overflown => Err(ShrinkError::TooFarBehind),
            Some(_) => Ok(()),
        }
    }

    /// Applies what came meanwhile, until little is left, and makes the copy durable but for that.
    fn catch_up(&self) -> Result<(), ShrinkError> {
        for _ in 0..limits::SHRINK_ROUNDS_MAX_COUNT {
            self.ensure_wanted()?;
            let behind = self.store.take_behind()?;
            self.apply(behind, Durability::Immediate)?;
            let left = self.store.writer().behind.as_ref().map_or(0, |behind| behind.bytes);
            if left <= limits::SHRINK_LAST_STEP_BYTES {
                return Ok(());
            }
        }
        Err(ShrinkError::TooFarBehind)
    }

    /// Applies batches in the bounds in which the state applied them, and commits once.
    fn apply(&self, behind: Behind, durability: Durability) -> Result<Option<Marks>, ShrinkError> {
        let mut transaction = self.handle.database.begin_write().map_err(StateError::database)?;
        transaction.set_durability(durability).map_err(StateError::database)?;
        transaction.set_quick_repair(true);
        let mut marks = None;
        {
            let mut tables = RedbWrite::new(&transaction);
            for batch in behind.batches {
                marks = Some(batch::apply(&mut tables, &batch)?.1);
            }
        }
        transaction.commit().map_err(StateError::database)?;
        Ok(marks)
    }

    /// Applies the rest and takes the old file's place, while writes wait. Returns for how long.
    fn replace(self) -> Result<Duration, ShrinkError> {
        let store = self.store;
        let mut pending = store.writer();
        let began = Instant::now();
        if !store.log_reaches_state(Duration::from_millis(limits::CHECKPOINT_FLUSH_WAIT_MS)) {
            return Err(ShrinkError::LogBehind);
        }
        let behind = take_behind(&mut pending)?;
        self.apply(behind, Durability::Immediate)?;
        let marks = Marks::load(&self.handle.read()?)?;
        assert_eq!(
            (marks.applied_index, marks.revision),
            (store.marks.applied_index(), store.marks.revision()),
            "the copy has applied what the state has"
        );
        store.disk.rename(&self.path, &store.path)?;
        let fuse = self.handle.fuse.clone();
        let old = {
            let mut current = store.handle.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(self.handle))
        };
        // Its file has no name any more.
        old.fuse.blow();
        // A power cut would bring the old file back, which no checkpoint must be ahead of: none is made.
        let dir = disk::parent(&store.path);
        store.disk.sync_dir(dir).map_err(|error| {
            fuse.blow();
            store.alarm.raise(Damage::failure(dir, Place::File, &error));
            ShrinkError::NotDurable(error)
        })?;
        *pending = Pending { durable_index: marks.applied_index, ..Pending::default() };
        store.progress.set_durable(marks.applied_index);
        Ok(began.elapsed())
    }
}

#[cfg(test)]
mod tests;
