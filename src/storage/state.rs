//! The state machine that openraft drives, and the reader that everyone else has.
//!
//! Entries are applied in batches of what is there, one transaction a batch. A client gets its answer
//! when the batch is committed, never before. Work on the disk runs on threads that may block.
//!
//! # Tiger Style
//! A batch has at most [`crate::limits::APPLY_BATCH_MAX_ENTRIES`] entries, and
//! [`crate::limits::APPLY_BATCH_MAX_BYTES`] of commands and one more. Entries are applied in the order
//! of their index, each once.

use std::io;
use std::sync::Arc;

use futures::Stream;
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};

use super::backup::BackupPieces;
use super::batch::{Batch, PublishedMarks};
use super::blocks::BlockError;
use super::snapshot::{SnapshotData, SnapshotError, SnapshotInbox};
use super::space::Space;
use super::state_mem::MemState;
use super::state_redb::{RedbState, ShrinkError, Shrunk};
use super::tables::StateError;
use crate::kv::types::{
    Admitted, BackupOrigin, KvError, NodeId, OutstandingTicket, PublicKey, RangeReply, ReadRequest, Revision,
    SecretHash,
};
use crate::raft::runtime;
use crate::raft::types::{Applied, LogId, SnapshotMeta, StoredMembership, TypeConfig};

mod snapshots;

#[cfg(test)]
mod tests;

pub use self::snapshots::SnapshotBuilder;
pub(super) use self::snapshots::make_anew;

use self::snapshots::Need;

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// The replicated state.
pub struct StateMachine {
    store: Store,
    space: Arc<Space>,
}

#[derive(Clone)]
enum Store {
    Memory(Arc<MemState>),
    Redb(Arc<RedbState>),
}

impl StateMachine {
    pub(crate) fn memory(state: MemState) -> Self {
        Self { store: Store::Memory(Arc::new(state)), space: Arc::new(Space::endless()) }
    }

    pub(crate) fn redb(state: RedbState) -> Self {
        Self { store: Store::Redb(Arc::new(state)), space: Arc::new(Space::endless()) }
    }

    /// The same state, of which no snapshot is made that has no room.
    #[must_use]
    pub fn within(self, space: Arc<Space>) -> Self {
        Self { space, ..self }
    }

    /// A reader of this state.
    pub fn reader(&self) -> StateReader {
        StateReader { store: self.store.clone(), space: self.space.clone() }
    }

    /// The last log index in the current snapshot.
    pub fn snapshot_index(&self) -> Option<u64> {
        let current = match &self.store {
            Store::Memory(state) => state.current_snapshot(),
            Store::Redb(state) => state.snapshots().current(),
        };
        current.and_then(|(meta, _)| meta.last_log_id).map(|last| last.index)
    }

    /// The state on disk, if it is there.
    pub(crate) fn on_disk(&self) -> Option<Arc<RedbState>> {
        match &self.store {
            Store::Memory(_) => None,
            Store::Redb(state) => Some(state.clone()),
        }
    }

    pub(super) fn space(&self) -> Arc<Space> {
        self.space.clone()
    }

    /// Where snapshots for this state are received.
    pub fn inbox(&self) -> SnapshotInbox {
        match &self.store {
            Store::Memory(_) => SnapshotInbox::memory(),
            Store::Redb(state) => SnapshotInbox::files(state.snapshots().clone()),
        }
    }
}

/// Reads the state. A clone reads the same one. It keeps the store open.
#[derive(Clone)]
pub struct StateReader {
    store: Store,
    space: Arc<Space>,
}

impl StateReader {
    /// Answers a read request from the newest applied state, with the state's revision. It may wait for
    /// the disk, but for nothing else.
    ///
    /// # Errors
    /// [`KvError::Compacted`], [`KvError::FutureRevision`], and [`KvError::Storage`] where the state
    /// cannot be read.
    pub fn read(&self, request: &ReadRequest) -> Result<(Revision, RangeReply), KvError> {
        let answer = match &self.store {
            Store::Memory(state) => state.read(request),
            Store::Redb(state) => state.read(request),
        };
        answer.unwrap_or_else(|error| Err(KvError::Storage { reason: error.to_string() }))
    }

    /// Whether a read may wait for the disk with a write, for as long as that hangs.
    pub fn waits_for_disk(&self) -> bool {
        match &self.store {
            Store::Memory(_) => false,
            Store::Redb(state) => state.waits_for_disk(),
        }
    }

