//! How a node's disk is: its room, and its speed, in one place for all who must know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::space::{Admitted, Fullness, Growth, NoRoom, Space};
use super::state::StateReader;
use crate::kv::types::{DiskState, DiskStatus};
use crate::limits;
use crate::raft::runtime;

/// The disk of one data directory.
pub struct Pressure {
    space: Arc<Space>,
    progress: Arc<Progress>,
    state: StateReader,
    /// Held by who saves. All others wait for that, and then likely need no save of their own.
    saving: tokio::sync::Mutex<()>,
}

impl Pressure {
    /// Joins room, the syncs of the log and the state, and the state itself, which can be saved.
    pub fn new(space: Arc<Space>, progress: Arc<Progress>, state: StateReader) -> Self {
        Self { space, progress, state, saving: tokio::sync::Mutex::default() }
    }

    /// Lets a change in; see [`Space::admit`]. Where the room is short only because of what may wait in
    /// memory, that is saved first.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub async fn admit(&self, growth: Growth, needed_bytes: u64) -> Result<Admitted, NoRoom> {
        let refused = self.space.admit(growth, needed_bytes);
        if refused.is_ok() || !self.space.would_a_save_help(growth) {
            return refused;
        }
        let _saving = self.saving.lock().await;
        let refused = self.space.admit(growth, needed_bytes);
        if refused.is_ok() || !self.space.would_a_save_help(growth) {
            return refused;
        }
        self.save().await;
        self.space.admit(growth, needed_bytes)
    }

    /// Puts on disk what was applied, so that only what is there counts. Where that fails, the next
    /// batch that is applied does so too, and says why.
    async fn save(&self) {
        let state = self.state.clone();
        let saved = runtime::blocking(move || {
            // Twice: what finished while a save was under way is not counted as saved by it. The second
            // one has little to do, if anything.
            state.checkpoint().and_then(|_| state.checkpoint())
        });
        match saved.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!("the state was not saved to learn how full the disk is: {error}");
            }
            Err(error) => tracing::error!("saving the state ended early: {error}"),
        }
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
        if self.space.take_entries(needed_bytes) {
            return true;
        }
        // A save is within the bound, too: the disk may hang in it.
        let bound = Duration::from_millis(limits::DISK_APPEND_WAIT_MS);
        tokio::time::timeout(bound, self.take_once_there_is_room(needed_bytes)).await.is_ok()
    }

    async fn take_once_there_is_room(&self, needed_bytes: u64) {
        loop {
            if self.space.would_a_save_help(Growth::Frees) {
                let _saving = self.saving.lock().await;
                self.save().await;
            }
            if self.space.take_entries(needed_bytes) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(limits::DISK_WATCH_INTERVAL_MS)).await;
        }
    }
}
