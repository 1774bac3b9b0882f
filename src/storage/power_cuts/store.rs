//! Log and state of one node on a simulated disk, opened as a node opens them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::storage::disk::SimulatedDisk;
use crate::storage::log_redb::{LOG_FILE, RedbLog};
use crate::storage::progress::Progress;
use crate::storage::state::StateMachine;
use crate::storage::{StorageOptions, state_redb};

/// Small, so that pages which are not committed yet reach the disk as well.
const CACHE_BYTES: u64 = 256 * 1024;

pub(super) struct Store {
    pub(super) log: RedbLog,
    pub(super) state: StateMachine,
    pub(super) progress: Arc<Progress>,
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/node")
}

pub(super) fn snapshot_dir() -> PathBuf {
    dir().join("snapshots")
}

impl Store {
    /// Opens both files. Checkpoints are made by the caller alone.
    pub(super) fn open(disk: &SimulatedDisk) -> Result<Self, String> {
        let progress = Arc::new(Progress::default());
        let cache_bytes = usize::try_from(CACHE_BYTES).expect("a few KiB");
        let mount = disk.mount();
        let log = RedbLog::open_on(mount.clone(), &dir().join(LOG_FILE), cache_bytes, progress.clone())
            .map_err(|error| error.to_string())?;
        let options =
            StorageOptions { cache_bytes: CACHE_BYTES, checkpoint_interval: Duration::from_secs(3_600) };
        let state = state_redb::open_on(mount, &dir(), options, progress.clone())
            .map_err(|error| error.to_string())?;
        Ok(Self { log, state, progress })
    }
}
