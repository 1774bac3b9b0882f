//! The state in `state.redb`, with its snapshots in `snapshots/`.
//!
//! Batches are committed without waiting for the disk; a checkpoint makes them durable together. What
//! is newer than the last checkpoint is applied again from the log after a crash. A snapshot from a
//! peer is built up as a whole new database, which then replaces the old one by a rename.
//!
//! # Tiger Style
//! - A durable state never passes the flushed log: not at a checkpoint, in a snapshot, nor on close.
//! - One writer at a time: apply, checkpoint and the replacement hold the same lock, which no one holds
//!   longer than [`limits::CHECKPOINT_FLUSH_WAIT_MS`] and an fsync.
//! - A crash at any point leaves the old or the new state whole.

mod backup;
mod handle;
mod rebuild;
mod scrub;
mod shrink;
mod sweep;

use std::io::{self, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use redb::{Durability, ReadTransaction, ReadableDatabase};
use tracing::{error, warn};

use super::batch::{self, BatchEntry, PublishedMarks};
use super::caretaker::{Bell, Caretaker};
use super::damage::{Damage, DamageAlarm, Place};
use super::database::panic_message;
use super::disk::{Disk, RealDisk};
use super::head;
use super::pace::PacedWriter;
use super::progress::Progress;
use super::snapshot::SnapshotData;
use super::snapshot::files::SnapshotDir;
use super::snapshot::format;
use super::state::StateMachine;
use super::syncs::SyncedFile;
use super::tables::{RedbRead, RedbWrite, StateError, has_discarded};
use super::{StorageError, StorageOptions, admissions, read};
use crate::kv::types::{
    Admitted, KvError, NodeId, OutstandingTicket, PublicKey, RangeReply, ReadRequest, Revision, SecretHash,
};
use crate::limits;
use crate::raft::types::{Applied, LogId, SnapshotMeta, StoredMembership};

use handle::{Handle, build_database, content, create_empty, open_existing, remove_leftover};
pub(super) use rebuild::Rebuild;
pub(super) use scrub::TableScrub;
use shrink::Behind;
pub(super) use shrink::SHRUNK_STATE_FILE;
pub use shrink::{ShrinkError, Shrunk};

/// The file in a data directory. Must stay stable.
pub const STATE_FILE: &str = "state.redb";
pub(super) const NEW_STATE_FILE: &str = "state.redb.new";
pub(super) const SNAPSHOT_DIR: &str = "snapshots";

/// Opens the state in a data directory, or begins an empty one. The directory must be this process's
/// alone.
///
/// # Errors
/// Where the directory cannot be used, or holds a state that is damaged or not Aspen's.
pub fn open(
    dir: &Path,
    options: StorageOptions,
    progress: Arc<Progress>,
) -> Result<StateMachine, StorageError> {
    open_on(Arc::new(RealDisk), dir, options, progress)
}

/// The same on any disk.
///
/// # Errors
/// The same.
pub fn open_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: StorageOptions,
    progress: Arc<Progress>,
) -> Result<StateMachine, StorageError> {
    RedbState::open(disk, dir, options, progress).map(StateMachine::redb)
}

/// Opens a state as if it were too large to be checked whole at the open.
#[cfg(test)]
pub(super) fn open_unchecked(
    dir: &Path,
    options: StorageOptions,
    progress: Arc<Progress>,
) -> Result<StateMachine, StorageError> {
    RedbState::open_within(Arc::new(RealDisk), dir, options, progress, 0).map(StateMachine::redb)
}

/// The state on disk, and the threads that look after it.
pub(crate) struct RedbState {
    // Both end before the store is closed.
    checkpointer: Option<Caretaker>,
    shrinker: Option<Caretaker>,
    store: Arc<RedbStore>,
}

struct RedbStore {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: StorageOptions,
    progress: Arc<Progress>,
    alarm: DamageAlarm,
    snapshots: Arc<SnapshotDir>,
    marks: PublishedMarks,
    bell: Arc<Bell>,
    /// Rung when a table was discarded, for the one who shrinks.
    sweep_bell: Arc<Bell>,
    /// Replaced when a snapshot is installed. A reader keeps the one that it began with.
    handle: RwLock<Arc<Handle>>,
    /// Held by whoever writes. The published marks change only under it.
    writer: Mutex<Pending>,
    /// Held while the state is copied into a smaller file.
    shrinking: Mutex<()>,
    /// Set when the store is about to be closed.
    closing: AtomicBool,
    /// Bytes of commands applied since the store was opened.
    applied_bytes: AtomicU64,
}

