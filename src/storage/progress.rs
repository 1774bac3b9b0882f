//! How far the log and the state are on disk, shared between the two.
//!
//! # Tiger Style
//! A durable checkpoint of the state never passes the flushed log, and the log is never purged past
//! a durable checkpoint. Each side publishes its position here and reads the other's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::syncs::Syncs;

/// Positions as counts of entries (index + 1), so that 0 is none.
#[derive(Debug, Default)]
pub struct Progress {
    flushed: AtomicU64,
    durable: AtomicU64,
    saves: AtomicU64,
    syncs: Syncs,
}

impl Progress {
    /// Log entries up to and including `index` are on disk; none if absent. Truncation lowers it.
    pub fn set_flushed(&self, index: Option<u64>) {
        self.flushed.store(count(index), Ordering::Release);
    }

    /// Last log index on disk.
    pub fn flushed(&self) -> Option<u64> {
        self.flushed.load(Ordering::Acquire).checked_sub(1)
    }

    /// The state on disk includes everything up to and including `index`.
    pub fn set_durable(&self, index: Option<u64>) {
        self.durable.store(count(index), Ordering::Release);
    }

    /// All of the state that was applied is on disk, so that none of it waits in memory for room.
    pub fn count_save(&self) {
        self.saves.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was so.
    pub fn saves(&self) -> u64 {
        self.saves.load(Ordering::Acquire)
    }

    /// How long each side takes to get there.
    pub fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    /// Last index in the durable state.
    pub fn durable(&self) -> Option<u64> {
        self.durable.load(Ordering::Acquire).checked_sub(1)
    }
}

fn count(index: Option<u64>) -> u64 {
    index.map_or(0, |index| index + 1)
}
