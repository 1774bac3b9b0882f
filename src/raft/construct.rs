//! Builds a Raft node from its parts, with the settings that keep acknowledged writes.
//!
//! # Tiger Style
//! - A restarted leader never restores itself: it could reuse a log id that a quorum has committed
//!   while its own flush was still under way.
//! - Pre-vote is on, so that a node which was cut off cannot unseat a leader when it comes back.

use std::sync::Arc;

use openraft::network::NetSnapshot;
use openraft::storage::RaftLogStorage;
use openraft::{Config, ConfigError, RaftNetworkFactory, SnapshotPolicy};

use super::RaftHandle;
use super::patient_log::PatientLog;
use super::types::TypeConfig;
use crate::kv::types::NodeId;
use crate::limits;
use crate::storage::damage::WHAT_TO_DO;
use crate::storage::snapshot::SnapshotData;
use crate::storage::state::StateMachine;

/// Timings of the protocol, in milliseconds. They must fit the links between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTimings {
    /// Between two heartbeats of a leader.
    pub heartbeat_interval_ms: u64,
    /// The least time without a leader before an election.
    pub election_timeout_min_ms: u64,
    /// The most time without a leader before an election; also the leader's lease.
    pub election_timeout_max_ms: u64,
}

impl RaftTimings {
    /// How long a leader may go without a quorum's acknowledgement before it stops taking writes.
    pub fn quorum_lost_after_ms(&self) -> u64 {
        self.election_timeout_max_ms * 2
    }
}

/// What a node needs to know to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// Its id.
    pub node_id: NodeId,
    /// The protocol's timings.
    pub timings: RaftTimings,
    /// Applied entries after which a snapshot is made.
    pub snapshot_every_entries: u64,
    /// Log entries kept although a snapshot covers them.
    pub log_kept_entries: u64,
    /// Lag after which a follower is sent a snapshot rather than log entries.
    pub replication_lag_max_entries: u64,
}

impl RaftSettings {
    /// Settings with the bounds that suit real nodes.
    pub fn new(node_id: NodeId, timings: RaftTimings, snapshot_every_entries: u64) -> Self {
        Self {
            node_id,
            timings,
            snapshot_every_entries,
            log_kept_entries: limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES,
            replication_lag_max_entries: limits::REPLICATION_LAG_MAX_ENTRIES,
        }
    }
}

/// Why Raft did not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// The timings contradict each other.
    #[error("the Raft settings are not valid: {0}")]
    Config(#[from] ConfigError),
    /// The stored log, vote or state could not be read.
    #[error("Raft could not start from what is stored: {0}. {WHAT_TO_DO}")]
    Storage(#[from] openraft::errors::Fatal<TypeConfig>),
}

/// Starts Raft on a log, a state machine and a network. It takes part as soon as this returns, and its
/// metrics tell what is stored.
///
/// # Errors
/// [`RaftStartError`] if the settings or what is stored are not valid.
pub async fn start<L, N>(
    settings: &RaftSettings,
    network: N,
    log: L,
    state: StateMachine,
) -> Result<RaftHandle, RaftStartError>
where
    L: RaftLogStorage<TypeConfig>,
    N: RaftNetworkFactory<TypeConfig>,
    N::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
{
    let config = Arc::new(config(settings).validate()?);
    let raft = RaftHandle::new(settings.node_id, config, network, PatientLog(log), state).await?;
    // Until its task has run, Raft's metrics are those of a node without a log: whoever read them would
    // take this one for a new one, or for one that has nothing to recover.
    raft.with_raft_state(|_| ()).await?;
    Ok(raft)
}

fn config(settings: &RaftSettings) -> Config {
    let timings = &settings.timings;
    Config {
        cluster_name: "aspen".to_owned(),
        heartbeat_interval: timings.heartbeat_interval_ms,
        election_timeout_min: timings.election_timeout_min_ms,
        election_timeout_max: timings.election_timeout_max_ms,
        enable_leader_restore: Some(restores_leader()),
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        install_snapshot_timeout: limits::MEMBERSHIP_TIMEOUT_MS,
        max_payload_entries: limits::APPEND_BATCH_MAX_ENTRIES,
        replication_lag_threshold: settings.replication_lag_max_entries,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every_entries),
        max_in_snapshot_log_to_keep: settings.log_kept_entries,
        ..Config::default()
    }
}

/// Whether a leader that restarts within its lease leads on. It must not.
fn restores_leader() -> bool {
    #[cfg(madsim)]
    if crate::planted::has(crate::planted::Bug::LeaderRestored) {
        return true;
    }
    false
}
