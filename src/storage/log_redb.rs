//! The log on disk: entries, vote, committed and purged ids in `raft.redb`.
//!
//! Calls change the view (`log_view`) at once and queue the write; one thread owns the disk and
//! writes whatever has gathered in one transaction. Vote, append, truncate and purge share that one
//! queue, because reordering them loses data. It must never report a write before it is on disk, and
//! never write again after a write failed: what the disk holds is unknown from then on.
//!
//! # Tiger Style
//! - An append returns at once unless [`limits::LOG_QUEUE_MAX_BYTES`] wait for the disk.
//! - A transaction takes [`limits::LOG_BATCH_MAX_BYTES`], and deletes
//!   [`limits::LOG_PURGE_STEP_MAX_ENTRIES`] purged entries.
//! - The committed id on disk never exceeds the entries on disk.
//! - The log is purged no further than the state on disk.

mod open;
mod queue;
mod reader;
mod scrub;
mod writer;

pub(super) mod recover;
pub(super) mod survey;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use redb::{Database, TableDefinition};
use tokio::sync::{Notify, oneshot};
use tracing::debug;

pub use open::OpenLogError;
pub use reader::RedbLogReader;
pub(super) use scrub::LogScrub;

use self::open::Opened;
use self::queue::Running;
use self::writer::{Command, Queued, Writer};
use super::checked_file::CheckedFile;
use super::damage::DamageAlarm;
use super::disk::{Disk, RealDisk};
use super::log_view::{LogError, LogView, entry_bytes};
use super::progress::Progress;
use crate::limits;
#[cfg(madsim)]
use crate::planted::{self, Bug};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// Index to sealed entry, until purged. Must stay stable.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// One of the keys below to a sealed value, for good. Must stay stable.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// A `Vote`. Must stay stable.
const VOTE: &str = "vote";
/// A `LogId`, at most that of the last entry. Must stay stable.
const COMMITTED: &str = "committed";
/// A `LogId`; entries up to it may still wait to be deleted. Must stay stable.
const PURGED: &str = "purged";

/// The log's file in a data directory. Must stay stable.
pub const LOG_FILE: &str = "raft.redb";

/// The log in a redb database. Dropping it writes what is queued and ends its thread.
#[derive(Debug)]
pub struct RedbLog {
    shared: Arc<Shared>,
    running: Running,
}

/// What the log, its readers and its thread have in common.
#[derive(Debug)]
struct Shared {
    database: Database,
    file: CheckedFile,
    path: PathBuf,
    alarm: DamageAlarm,
    progress: Arc<Progress>,
    state: Mutex<State>,
    /// Told after each commit, and when the thread gives up.
    drained: Notify,
    commits: AtomicU64,
}

#[derive(Debug)]
struct State {
    view: LogView,
    /// Absent once the log is dropped. Commands are sent under this lock, so that the queue has the
    /// order of the view's changes.
    queue: Option<queue::Sender>,
    queued_bytes: usize,
    failure: Option<Arc<str>>,
}

impl RedbLog {
    /// Opens the log at `path`, or makes it. It reads from and writes to the disk, so it belongs on a
    /// thread that may block.
    ///
    /// # Errors
    /// The file cannot be opened, is foreign or damaged, or its log has a hole.
    pub fn open(path: &Path, cache_bytes: usize, progress: Arc<Progress>) -> Result<Self, OpenLogError> {
        Self::open_on(Arc::new(RealDisk), path, cache_bytes, progress)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// The same.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        cache_bytes: usize,
        progress: Arc<Progress>,
    ) -> Result<Self, OpenLogError> {
        let opened = open::file(&disk, path, cache_bytes)?;
        Self::start(opened, disk, progress)
    }

    fn start(
        opened: Opened,
        #[cfg_attr(not(madsim), expect(unused_variables))] disk: Arc<dyn Disk>,
        progress: Arc<Progress>,
    ) -> Result<Self, OpenLogError> {
        let Opened { database, file, view, path, alarm } = opened;
        let (queue, commands) = queue::channel();
        progress.set_flushed(view.flushed());
        let state = State { view, queue: Some(queue), queued_bytes: 0, failure: None };
        let shared = Arc::new(Shared {
            database,
            file,
            path,
            alarm,
            progress,
            state: Mutex::new(state),
            drained: Notify::new(),
            commits: AtomicU64::new(0),
        });
        let writer = Writer::new(Arc::clone(&shared));
        #[cfg(not(madsim))]
        let running = Running::start(writer, commands);
        #[cfg(madsim)]
        let running = Running::start(writer, commands, disk);
        Ok(Self { shared, running: running.map_err(OpenLogError::Thread)? })
    }

    /// A reader, which may outlive the log.
    pub fn reader(&self) -> RedbLogReader {
        RedbLogReader::new(Arc::clone(&self.shared))
    }

    /// The index up to which the log is purged.
    pub fn purged_index(&self) -> Option<u64> {
        self.shared.lock().view.purged().map(|purged| purged.index)
    }

    /// Told when a read meets what was not written.
    pub fn alarm(&self) -> DamageAlarm {
        self.shared.alarm.clone()
    }

    pub(super) fn scrub(&self) -> LogScrub {
        LogScrub::new(Arc::clone(&self.shared))
    }

