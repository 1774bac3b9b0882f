//! The one place where the nodes' stores are opened.

use std::sync::Arc;
use std::time::Duration;

use aspen::raft::RaftHandle;
use aspen::raft::construct::{self, RaftSettings};
use aspen::raft::types::Entry;
use aspen::storage::log_mem::MemoryLog;
use aspen::storage::log_redb::{LOG_FILE, RedbLog, RedbLogReader};
use aspen::storage::progress::Progress;
use aspen::storage::snapshot::SnapshotInbox;
use aspen::storage::state::{StateMachine, StateReader};
use aspen::storage::{StorageOptions, state_mem, state_redb};
use openraft::RaftLogReader;
use tempfile::TempDir;

use super::PATIENCE;
use super::network::RouterNetwork;

const CACHE_BYTES: usize = 1024 * 1024;

/// Pause between two attempts to open what a stopped node's last tasks still hold.
const REOPEN_INTERVAL: Duration = Duration::from_millis(2);

/// What nodes keep their log and state on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Memory, which is gone when a node stops.
    Memory,
    /// Files, which survive.
    Redb,
}

/// A node's disk, which may outlive the node.
pub enum Disk {
    /// No disk. Once the node has stopped there is nothing to start it from.
    Memory { used: bool },
    /// A directory.
    Redb(TempDir),
}

/// A node that was just started.
pub struct Opened {
    pub raft: RaftHandle,
    pub reader: StateReader,
    pub log: LogReader,
    pub inbox: SnapshotInbox,
}

/// Reads a node's log beside Raft.
pub enum LogReader {
    Memory(MemoryLog),
    Redb(RedbLogReader),
}

impl Disk {
    /// A disk with nothing on it.
    pub fn empty(storage: Storage) -> Self {
        match storage {
            Storage::Memory => Self::Memory { used: false },
            Storage::Redb => Self::Redb(TempDir::new().expect("a directory for a test")),
        }
    }

    /// Opens what is on the disk and starts Raft on it.
    pub async fn start(&mut self, settings: &RaftSettings, network: RouterNetwork) -> Opened {
        match self {
            Self::Memory { used } => {
                assert!(!*used, "a node in memory comes back under another id");
                *used = true;
                let (log, state) = (MemoryLog::new(Arc::default()), state_mem::open());
                let (reader, inbox, log_reader) =
                    (state.reader(), state.inbox(), LogReader::Memory(log.clone()));
                let raft = construct::start(settings, network, log, state).await.expect("Raft starts");
                Opened { raft, reader, log: log_reader, inbox }
            }
            Self::Redb(dir) => {
                let (log, state) = open_redb(dir).await;
                let (reader, inbox, log_reader) =
                    (state.reader(), state.inbox(), LogReader::Redb(log.reader()));
                let raft = construct::start(settings, network, log, state).await.expect("Raft starts");
                Opened { raft, reader, log: log_reader, inbox }
            }
        }
    }
}

async fn open_redb(dir: &TempDir) -> (RedbLog, StateMachine) {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match try_open_redb(dir) {
            Ok(opened) => return opened,
            Err(error) => assert!(tokio::time::Instant::now() < until, "the stores do not open: {error}"),
        }
        tokio::time::sleep(REOPEN_INTERVAL).await;
    }
}

fn try_open_redb(dir: &TempDir) -> anyhow::Result<(RedbLog, StateMachine)> {
    let progress = Arc::new(Progress::default());
    let log = RedbLog::open(&dir.path().join(LOG_FILE), CACHE_BYTES, progress.clone())?;
    let options =
        StorageOptions { cache_bytes: CACHE_BYTES as u64, checkpoint_interval: Duration::from_secs(600) };
    let state = state_redb::open(dir.path(), options, progress)?;
    Ok((log, state))
}

impl LogReader {
    /// All entries.
    pub async fn entries(&self) -> Vec<Entry> {
        let read = match self {
            Self::Memory(log) => log.clone().try_get_log_entries(..).await,
            Self::Redb(log) => log.clone().try_get_log_entries(..).await,
        };
        read.expect("the log can be read")
    }
}