/// What is not durable yet.
#[derive(Default)]
struct Pending {
    /// Applied index of the last checkpoint.
    durable_index: Option<u64>,
    /// Bytes of commands applied since.
    bytes: u64,
    /// What was applied since a copy of the state was begun, if one is.
    behind: Option<Behind>,
}

/// A consistent view of a state that is on disk, as is the log that leads to it.
struct DurableView {
    // Before the handle: a transaction ends before its database closes.
    transaction: ReadTransaction,
    _handle: Arc<Handle>,
}

impl RedbState {
    fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StorageOptions,
        progress: Arc<Progress>,
    ) -> Result<Self, StorageError> {
        Self::open_within(disk, dir, options, progress, limits::STATE_CHECK_AT_OPEN_MAX_BYTES)
    }

    /// The same with the length up to which the file is checked whole.
    fn open_within(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StorageOptions,
        progress: Arc<Progress>,
        whole_check_max_bytes: u64,
    ) -> Result<Self, StorageError> {
        let store = Arc::new(RedbStore::open(disk, dir, options, progress, whole_check_max_bytes)?);
        let checkpoint = |store: &RedbStore| match store
            .checkpoint(Duration::from_millis(limits::CHECKPOINT_FLUSH_WAIT_MS))
        {
            Ok(true) => {}
            Ok(false) => warn!("the log is not on disk as far as the state; no checkpoint was made"),
            // The alarm, which ends the node, is raised already.
            Err(error) => error!(%error, "a checkpoint of the state failed"),
        };
        let interval = options.checkpoint_interval;
        let checkpointer = look_after(&store, "state-checkpoint", store.bell.clone(), interval, checkpoint)
            .map_err(StorageError::io("start the checkpoint thread for", &store.path))?;
        let shrink = |store: &RedbStore| {
            store.sweep();
            store.shrink_if_due();
        };
        let handle = store.handle();
        if has_discarded(&handle.database).map_err(|source| content(&store.path, &handle.file, source))? {
            store.sweep_bell.ring();
        }
        drop(handle);
        let interval = Duration::from_millis(limits::SHRINK_CHECK_INTERVAL_MS);
        let shrinker = look_after(&store, "state-shrink", store.sweep_bell.clone(), interval, shrink)
            .map_err(StorageError::io("start the copying thread for", &store.path))?;
        Ok(Self { checkpointer: Some(checkpointer), shrinker: Some(shrinker), store })
    }

    pub(crate) fn snapshots(&self) -> &Arc<SnapshotDir> {
        &self.store.snapshots
    }

    pub(crate) fn marks(&self) -> &PublishedMarks {
        &self.store.marks
    }

    pub(crate) fn position(&self) -> Result<(Option<LogId>, StoredMembership), StateError> {
        self.store.watched(|| {
            let handle = self.store.handle();
            let tables = handle.read()?;
            Ok((head::load_applied(&tables)?, head::load_membership(&tables)?))
        })
    }

    /// Bytes of commands applied since the store was opened.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.store.applied_bytes.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint, say, is under way, which may take as long as an fsync.
    pub(crate) fn is_being_written(&self) -> bool {
        matches!(self.store.writer.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Whether a write waits for the disk, by the time that it takes. The library lets no read begin while it
    /// makes the file larger.
    pub(crate) fn waits_for_disk(&self) -> bool {
        let waits = Duration::from_millis(limits::STATE_WRITE_WAITS_MS);
        let syncs = self.store.progress.syncs();
        syncs.under_way_to(SyncedFile::State, Instant::now()).is_some_and(|time| time >= waits)
    }

    pub(crate) fn apply(&self, entries: Vec<BatchEntry>, bytes: usize) -> Result<Vec<Applied>, StateError> {
        self.store.watched(|| self.store.apply(entries, bytes))
    }

    pub(crate) fn read(
        &self,
        request: &ReadRequest,
    ) -> Result<Result<(Revision, RangeReply), KvError>, StateError> {
        self.store.watched(|| {
            let handle = self.store.handle();
            read::read(&handle.read()?, request)
        })
    }

    pub(crate) fn former_members(&self) -> Result<Vec<PublicKey>, StateError> {
        let former = self.store.watched(|| admissions::former_members(&self.store.handle().read()?))?;
        Ok(former.into_iter().map(|(key, _)| key).collect())
    }

    pub(crate) fn admitted(&self) -> Result<Vec<(NodeId, Admitted)>, StateError> {
        self.store.watched(|| admissions::nodes(&self.store.handle().read()?))
    }

    pub(crate) fn knows_ticket(&self, hash: &SecretHash) -> Result<bool, StateError> {
        self.store.watched(|| Ok(admissions::ticket(&self.store.handle().read()?, hash)?.is_some()))
    }

    pub(crate) fn outstanding_tickets(&self, now_ms: u64) -> Result<Vec<OutstandingTicket>, StateError> {
        self.store.watched(|| admissions::outstanding(&self.store.handle().read()?, now_ms))
    }

    pub(crate) fn open_secrets(&self, now_ms: u64) -> Result<Vec<SecretHash>, StateError> {
        self.store.watched(|| admissions::open_secrets(&self.store.handle().read()?, now_ms))
    }

    /// Makes the applied state durable, if the log is on disk as far as that. Returns whether it is.
    pub(crate) fn checkpoint(&self) -> Result<bool, StateError> {
        self.store.checkpoint(Duration::from_millis(limits::CHECKPOINT_FLUSH_WAIT_MS))
    }

    /// Waits until the log is on disk as far as the state, without blocking, but no longer than a
    /// snapshot may.
    #[cfg(madsim)]
    pub(crate) async fn log_catches_up(&self) {
        let deadline = Instant::now() + Duration::from_millis(limits::SNAPSHOT_FLUSH_WAIT_MS);
        while !self.store.log_reaches_state(Duration::ZERO) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(limits::FLUSH_POLL_INTERVAL_MS)).await;
        }
    }

    pub(crate) fn build_snapshot(&self) -> io::Result<(SnapshotMeta, SnapshotData)> {
        self.store.watched_io(|| {
            let view = self.store.durable_view(|_| {})?;
            let tables = RedbRead::new(view.transaction);
            let file = self.store.snapshots.create_temporary()?;
            let mut out = BufWriter::new(PacedWriter::new(file.writer(), || file.sync()));
            let meta = format::write(&tables, &mut out)?;
            out.flush()?;
            drop(out);
            self.store.snapshots.keep(meta, &file.finish()?)
        })
    }

    /// What the database takes up on disk, which a snapshot does not exceed.
    pub(crate) fn file_bytes(&self) -> io::Result<u64> {
        self.store.file_bytes()
    }

    /// How long a snapshot would be now. It reads all of the state.
    pub(crate) fn measure_snapshot(&self) -> io::Result<u64> {
        self.store.watched_io(|| {
            let handle = self.store.handle();
            let mut out = Counted(0);
            format::write(&handle.read()?, &mut out)?;
            Ok(out.0)
        })
    }

    pub(crate) fn is_on_disk(&self, index: u64) -> bool {
        self.store.progress.flushed().max(self.store.progress.durable()) >= Some(index)
    }

    pub(crate) fn install_snapshot(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        self.store.install_snapshot(meta, data)
    }

    #[cfg(any(test, feature = "simulated-disk"))]
    pub(crate) fn digest(&self) -> Result<super::digest::StateDigest, StateError> {
        super::digest::digest(&self.store.handle().read()?)
    }

    /// Whether there are rows that nobody reads any more.
    #[cfg(test)]
    pub(crate) fn has_discarded(&self) -> bool {
        has_discarded(&self.store.handle().database).unwrap()
    }

    #[cfg(test)]
    pub(crate) fn dump(&self) -> Vec<(super::tables::Table, Vec<u8>, Vec<u8>)> {
        super::tables::dump(&self.store.handle().read().unwrap())
    }

    /// A read of everything that has begun; calling it ends it.
    #[cfg(test)]
    pub(crate) fn begin_read_for_test(&self) -> impl FnOnce() -> (Revision, RangeReply) + use<> {
        let handle = self.store.handle();
        let tables = handle.read().unwrap();
        let request = ReadRequest::range(crate::kv::types::KeyRange::Prefix(bytes::Bytes::new()));
        move || {
            let _open = handle;
            read::read(&tables, &request).unwrap().unwrap()
        }
    }

    /// Copies the state into a smaller file.
    pub(crate) fn shrink(&self) -> Result<Shrunk, ShrinkError> {
        self.store.shrink()
    }

    /// Leaves the disk as a crash would now.
    #[cfg(test)]
    pub(crate) fn cut_power(&self) {
        self.store.handle().fuse.blow();
    }
}