    /// Transactions committed since the log was opened.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Waits until the queue is below its bound, or the log has failed.
    async fn room_in_queue(&self) {
        loop {
            let drained = self.shared.drained.notified();
            {
                let state = self.shared.lock();
                if state.queued_bytes < limits::LOG_QUEUE_MAX_BYTES || state.failure.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// The id up to which a purge may go now: that which is asked for, or where the state on disk
    /// ends. The rest goes with a later purge.
    async fn purgeable(&self, to: LogId) -> Result<Option<LogId>, LogError> {
        let durable = self.shared.progress.durable();
        #[cfg(madsim)]
        let durable = match planted::has(Bug::PurgePastCheckpoint) {
            true => durable.max(Some(to.index)),
            false => durable,
        };
        let (indexes, purged) = {
            let state = self.shared.lock();
            state.check()?;
            (state.view.indexes(), state.view.purged())
        };
        if purged.is_some_and(|purged| purged.index >= to.index) {
            return Ok(None);
        }
        if durable >= Some(to.index) {
            return Ok(Some(to));
        }
        if to.index >= indexes.end {
            return Err(LogError::PurgesUnsavedState { index: to.index, next: indexes.end, durable });
        }
        debug!(asked = to.index, durable, "the log is purged only as far as the state is on disk");
        let Some(index) = durable.filter(|index| indexes.contains(index)) else { return Ok(None) };
        let entries = self.reader().read(index..index + 1, usize::MAX).await?;
        Ok(entries.first().map(|entry| entry.log_id))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl State {
    /// Refuses all work after a write failed.
    fn check(&self) -> Result<(), LogError> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(LogError::Failed(Arc::clone(failure))))
    }

    /// Hands a command, whose change the view already has, to the thread.
    fn send(&mut self, command: Command) {
        let position = match &command {
            // The view may hold the pieces behind this one, which the disk will not hold with it.
            Command::Append { entries, .. } => {
                entries.last().map_or(self.view.position(), |last| self.view.position_at(last.log_id.index))
            }
            _ => self.view.position(),
        };
        let queued = Queued { position, bytes: command.bytes(), command };
        self.queued_bytes += queued.bytes;
        self.queue
            .as_ref()
            .expect("only the log itself sends, and it is not dropped")
            .send(queued)
            .expect("the thread receives until it fails, which was checked under this lock");
    }

    /// Queues entries in pieces that fit into a transaction; the last piece carries the callback.
    fn send_entries(&mut self, entries: Vec<Entry>, callback: IOFlushed<TypeConfig>) {
        let (mut piece, mut piece_bytes) = (Vec::new(), 0);
        for entry in entries {
            let bytes = entry_bytes(&entry);
            if !piece.is_empty() && piece_bytes + bytes > queue::BATCH_MAX_BYTES {
                let entries = std::mem::take(&mut piece);
                self.send(Command::Append { entries, bytes: piece_bytes, callback: IOFlushed::noop() });
                piece_bytes = 0;
            }
            piece.push(entry);
            piece_bytes += bytes;
        }
        self.send(Command::Append { entries: piece, bytes: piece_bytes, callback });
    }
}

impl RaftLogStorage<TypeConfig> for RedbLog {
    type LogReader = RedbLogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.lock();
        Ok(LogState { last_purged_log_id: state.view.purged(), last_log_id: state.view.last() })
    }

    async fn get_log_reader(&mut self) -> RedbLogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let written = {
            let mut state = self.shared.lock();
            state.check()?;
            let (ack, written) = oneshot::channel();
            state.send(Command::SaveVote { vote: *vote, ack });
            written
        };
        Ok(acknowledged(written).await?)
    }

    /// Costs no write of its own: the thread takes the newest id along with whatever it writes next.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.shared.lock();
        state.check()?;
        state.view.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.lock().view.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.room_in_queue().await;
        let mut state = self.shared.lock();
        state.check()?;
        state.view.append(&entries)?;
        state.send_entries(entries, callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        #[cfg(madsim)]
        let last = match last {
            Some(last) if planted::has(Bug::TruncationOffByOne) => {
                Some(LogId { index: last.index + 1, ..last })
            }
            last => last,
        };
        let written = {
            let mut state = self.shared.lock();
            state.check()?;
            if !state.view.truncate_after(last)? {
                return Ok(());
            }
            // Lowered before anything may happen on disk, or a checkpoint could pass the log.
            self.shared.progress.set_flushed(state.view.flushed());
            let (ack, written) = oneshot::channel();
            let next = state.view.indexes().end;
            state.send(Command::Truncate { next, ack });
            written
        };
        Ok(acknowledged(written).await?)
    }

    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        let Some(to) = self.purgeable(to).await? else { return Ok(()) };
        let written = {
            let mut state = self.shared.lock();
            state.check()?;
            state.view.purge(to);
            let (ack, written) = oneshot::channel();
            state.send(Command::Purge { to, ack });
            written
        };
        Ok(acknowledged(written).await?)
    }
}

impl Drop for RedbLog {
    /// Blocks for the time of the last commit, which is the price of a clean end.
    fn drop(&mut self) {
        self.shared.lock().queue = None;
        self.running.join();
    }
}

async fn acknowledged(written: oneshot::Receiver<Result<(), LogError>>) -> Result<(), LogError> {
    written.await.expect("the thread answers every command, and a failure answers those that are left")
}
