//! Starting Raft on the storage that the configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::data_dir::DataDir;
use super::error::NodeError;
use super::free_space;
use crate::config::{Config, Storage};
use crate::raft::RaftHandle;
use crate::raft::construct::{self, RaftSettings, RaftTimings};
use crate::storage::log_mem::MemoryLog;
use crate::storage::log_redb::{LOG_FILE, RedbLog};
use crate::storage::metadata::Metadata;
use crate::storage::pressure::Pressure;
use crate::storage::progress::Progress;
use crate::storage::scrub::Scrubber;
use crate::storage::snapshot::SnapshotInbox;
use crate::storage::space::Space;
use crate::storage::state::{StateMachine, StateReader};
use crate::storage::{StorageError, StorageOptions, state_mem, state_redb};
use crate::transport::Transport;

pub(super) fn timings(config: &Config) -> RaftTimings {
    RaftTimings {
        heartbeat_interval_ms: config.raft.heartbeat_interval_ms,
        election_timeout_min_ms: config.raft.election_timeout_min_ms,
        election_timeout_max_ms: config.raft.election_timeout_max_ms,
    }
}

/// Raft with what others need of its storage.
pub(super) struct StartedRaft {
    pub raft: RaftHandle,
    pub reader: StateReader,
    pub inbox: SnapshotInbox,
    pub disk: Arc<Pressure>,
    /// Absent for a storage that is no disk.
    pub scrubber: Option<Scrubber>,
}

/// Refuses a state that the log does not continue, unless a snapshot fills the gap: Raft would go on from
/// an emptier state and say nothing.
fn ensure_state_meets_log(dir: &Path, log: &RedbLog, state: &StateMachine) -> Result<(), NodeError> {
    let applied = state.reader().applied_index().max(state.snapshot_index());
    match log.purged_index() {
        Some(purged) if applied < Some(purged) => {
            Err(NodeError::StateBehindLog { dir: dir.to_owned(), applied, purged })
        }
        _ => Ok(()),
    }
}

/// Opens the storage, and starts Raft on it.
pub(super) async fn start(
    config: &Config,
    data_dir: &DataDir,
    metadata: &Metadata,
    transport: &Transport,
    timings: RaftTimings,
) -> Result<StartedRaft, NodeError> {
    let settings = RaftSettings::new(metadata.node_id(), timings, config.raft.snapshot_every_entries);
    let progress = Arc::new(Progress::default());
    let network = transport.network();
    match config.storage {
        Storage::Memory => {
            let (log, state) = (MemoryLog::new(progress.clone()), state_mem::open());
            let (reader, inbox) = (state.reader(), state.inbox());
            let disk = Arc::new(Pressure::new(Arc::new(Space::endless()), progress, reader.clone()));
            transport.trust(reader.clone());
            let raft = construct::start(&settings, network, log, state).await?;
            Ok(StartedRaft { raft, reader, inbox, disk, scrubber: None })
        }
        Storage::Redb => {
            let path = data_dir.path().join(LOG_FILE);
            if metadata.cluster_id().is_some() && !path.exists() {
                return Err(NodeError::LogMissing { path, node_id: metadata.node_id() });
            }
            let options = StorageOptions {
                cache_bytes: config.storage_options.cache_bytes,
                checkpoint_interval: Duration::from_millis(config.storage_options.checkpoint_interval_ms),
            };
            let reserve = config.storage_options.disk_reserve_bytes;
            let space = Space::watch(free_space::probe(data_dir.path()), reserve, progress.clone());
            let unknown = StorageError::io("ask for the room in", data_dir.path());
            let space = Arc::new(space.map_err(|source| NodeError::Storage(unknown(source)))?);
            let log = RedbLog::open(&path, options.log_cache(), progress.clone())?;
            let state = state_redb::open(data_dir.path(), options, progress.clone())
                .map_err(|source| NodeError::state(data_dir.path(), source))?;
            ensure_state_meets_log(data_dir.path(), &log, &state)?;
            let state = state.within(space.clone());
            let (reader, inbox) = (state.reader(), state.inbox());
            let disk = Arc::new(Pressure::new(space, progress, reader.clone()));
            let scrubber = Scrubber::new(&log, &state);
            transport.trust(reader.clone());
            let raft = construct::start(&settings, network, log, state).await?;
            Ok(StartedRaft { raft, reader, inbox, disk, scrubber })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::state_redb::STATE_FILE;
    use crate::storage::verify::tests::store::{Closed, Open, Store};

    #[test]
    fn state_that_is_lost_behind_a_purged_log_is_refused_unless_a_snapshot_fills_the_gap() {
        let store = Store::written(Closed::Cleanly);
        std::fs::remove_file(store.dir().join(STATE_FILE)).unwrap();
        let Open { log, state, .. } = Open::at(store.dir()).unwrap();
        ensure_state_meets_log(store.dir(), &log, &state).unwrap();
        drop((log, state));

        std::fs::remove_file(store.snapshot()).unwrap();
        let Open { log, state, .. } = Open::at(store.dir()).unwrap();
        let error = ensure_state_meets_log(store.dir(), &log, &state).unwrap_err().to_string();
        assert!(error.contains("is empty") && error.contains("behind entry 20"), "{error}");
    }
}
