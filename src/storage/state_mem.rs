//! The state in memory, for tests and for nodes that keep nothing: a node that stops loses it, and
//! must come back under a new id.

use std::io::{self, BufReader};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backup::{self, BackupPieces};
use super::batch::{self, BatchEntry, Marks, PublishedMarks};
use super::snapshot::{SnapshotData, SnapshotError, format};
use super::state::StateMachine;
use super::tables::{MemTables, StateError, WriteTables};
use super::{admissions, head, read};
use crate::kv::types::{
    Admitted, BackupOrigin, KvError, NodeId, OutstandingTicket, PublicKey, RangeReply, ReadRequest, Revision,
    SecretHash,
};
use crate::raft::types::{Applied, LogId, SnapshotMeta, StoredMembership};

/// Begins an empty state.
pub fn open() -> StateMachine {
    StateMachine::memory(MemState::default())
}

/// The state in memory, with its last snapshot.
#[derive(Default)]
pub(crate) struct MemState {
    tables: RwLock<MemTables>,
    snapshot: Mutex<Option<(SnapshotMeta, SnapshotData)>>,
    marks: PublishedMarks,
    /// Bytes of commands applied.
    applied_bytes: AtomicU64,
}

impl MemState {
    pub(crate) fn marks(&self) -> &PublishedMarks {
        &self.marks
    }

    pub(crate) fn position(&self) -> Result<(Option<LogId>, StoredMembership), StateError> {
        let tables = self.tables();
        Ok((head::load_applied(&*tables)?, head::load_membership(&*tables)?))
    }

    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn apply(&self, entries: &[BatchEntry], bytes: usize) -> Result<Vec<Applied>, StateError> {
        let mut tables = self.tables_mut();
        self.applied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let (results, marks) = batch::apply(&mut *tables, entries)?;
        self.marks.set(marks);
        Ok(results)
    }

    pub(crate) fn read(
        &self,
        request: &ReadRequest,
    ) -> Result<Result<(Revision, RangeReply), KvError>, StateError> {
        read::read(&*self.tables(), request)
    }

    pub(crate) fn former_members(&self) -> Result<Vec<PublicKey>, StateError> {
        Ok(admissions::former_members(&*self.tables())?.into_iter().map(|(key, _)| key).collect())
    }

    pub(crate) fn admitted(&self) -> Result<Vec<(NodeId, Admitted)>, StateError> {
        admissions::nodes(&*self.tables())
    }

    pub(crate) fn knows_ticket(&self, hash: &SecretHash) -> Result<bool, StateError> {
        Ok(admissions::ticket(&*self.tables(), hash)?.is_some())
    }

    pub(crate) fn outstanding_tickets(&self, now_ms: u64) -> Result<Vec<OutstandingTicket>, StateError> {
        admissions::outstanding(&*self.tables(), now_ms)
    }

    pub(crate) fn open_secrets(&self, now_ms: u64) -> Result<Vec<SecretHash>, StateError> {
        admissions::open_secrets(&*self.tables(), now_ms)
    }

    pub(crate) fn build_snapshot(&self) -> io::Result<(SnapshotMeta, SnapshotData)> {
        let view = self.tables().clone();
        let mut bytes = Vec::new();
        let meta = format::write(&view, &mut bytes)?;
        let built = (meta, SnapshotData::Memory(bytes.into()));
        let mut snapshot = self.snapshot();
        // One that a peer sent meanwhile may be newer.
        if snapshot.as_ref().is_none_or(|(kept, _)| kept.last_log_id <= built.0.last_log_id) {
            *snapshot = Some(built.clone());
        }
        Ok(built)
    }

    pub(crate) fn backup(&self, origin: BackupOrigin) -> io::Result<BackupPieces> {
        let view = self.tables().clone();
        let mut bytes = Vec::new();
        backup::write(&view, origin, &mut bytes)?;
        Ok(BackupPieces::of_memory(bytes.into()))
    }

    pub(crate) fn current_snapshot(&self) -> Option<(SnapshotMeta, SnapshotData)> {
        self.snapshot().clone()
    }

    pub(crate) fn install_snapshot(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        let mut new = MemTables::default();
        format::read(BufReader::new(data.reader()), |table, key, value| new.put(table, key, value))?;
        let found = head::snapshot_meta(&new)?;
        if found != *meta {
            let (found, announced) = (Box::new(found), Box::new(meta.clone()));
            return Err(SnapshotError::OtherState { found, announced }.into());
        }
        let marks = Marks::load(&new)?;
        let mut tables = self.tables_mut();
        *tables = new;
        *self.snapshot() = Some((meta.clone(), data.clone()));
        self.marks.set(marks);
        Ok(())
    }

    #[cfg(any(test, feature = "simulated-disk"))]
    pub(crate) fn digest(&self) -> Result<super::digest::StateDigest, StateError> {
        super::digest::digest(&*self.tables())
    }

    #[cfg(test)]
    pub(crate) fn dump(&self) -> Vec<(super::tables::Table, Vec<u8>, Vec<u8>)> {
        super::tables::dump(&*self.tables())
    }

    // A panic while a batch is applied leaves tables that are not whole. It takes the node down, so
    // nothing is served from them; until then the locks stay usable.

    fn tables(&self) -> RwLockReadGuard<'_, MemTables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, MemTables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> MutexGuard<'_, Option<(SnapshotMeta, SnapshotData)>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