impl Drop for RedbState {
    fn drop(&mut self) {
        self.store.closing.store(true, Ordering::Relaxed);
        drop(self.shrinker.take());
        drop(self.checkpointer.take());
        // Closing the database makes all of it durable, which may be more than the log is.
        match self.store.checkpoint(Duration::ZERO) {
            Ok(true) => {}
            Ok(false) => self.store.handle().fuse.blow(),
            Err(error) => {
                warn!(%error, "the state is closed without its last checkpoint");
                self.store.handle().fuse.blow();
            }
        }
    }
}

impl RedbStore {
    fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StorageOptions,
        progress: Arc<Progress>,
        whole_check_max_bytes: u64,
    ) -> Result<Self, StorageError> {
        disk.create_dir_all(dir).map_err(StorageError::io("make the data directory", dir))?;
        remove_leftover(&*disk, &dir.join(NEW_STATE_FILE))?;
        remove_leftover(&*disk, &dir.join(SHRUNK_STATE_FILE))?;
        let snapshots = SnapshotDir::open(disk.clone(), dir.join(SNAPSHOT_DIR))?;
        let path = dir.join(STATE_FILE);
        if !disk.exists(&path).map_err(StorageError::io("look for the database", &path))? {
            create_empty(&disk, dir, options)?;
        }
        // A rename whose sync failed is seen by the next process, and undone by the next power cut: what is
        // found counts as being on disk from here on, and the log is purged by it.
        disk.sync_dir(dir).map_err(StorageError::io("sync the data directory", dir))?;
        let alarm = DamageAlarm::default();
        let (handle, marks) = open_existing(&disk, &path, options, &alarm, whole_check_max_bytes)?;
        let published = PublishedMarks::default();
        published.set(marks);
        progress.set_durable(marks.applied_index);
        Ok(Self {
            disk,
            path,
            options,
            progress,
            alarm,
            snapshots: Arc::new(snapshots),
            marks: published,
            bell: Arc::default(),
            sweep_bell: Arc::default(),
            handle: RwLock::new(Arc::new(handle)),
            writer: Mutex::new(Pending { durable_index: marks.applied_index, ..Pending::default() }),
            shrinking: Mutex::default(),
            closing: AtomicBool::default(),
            applied_bytes: AtomicU64::default(),
        })
    }

    /// Does work on the state, and raises the alarm where it meets damage, which may show as a panic of
    /// the database, or a disk that fails.
    fn watched<T>(&self, work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
        caught(work).map_err(|error| self.noticed(error))
    }

    /// The same for work that uses other files as well, whose failures are none of the state.
    fn watched_io<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        caught(work).map_err(|error| match error.downcast::<StateError>() {
            Ok(error) => self.noticed(error).into(),
            Err(error) => error,
        })
    }

    /// Raises the alarm for an error. Returns it with its cause.
    fn noticed(&self, error: StateError) -> StateError {
        let error = error.with_cause(&self.handle().file);
        if let Some(damage) = error.damage_in(&self.path) {
            self.alarm.raise(damage);
        }
        error
    }

    fn handle(&self) -> Arc<Handle> {
        self.handle.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A panic under this lock leaves an aborted transaction, which is a state like any other.
    fn writer(&self) -> MutexGuard<'_, Pending> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, entries: Vec<BatchEntry>, bytes: usize) -> Result<Vec<Applied>, StateError> {
        let mut pending = self.writer();
        let handle = self.handle();
        let (results, marks) = self.progress.syncs().watch(SyncedFile::State, || {
            let mut transaction = handle.database.begin_write().map_err(StateError::database)?;
            transaction.set_durability(Durability::None).map_err(StateError::database)?;
            let applied = batch::apply(&mut RedbWrite::new(&transaction), &entries)?;
            transaction.commit().map_err(StateError::database)?;
            Ok::<_, StateError>(applied)
        })?;
        self.marks.set(marks);
        if entries.iter().any(BatchEntry::may_discard) {
            self.sweep_bell.ring();
        }
        if let Some(behind) = &mut pending.behind {
            behind.push(entries, bytes);
        }
        self.applied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        pending.bytes += bytes as u64;
        if pending.bytes >= limits::CHECKPOINT_MAX_BYTES {
            self.bell.ring();
        }
        Ok(results)
    }

    fn checkpoint(&self, wait: Duration) -> Result<bool, StateError> {
        self.watched(|| {
            let mut pending = self.writer();
            if !self.log_reaches_state(wait) {
                return Ok(false);
            }
            self.commit_durably(&mut pending)?;
            Ok(true)
        })
    }

    /// Whether the log is on disk as far as the state, which stands still: the caller is the writer.
    fn log_reaches_state(&self, wait: Duration) -> bool {
        let applied = self.marks.applied_index();
        let deadline = Instant::now() + blocking(wait);
        // A snapshot from a peer is durable without the log that led to it.
        while applied > self.progress.flushed().max(self.progress.durable()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(limits::FLUSH_POLL_INTERVAL_MS));
        }
        true
    }

    fn commit_durably(&self, pending: &mut Pending) -> Result<(), StateError> {
        let applied = self.marks.applied_index();
        if pending.durable_index == applied {
            self.progress.count_save();
            return Ok(());
        }
        let mut transaction = self.handle().database.begin_write().map_err(StateError::database)?;
        // In two phases: a flipped bit in a file that is committed in one can bring an older commit back,
        // to which the log does not reach any more. And with what is needed to open the file at once.
        transaction.set_quick_repair(true);
        let committed = self.progress.syncs().time(SyncedFile::State, || transaction.commit());
        committed.map_err(StateError::database)?;
        (pending.durable_index, pending.bytes) = (applied, 0);
        self.progress.set_durable(applied);
        self.progress.count_save();
        Ok(())
    }

    /// Waits until the applied state can be made durable, does it, and returns a view of it. `begin` is
    /// called before anything is applied after the view.
    fn durable_view(&self, begin: impl FnOnce(&mut Pending)) -> io::Result<DurableView> {
        let deadline = Instant::now() + blocking(Duration::from_millis(limits::SNAPSHOT_FLUSH_WAIT_MS));
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the state is being closed"));
            }
            let mut pending = self.writer();
            if self.log_reaches_state(Duration::from_millis(limits::CHECKPOINT_FLUSH_WAIT_MS)) {
                if !leaves_checkpoint_out() {
                    self.commit_durably(&mut pending)?;
                }
                let handle = self.handle();
                let transaction = handle.database.begin_read().map_err(StateError::database)?;
                begin(&mut pending);
                return Ok(DurableView { transaction, _handle: handle });
            }
            drop(pending);
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "the log was not on disk as far as the state for {} ms, so no snapshot was made: the disk is too slow or stuck",
                        limits::SNAPSHOT_FLUSH_WAIT_MS
                    ),
                ));
            }
        }
    }

    fn install_snapshot(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        // Every byte is checked on the way into the new file, which has no name before it is whole.
        let dir = self.path.parent().expect("the database is in the data directory");
        let new_path = dir.join(NEW_STATE_FILE);
        let built = build_database(&self.disk, &new_path, self.options, &self.alarm, meta, data);
        let (handle, marks) = built.inspect_err(|_| {
            // What stays is removed before the next one is made.
            remove_leftover(&*self.disk, &new_path).ok();
        })?;

        let mut pending = self.writer();
        self.snapshots.keep(meta.clone(), data)?;
        self.disk.rename(&new_path, &self.path)?;
        self.disk.sync_dir(dir)?;
        let old = {
            let mut current = self.handle.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(handle))
        };
        // Its file has no name any more.
        old.fuse.blow();
        self.marks.set(marks);
        *pending = Pending { durable_index: marks.applied_index, ..Pending::default() };
        self.progress.set_durable(marks.applied_index);
        Ok(())
    }
}

