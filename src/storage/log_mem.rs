//! The log in memory, for `--storage memory` and for tests.
//!
//! It reports everything as flushed at once. It must never be taken for a log that survives its
//! process: a node that uses it comes back as a new one.

use std::fmt::Debug;
use std::io;
use std::ops::{Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::log_view::{LogError, LogView, half_open};
use super::progress::Progress;
use crate::limits;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// A log in memory, which is its own reader.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    view: Arc<Mutex<LogView>>,
    progress: Arc<Progress>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(progress: Arc<Progress>) -> Self {
        Self { view: Arc::default(), progress }
    }

    fn lock(&self) -> MutexGuard<'_, LogView> {
        self.view.lock().expect("no code panics while it holds this lock")
    }

    fn read(&self, range: &Range<u64>, max_bytes: usize) -> Vec<Entry> {
        let view = self.lock();
        view.read_tail(&view.clamp(range), max_bytes)
    }

    /// Publishes that all there is counts as flushed.
    fn publish(&self, view: &mut LogView) {
        view.set_flushed(view.position());
        self.progress.set_flushed(view.flushed());
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(&half_open(&range), usize::MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let first = self.lock().indexes().start;
        if start < first && start < end {
            return Err(LogError::Purged { index: start, first }.into());
        }
        Ok(self.read(&(start..end), limits::APPEND_BATCH_MAX_BYTES))
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let view = self.lock();
        Ok(LogState { last_purged_log_id: view.purged(), last_log_id: view.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut view = self.lock();
        view.append(&entries)?;
        self.publish(&mut view);
        drop(view);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut view = self.lock();
        view.truncate_after(last)?;
        self.publish(&mut view);
        Ok(())
    }

    /// The state needs no log to replay, since neither survives the process: a purge goes as far as
    /// it is asked to.
    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        let mut view = self.lock();
        if view.purged().is_none_or(|purged| purged.index < to.index) {
            view.purge(to);
            self.publish(&mut view);
        }
        Ok(())
    }
}
