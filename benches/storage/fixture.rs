//! Stores and entries to measure with.

use std::sync::Arc;

use aspen::kv::types::{Command, Key, NodeId, Value};
use aspen::raft::types::{Entry, LogId, TypeConfig};
use aspen::storage::log_redb::RedbLog;
use aspen::storage::progress::Progress;
use aspen::storage::record::encode_command;
use aspen::storage::state::StateMachine;
use aspen::storage::{StorageOptions, state_redb};
use futures::stream;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tempfile::TempDir;

/// Bytes of every value.
pub const VALUE_BYTES: usize = 256;

/// A directory on the disk that holds the build.
pub fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// An empty log.
pub fn log(dir: &TempDir, progress: Arc<Progress>) -> RedbLog {
    RedbLog::open(&dir.path().join("raft.redb"), StorageOptions::default().log_cache(), progress).unwrap()
}

/// An empty state.
pub fn state(dir: &TempDir, progress: Arc<Progress>) -> StateMachine {
    state_redb::open(dir.path(), StorageOptions::default(), progress).unwrap()
}

/// A log that is always on disk as far as the state is.
pub fn log_elsewhere() -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    progress.set_flushed(Some(u64::MAX - 1));
    progress
}

/// The id of the entry at `index`.
pub fn log_id(index: u64) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new(1, NodeId(1)), index)
}

/// The entry at `index`, with a command.
pub fn entry(index: u64, command: &Command) -> Entry {
    Entry::new(log_id(index), EntryPayload::Normal(encode_command(command).unwrap()))
}

/// A put of key number `key`. Numbers that follow each other are far apart in the order of keys.
pub fn put(key: u64) -> Command {
    let name = format!("key-{:016x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&key.to_le_bytes());
    Command::put(Key::new(name.into_bytes()).unwrap(), Value::new(value).unwrap())
}

/// Appends, and waits until it is on disk.
pub async fn append(log: &mut RedbLog, entries: Vec<Entry>) {
    let (sender, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

/// Applies in one batch.
pub async fn apply(state: &mut StateMachine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    state.apply(stream::iter(entries)).await.unwrap();
}

/// Processor time of all threads of this process.
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}