    /// The nodes that were let into the cluster, as of the newest applied state.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn admitted(&self) -> Result<Vec<(NodeId, Admitted)>, StateError> {
        match &self.store {
            Store::Memory(state) => state.admitted(),
            Store::Redb(state) => state.admitted(),
        }
    }

    /// The keys of those who were members and are none, as of the newest applied state; who was removed first
    /// comes first.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn former_members(&self) -> Result<Vec<PublicKey>, StateError> {
        match &self.store {
            Store::Memory(state) => state.former_members(),
            Store::Redb(state) => state.former_members(),
        }
    }

    /// Whether the newest applied state has a ticket with this secret, expired or not.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn knows_ticket(&self, hash: &SecretHash) -> Result<bool, StateError> {
        match &self.store {
            Store::Memory(state) => state.knows_ticket(hash),
            Store::Redb(state) => state.knows_ticket(hash),
        }
    }

    /// The tickets that nodes can still come in with, as of the newest applied state and of a time in
    /// milliseconds of the Unix epoch.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn outstanding_tickets(&self, now_ms: u64) -> Result<Vec<OutstandingTicket>, StateError> {
        match &self.store {
            Store::Memory(state) => state.outstanding_tickets(now_ms),
            Store::Redb(state) => state.outstanding_tickets(now_ms),
        }
    }

    /// The hashes of their secrets.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn open_secrets(&self, now_ms: u64) -> Result<Vec<SecretHash>, StateError> {
        match &self.store {
            Store::Memory(state) => state.open_secrets(now_ms),
            Store::Redb(state) => state.open_secrets(now_ms),
        }
    }

    /// The newest applied revision.
    pub fn revision(&self) -> Revision {
        self.marks().revision()
    }

    /// The oldest revision that can be read.
    pub fn compacted_revision(&self) -> Revision {
        self.marks().compacted()
    }

    /// The last applied log index.
    pub fn applied_index(&self) -> Option<u64> {
        self.marks().applied_index()
    }

    /// Waits until a log index is applied.
    pub async fn applied(&self, index: u64) {
        self.marks().applied(index).await;
    }

    /// Bytes of commands applied since the state was opened.
    pub fn applied_bytes(&self) -> u64 {
        match &self.store {
            Store::Memory(state) => state.applied_bytes(),
            Store::Redb(state) => state.applied_bytes(),
        }
    }

    /// Length of the state's file; none for a state in memory.
    ///
    /// # Errors
    /// Where the operating system does not tell it.
    pub fn file_bytes(&self) -> io::Result<Option<u64>> {
        match &self.store {
            Store::Memory(_) => Ok(None),
            Store::Redb(state) => state.file_bytes().map(Some),
        }
    }

    /// Begins a backup of the newest applied state. It goes on by itself until all of it is written, or
    /// nobody reads it any more.
    ///
    /// # Errors
    /// Where the state cannot be read, or the file for it cannot be made.
    pub async fn backup(&self, origin: BackupOrigin) -> io::Result<BackupPieces> {
        match &self.store {
            Store::Memory(state) => {
                let state = state.clone();
                runtime::blocking(move || state.backup(origin)).await?
            }
            Store::Redb(state) => {
                let state = state.clone();
                let (write, pieces) = runtime::blocking(move || state.begin_backup(origin)).await??;
                // How it ends, its reader is told.
                tokio::spawn(runtime::blocking(write));
                Ok(pieces)
            }
        }
    }

    /// How long a backup would be now; 0 for a state in memory, which needs no disk for one. It blocks, and
    /// reads all of the state.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn measure_backup(&self, origin: BackupOrigin) -> io::Result<u64> {
        match &self.store {
            Store::Memory(_) => Ok(0),
            Store::Redb(state) => state.measure_backup(origin),
        }
    }

    /// Checks a snapshot of this state before it is sent, every byte of it. One that is damaged is made anew
    /// before this returns.
    ///
    /// # Errors
    /// [`SnapshotError`]: it is damaged, or cannot be read.
    pub async fn check_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let Err(problem) = snapshot.snapshot.verify(&snapshot.meta).await else { return Ok(()) };
        let Store::Redb(state) = &self.store else { return Err(problem) };
        let (state, space, Snapshot { meta, snapshot }) =
            (state.clone(), self.space.clone(), snapshot.clone());
        runtime::blocking(move || {
            snapshots::make_anew(&state, &space, &meta, &snapshot, &problem);
            Err(problem)
        })
        .await
        .map_err(BlockError::Io)?
    }

    /// Whether what the log holds up to an index would be there after a crash: in the log, or in the state.
    pub fn is_on_disk(&self, index: u64) -> bool {
        match &self.store {
            Store::Memory(_) => true,
            Store::Redb(state) => state.is_on_disk(index),
        }
    }

    /// Makes the applied state durable now, if the log is on disk as far as that. Returns whether it
    /// is durable. It blocks; a state in memory is as durable as it gets.
    ///
    /// # Errors
    /// Those of the storage engine.
    pub fn checkpoint(&self) -> Result<bool, StateError> {
        match &self.store {
            Store::Memory(_) => Ok(true),
            Store::Redb(state) => state.checkpoint(),
        }
    }

    /// Copies the state into a new file, which has no free pages, and goes on with that. It blocks, while
    /// others read and write. Nothing for a state in memory.
    ///
    /// # Errors
    /// [`ShrinkError`]; the state then goes on as it was.
    pub fn shrink(&self) -> Result<Option<Shrunk>, ShrinkError> {
        match &self.store {
            Store::Memory(_) => Ok(None),
            Store::Redb(state) => state.shrink().map(Some),
        }
    }

    /// Reads all of the newest applied state and says what it comes to.
    ///
    /// # Errors
    /// Those of the storage engine.
    #[cfg(any(test, feature = "simulated-disk"))]
    pub fn digest(&self) -> Result<super::digest::StateDigest, StateError> {
        match &self.store {
            Store::Memory(state) => state.digest(),
            Store::Redb(state) => state.digest(),
        }
    }

    fn marks(&self) -> &PublishedMarks {
        match &self.store {
            Store::Memory(state) => state.marks(),
            Store::Redb(state) => state.marks(),
        }
    }
}

