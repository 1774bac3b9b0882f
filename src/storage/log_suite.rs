//! openraft's own suite over both pairs of a log and a state machine, and over a disk that is slow and
//! out of order.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::disk::simulated::Disorder;
use super::disk::{Disk, RealDisk, SimulatedDisk};
use super::log_mem::MemoryLog;
use super::log_redb::{LOG_FILE, RedbLog};
use super::progress::Progress;
use super::state::StateMachine;
use super::{StorageOptions, state_mem, state_redb};
use crate::kv::types::NodeId;
use crate::raft::types::TypeConfig;

type StorageError = openraft::StorageError<TypeConfig>;

/// The suite makes node ids of numbers.
impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

struct Memory;

impl StoreBuilder<TypeConfig, MemoryLog, StateMachine> for Memory {
    async fn build(&self) -> Result<((), MemoryLog, StateMachine), StorageError> {
        Ok(((), MemoryLog::new(Arc::default()), state_mem::open()))
    }
}

fn open(disk: &Arc<dyn Disk>, dir: &Path) -> (RedbLog, StateMachine) {
    let progress = Arc::new(Progress::default());
    let log = RedbLog::open_on(disk.clone(), &dir.join(LOG_FILE), 1 << 20, progress.clone()).unwrap();
    let options = StorageOptions { cache_bytes: 1 << 20, checkpoint_interval: Duration::from_secs(600) };
    let state = state_redb::open_on(disk.clone(), dir, options, progress.clone()).unwrap();
    // The suite applies what it never appends and purges what it never applies, which no node does:
    // each side is told that the other is far ahead.
    progress.set_flushed(Some(u64::MAX - 1));
    progress.set_durable(Some(u64::MAX - 1));
    (log, state)
}

struct Redb;

impl StoreBuilder<TypeConfig, RedbLog, StateMachine, TempDir> for Redb {
    async fn build(&self) -> Result<(TempDir, RedbLog, StateMachine), StorageError> {
        let dir = TempDir::new().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (log, state) = open(&disk, dir.path());
        Ok((dir, log, state))
    }
}

/// On disks whose operations give way to one another at random, and that write in any order.
#[derive(Clone, Default)]
struct SlowDisk {
    disks: Arc<Mutex<Vec<SimulatedDisk>>>,
}

impl StoreBuilder<TypeConfig, RedbLog, StateMachine> for SlowDisk {
    async fn build(&self) -> Result<((), RedbLog, StateMachine), StorageError> {
        let dir = Path::new("/node");
        let mut disks = self.disks.lock().unwrap();
        let disk = SimulatedDisk::new(dir, disks.len() as u64);
        disk.delay_operations();
        disks.push(disk.clone());
        drop(disks);
        let (log, state) = open(&disk.mount(), dir);
        Ok(((), log, state))
    }
}

#[tokio::test]
async fn the_stores_on_a_disk_that_reorders_and_delays_pass_the_suite_of_openraft() {
    let slow = SlowDisk::default();
    Suite::test_all(slow.clone()).await.unwrap();
    let disorder: Vec<Disorder> = slow.disks.lock().unwrap().iter().map(SimulatedDisk::disorder).collect();
    let (delays, inversions) =
        disorder.iter().fold((0, 0), |sum, disk| (sum.0 + disk.delays, sum.1 + disk.inversions));
    assert!(delays > 0 && inversions > 0, "{delays} delays, {inversions} inversions");
}

#[tokio::test]
async fn the_stores_in_memory_pass_the_suite_of_openraft() {
    Suite::test_all(Memory).await.unwrap();
}

#[tokio::test]
async fn the_stores_on_disk_pass_the_suite_of_openraft() {
    Suite::test_all(Redb).await.unwrap();
}
