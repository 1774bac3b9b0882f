//! openraft's own suite over both logs. The state machine beside them is as small as the suite
//! allows: only the logs are under test here.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend};
use tempfile::TempDir;

use super::log_mem::MemoryLog;
use super::log_redb::RedbLog;
use super::progress::Progress;
use crate::kv::types::NodeId;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

type StorageError = openraft::StorageError<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Applied>;

/// The suite makes node ids of numbers.
impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// What a state machine must know about itself, and nothing else.
#[derive(Clone, Debug, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
}

#[derive(Clone, Debug, Default)]
struct NoState {
    applied: Applied,
    snapshot: Arc<std::sync::Mutex<Option<SnapshotMeta>>>,
}

impl NoState {
    fn snapshot(&self) -> Option<Snapshot> {
        let meta = self.snapshot.lock().unwrap().clone()?;
        let snapshot = Applied { last: meta.last_log_id, membership: meta.last_membership.clone() };
        Some(Snapshot { meta, snapshot })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for NoState {
    type SnapshotData = Applied;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let Applied { last, membership } = self.applied.clone();
        let meta = SnapshotMeta { last_log_id: last, last_membership: membership };
        *self.snapshot.lock().unwrap() = Some(meta);
        Ok(self.snapshot().expect("it was just made"))
    }
}

impl RaftStateMachine<TypeConfig> for NoState {
    type SnapshotData = Applied;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            self.applied.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Applied) -> Result<(), io::Error> {
        self.applied = snapshot;
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshot())
    }
}

/// The suite purges what it never applied: the state counts as durable throughout.
fn all_durable() -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    progress.set_durable(Some(u64::MAX - 1));
    progress
}

struct Memory;

impl StoreBuilder<TypeConfig, MemoryLog, NoState> for Memory {
    async fn build(&self) -> Result<((), MemoryLog, NoState), StorageError> {
        Ok(((), MemoryLog::new(all_durable()), NoState::default()))
    }
}

struct Redb;

impl StoreBuilder<TypeConfig, RedbLog, NoState, TempDir> for Redb {
    async fn build(&self) -> Result<(TempDir, RedbLog, NoState), StorageError> {
        let dir = TempDir::new().unwrap();
        let log = RedbLog::open(&dir.path().join("raft.redb"), 1 << 20, all_durable()).unwrap();
        Ok((dir, log, NoState::default()))
    }
}

#[tokio::test]
async fn the_log_in_memory_passes_the_suite_of_openraft() {
    Suite::test_all(Memory).await.unwrap();
}

#[tokio::test]
async fn the_log_on_disk_passes_the_suite_of_openraft() {
    Suite::test_all(Redb).await.unwrap();
}