/// Does work on the state again and again. A panic of it, which may come of a damaged page, raises the alarm.
fn look_after(
    store: &Arc<RedbStore>,
    name: &str,
    bell: Arc<Bell>,
    interval: Duration,
    work: impl Fn(&RedbStore) + Send + 'static,
) -> io::Result<Caretaker> {
    let (store, of_panic) = (store.clone(), store.clone());
    let panicked = move |message| of_panic.alarm.raise(Damage::new(&of_panic.path, Place::File, message));
    Caretaker::start(name, bell, interval, move || work(&store), panicked)
}

/// Does work on a database. It asserts what no file that it wrote can violate: a panic is damage.
fn caught<T, E: From<StateError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StateError::database(redb::Error::Corrupted(panic_message(&*panic))).into())
    })
}

/// How long a thread may wait in this build: in the simulation there is one, and time stands still
/// while it waits.
fn blocking(wait: Duration) -> Duration {
    if cfg!(madsim) { Duration::ZERO } else { wait }
}

/// Whether a view of the state is taken without making that state durable. It must not.
fn leaves_checkpoint_out() -> bool {
    #[cfg(madsim)]
    if crate::planted::has(crate::planted::Bug::PurgePastCheckpoint) {
        return true;
    }
    false
}

/// Counts what is written, and keeps none of it.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
