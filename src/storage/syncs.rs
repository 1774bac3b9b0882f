//! How long the disk takes to make a write durable, seen also while it has not finished.
//!
//! Whoever syncs a file runs it through [`Syncs::time`], and whoever writes to one through [`Syncs::watch`]: a
//! file that grows is synced on the way. A disk that hangs never returns from a sync, so its start is noted where
//! a watcher can see it.
//!
//! # Tiger Style
//! One write to a file is under way at a time, and its syncs are within it: each file has one writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits;

/// A file whose syncs are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncedFile {
    /// The Raft log.
    Log,
    /// The state, at its checkpoints.
    State,
}

impl SyncedFile {
    const ALL: [Self; 2] = [Self::Log, Self::State];

    /// Its name in figures and logs. Must stay stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
        }
    }
}

/// The syncs of one data directory.
#[derive(Debug)]
pub struct Syncs {
    /// Times are counted from here, so that they fit into an atomic number.
    origin: Instant,
    /// Since when one is under way, by file; 0 if none is.
    since_us: [AtomicU64; 2],
    /// When the last one ended that took as long as a stalled one; 0 if there was none.
    stalled_us: AtomicU64,
}

impl Default for Syncs {
    fn default() -> Self {
        Self { origin: Instant::now(), since_us: Default::default(), stalled_us: AtomicU64::new(0) }
    }
}

impl Syncs {
    /// Runs a write, of which it is not known whether it syncs.
    pub fn watch<T>(&self, file: SyncedFile, write: impl FnOnce() -> T) -> T {
        let _under_way = UnderWay::begin(self, file);
        write()
    }

    /// Runs a sync and times it.
    pub fn time<T>(&self, file: SyncedFile, sync: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let synced = self.watch(file, sync);
        metrics::histogram!("aspen_storage_fsync_seconds", "file" => file.name()).record(began.elapsed());
        synced
    }

    /// The sync that has been under way for longest, and for how long.
    pub fn under_way(&self, now: Instant) -> Option<(SyncedFile, Duration)> {
        let files = SyncedFile::ALL.into_iter();
        let times = files.filter_map(|file| Some((file, self.under_way_to(file, now)?)));
        times.max_by_key(|(_, time)| *time)
    }

    /// For how long a write to this file has been under way, if one is.
    pub fn under_way_to(&self, file: SyncedFile, now: Instant) -> Option<Duration> {
        self.elapsed(&self.since_us[file as usize], now)
    }

    /// Whether a sync hangs.
    pub fn hangs(&self, now: Instant) -> bool {
        self.under_way(now).is_some_and(|(_, time)| time >= stalled())
    }

    /// Whether a sync hangs, or did not long ago.
    pub fn is_stalled(&self, now: Instant) -> bool {
        let cool_down = Duration::from_millis(limits::DISK_COOL_DOWN_MS);
        self.hangs(now) || self.elapsed(&self.stalled_us, now).is_some_and(|since| since < cool_down)
    }

    /// Time since what was noted there.
    fn elapsed(&self, noted: &AtomicU64, now: Instant) -> Option<Duration> {
        let noted = noted.load(Ordering::Acquire).checked_sub(1)?;
        let now = now.saturating_duration_since(self.origin);
        Some(now.saturating_sub(Duration::from_micros(noted)))
    }

    /// A moment as a number, never 0.
    fn number(&self, now: Instant) -> u64 {
        let since_origin = now.saturating_duration_since(self.origin).as_micros();
        u64::try_from(since_origin).expect("microseconds of any uptime fit 64 bits") + 1
    }

    fn finish(&self, file: SyncedFile, took: Duration, now: Instant) {
        self.since_us[file as usize].store(0, Ordering::Release);
        if took < Duration::from_millis(limits::SYNC_SLOW_MS) {
            return;
        }
        metrics::counter!("aspen_storage_slow_fsyncs_total", "file" => file.name()).increment(1);
        tracing::warn!(
            file = file.name(),
            "a write to the {} took {} ms: the disk is slow. Look at what else uses it, and at its health",
            file.name(),
            took.as_millis()
        );
        if took >= stalled() {
            self.stalled_us.store(self.number(now), Ordering::Release);
        }
    }
}

fn stalled() -> Duration {
    Duration::from_millis(limits::SYNC_STALLED_MS)
}

/// A write or sync under way. It ends also by a panic, which the database library may do on a damaged file.
struct UnderWay<'a> {
    syncs: &'a Syncs,
    file: SyncedFile,
    started: Instant,
    /// A sync within a write is a part of it.
    is_whole: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(syncs: &'a Syncs, file: SyncedFile) -> Self {
        let started = Instant::now();
        let since_us = &syncs.since_us[file as usize];
        let is_whole = since_us.load(Ordering::Acquire) == 0;
        if is_whole {
            since_us.store(syncs.number(started), Ordering::Release);
        }
        Self { syncs, file, started, is_whole }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.is_whole {
            let now = Instant::now();
            self.syncs.finish(self.file, now - self.started, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: SyncedFile = SyncedFile::Log;

    #[test]
    fn sync_is_seen_while_it_hangs() {
        let syncs = Syncs::default();
        assert_eq!(syncs.under_way(Instant::now()), None);
        let hanging = UnderWay::begin(&syncs, LOG);
        let started = hanging.started;
        let later = |ms| started + Duration::from_millis(ms);
        let (file, time) = syncs.under_way(later(1_200)).unwrap();
        assert_eq!((file, time.as_millis()), (LOG, 1_200));
        assert!(!syncs.is_stalled(later(limits::SYNC_STALLED_MS - 10)));
        assert!(syncs.hangs(later(limits::SYNC_STALLED_MS + 10)));
        syncs.time(SyncedFile::State, || {
            assert_eq!(syncs.under_way(later(2_000)).unwrap().0, LOG, "the one that hangs for longest");
        });
        drop(hanging);
        assert_eq!(syncs.under_way(later(60_000)), None);
        assert!(!syncs.is_stalled(later(60_000)), "it took no time after all");
    }

    #[test]
    fn disk_counts_as_stalled_for_a_while_after_it_came_back() {
        let syncs = Syncs::default();
        let ended = Instant::now();
        syncs.finish(LOG, Duration::from_millis(limits::SYNC_STALLED_MS), ended);
        let cool_down = Duration::from_millis(limits::DISK_COOL_DOWN_MS);
        let almost = ended + cool_down - Duration::from_millis(10);
        assert!(syncs.is_stalled(almost) && !syncs.hangs(almost));
        assert!(!syncs.is_stalled(ended + cool_down + Duration::from_millis(10)));
    }

    #[test]
    fn sync_within_a_write_counts_from_the_start_of_the_write_and_does_not_end_it() {
        let syncs = Syncs::default();
        syncs.watch(LOG, || {
            let began = syncs.since_us[LOG as usize].load(Ordering::Acquire);
            syncs.time(LOG, || assert_eq!(syncs.since_us[LOG as usize].load(Ordering::Acquire), began));
            assert_eq!(syncs.since_us[LOG as usize].load(Ordering::Acquire), began, "more may follow");
        });
        assert_eq!(syncs.under_way(Instant::now()), None);
    }

    #[test]
    fn sync_that_panics_is_over() {
        let syncs = Syncs::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            syncs.time(LOG, || panic!("a damaged file, for a test"));
        }));
        assert!(panicked.is_err());
        assert_eq!(syncs.under_way(Instant::now() + Duration::from_secs(9)), None);
    }
}
