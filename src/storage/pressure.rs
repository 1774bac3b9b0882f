//! How a node's disk is: its room, and its speed, in one place for all who must know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::space::{Fullness, Space};
use crate::kv::types::{DiskState, DiskStatus};
use crate::limits;

/// The disk of one data directory.
#[derive(Debug)]
pub struct Pressure {
    space: Arc<Space>,
    progress: Arc<Progress>,
}

impl Pressure {
    /// Joins the two: room, and the syncs of the log and the state.
    pub fn new(space: Arc<Space>, progress: Arc<Progress>) -> Self {
        Self { space, progress }
    }

    /// Its room.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// How it is, without a new look at its room.
    pub fn status(&self, now: Instant) -> DiskStatus {
        let found = self.space.found();
        let sync = self.progress.syncs().under_way(now).map_or(Duration::ZERO, |(_, time)| time);
        let state = if self.progress.syncs().is_stalled(now) {
            DiskState::Stalled
        } else {
            match found.map(|found| found.fullness) {
                Some(Fullness::LastReserve) => DiskState::Exhausted,
                Some(Fullness::Reserve) => DiskState::Full,
                _ if sync >= Duration::from_millis(limits::SYNC_SLOW_MS) => DiskState::Slow,
                _ => DiskState::Well,
            }
        };
        DiskStatus {
            state,
            free_bytes: found.map(|found| found.free_bytes),
            reserve_bytes: found.map(|found| found.reserve_bytes),
            sync_ms: u64::try_from(sync.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// For how long a write has been hanging, if one hangs: then nothing can be kept.
    pub fn hanging(&self, now: Instant) -> Option<Duration> {
        let stalled = Duration::from_millis(limits::SYNC_STALLED_MS);
        let (_, time) = self.progress.syncs().under_way(now)?;
        (time >= stalled).then_some(time)
    }

    /// Waits until there is room for entries from a leader, for a bounded time. Returns whether there is.
    pub async fn room_for_entries(&self, bytes: u64) -> bool {
        let needed_bytes = bytes.saturating_mul(limits::DISK_BYTES_PER_COMMAND_BYTE);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(limits::DISK_APPEND_WAIT_MS);
        while !self.space.take_entries(needed_bytes) {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(limits::DISK_WATCH_INTERVAL_MS)).await;
        }
        true
    }
}
