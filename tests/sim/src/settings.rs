//! What one run is made of, drawn from its seed by its scenario.

use aspen::raft::construct::RaftTimings;
use serde::{Deserialize, Serialize};

use crate::nemesis::Fault;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Nodes that vote at the beginning.
    pub voters: u64,
    /// Clients that read and write.
    pub clients: u64,
    /// Bounds of the pause between two operations of a client, in milliseconds.
    pub think_ms: (u64, u64),
    /// Time with faults, in milliseconds.
    pub faulty_ms: u64,
    /// Bounds of the pause between two faults, in milliseconds.
    pub fault_every_ms: (u64, u64),
    /// Faults that may come, each as often as it stands here.
    pub faults: Vec<Fault>,
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// Bounds of the time without a leader before an election, in milliseconds.
    pub election_ms: (u64, u64),
    /// Applied entries after which a snapshot is made.
    pub snapshot_every: u64,
    /// Log entries kept although a snapshot covers them.
    pub log_kept: u64,
    /// Lag after which a follower is sent a snapshot.
    pub lag_max: u64,
    /// Between two checkpoints of the state, in milliseconds.
    pub checkpoint_ms: u64,
    /// Revisions of history that are kept.
    pub keep_revisions: u64,
    /// Bounds of the delay of one message, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Bounds of the time that a sync takes, in milliseconds.
    pub sync_ms: (u64, u64),
}

impl Settings {
    /// The protocol's timings.
    pub fn timings(&self) -> RaftTimings {
        RaftTimings {
            heartbeat_interval_ms: self.heartbeat_ms,
            election_timeout_min_ms: self.election_ms.0,
            election_timeout_max_ms: self.election_ms.1,
        }
    }
}