impl Store {
    async fn apply(&self, batch: Batch) -> io::Result<()> {
        let is_quick = batch.is_quick();
        let Batch { entries, responders, bytes } = batch;
        let results: Vec<Applied> = match self {
            Self::Memory(state) => state.apply(&entries, bytes)?,
            Self::Redb(state) if is_quick && !state.is_being_written() => state.apply(entries, bytes)?,
            Self::Redb(state) => {
                let state = state.clone();
                runtime::blocking(move || state.apply(entries, bytes)).await??
            }
        };
        assert_eq!(results.len(), responders.len(), "each entry has one result");
        for (result, responder) in results.into_iter().zip(responders) {
            if let Some(responder) = responder {
                responder.send(result);
            }
        }
        Ok(())
    }

    async fn build_snapshot(&self) -> io::Result<(SnapshotMeta, SnapshotData)> {
        match self {
            Self::Memory(state) => {
                let state = state.clone();
                runtime::blocking(move || state.build_snapshot()).await?
            }
            #[cfg(not(madsim))]
            Self::Redb(state) => {
                let state = state.clone();
                runtime::blocking(move || state.build_snapshot()).await?
            }
            // Without a task in between: what is applied before its turn would be ahead of the log again.
            #[cfg(madsim)]
            Self::Redb(state) => {
                state.log_catches_up().await;
                state.build_snapshot()
            }
        }
    }

    async fn install_snapshot(&self, meta: SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        match self {
            Self::Memory(state) => {
                let state = state.clone();
                runtime::blocking(move || state.install_snapshot(&meta, &data)).await?
            }
            Self::Redb(state) => {
                let state = state.clone();
                runtime::blocking(move || state.install_snapshot(&meta, &data)).await?
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(match &self.store {
            Store::Memory(state) => state.position()?,
            Store::Redb(state) => state.position()?,
        })
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(batch) = Batch::next(&mut entries).await? {
            self.store.apply(batch).await?;
        }
        Ok(())
    }

    /// None where there is no room: the log stays as long as it is, and Raft asks again later. A
    /// snapshot that fails would end the node.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        // Forced where Raft starts with a purged log and no snapshot.
        if force {
            return Some(SnapshotBuilder::new(self.store.clone(), self.space.clone(), Need::ToStart));
        }
        match snapshots::fits(&self.store, &self.space).await {
            Ok(()) => Some(self.get_snapshot_builder().await),
            Err(reason) => {
                snapshots::put_off(&reason);
                None
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(self.store.clone(), self.space.clone(), Need::ToPurge)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        self.store.install_snapshot(meta.clone(), snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let current = match &self.store {
            Store::Memory(state) => state.current_snapshot(),
            Store::Redb(state) => state.snapshots().current(),
        };
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
