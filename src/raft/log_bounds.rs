//! Keeps the log bounded in bytes: openraft counts entries alone.
//!
//! A snapshot is made when so many bytes of commands were applied since the last one, however few
//! entries they are, and behind a snapshot so many bytes of entries are kept at most.
//!
//! # Tiger Style
//! Looks every [`limits::SNAPSHOT_CHECK_INTERVAL_MS`]. What was applied before the node started is not
//! counted, so the log may be longer by as much once after a start.

use std::time::Duration;

use openraft::errors::Fatal;
use tokio::time::MissedTickBehavior;

use super::types::TypeConfig;
use super::{RaftHandle, observe};
use crate::limits;
use crate::storage::state::StateReader;

/// Makes snapshots and purges until Raft ends.
///
/// # Errors
/// Raft has stopped.
pub async fn keep_bounded(
    raft: RaftHandle,
    reader: StateReader,
    every_bytes: u64,
) -> Result<(), Fatal<TypeConfig>> {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::SNAPSHOT_CHECK_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut bounds = LogBounds::new(every_bytes);
    loop {
        ticks.tick().await;
        let snapshot = observe::metrics(&raft).snapshot.map(|last| last.index());
        let now = Applied { bytes: reader.applied_bytes(), index: reader.applied_index() };
        match bounds.look(snapshot, now) {
            None => {}
            Some(Need::Snapshot) => raft.trigger().snapshot().await?,
            Some(Need::Purge { upto }) => raft.trigger().purge_log(upto).await?,
        }
    }
}

/// How far the state has got.
#[derive(Clone, Copy, Debug, Default)]
struct Applied {
    bytes: u64,
    index: Option<u64>,
}

/// What the log needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Snapshot,
    Purge { upto: u64 },
}

/// What was seen at the last looks.
struct LogBounds {
    every_bytes: u64,
    snapshot: Option<u64>,
    /// Where the state was when the last snapshot was seen or asked for.
    since: Applied,
    /// The same for the snapshot before.
    since_before: Applied,
}

impl LogBounds {
    fn new(every_bytes: u64) -> Self {
        Self { every_bytes, snapshot: None, since: Applied::default(), since_before: Applied::default() }
    }

    fn look(&mut self, snapshot: Option<u64>, now: Applied) -> Option<Need> {
        if snapshot != self.snapshot {
            self.snapshot = snapshot;
            let kept = kept_entries(self.since_before, now);
            self.since = now;
            self.since_before = now;
            let upto = snapshot.and_then(|last| last.checked_sub(kept?));
            return upto.map(|upto| Need::Purge { upto });
        }
        if now.bytes - self.since.bytes >= self.every_bytes {
            // Asked for once: one that fails is asked for again after as many bytes.
            self.since = now;
            return Some(Need::Snapshot);
        }
        None
    }
}

/// The entries behind a snapshot that fit into their bytes, if that is less than openraft keeps. Their
/// size is that of the entries applied lately.
fn kept_entries(from: Applied, to: Applied) -> Option<u64> {
    let entries = to.index?.checked_sub(from.index?).filter(|entries| *entries > 0)?;
    let entry_bytes = (to.bytes - from.bytes) / entries;
    let kept = limits::LOG_KEPT_BEHIND_SNAPSHOT_BYTES.checked_div(entry_bytes)?;
    (kept < limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn at(index: u64, bytes: u64) -> Applied {
        Applied { bytes, index: Some(index) }
    }

    #[test]
    fn a_snapshot_is_asked_for_once_in_so_many_bytes() {
        let mut bounds = LogBounds::new(10 * MIB);
        assert_eq!(bounds.look(None, at(5, 10 * MIB - 1)), None);
        assert_eq!(bounds.look(None, at(6, 10 * MIB)), Some(Need::Snapshot));
        assert_eq!(bounds.look(None, at(7, 11 * MIB)), None, "it is under way");
        assert_eq!(bounds.look(None, at(20, 20 * MIB)), Some(Need::Snapshot), "it failed");
    }

    #[test]
    fn a_snapshot_made_for_its_entries_counts() {
        let mut bounds = LogBounds::new(10 * MIB);
        assert_eq!(bounds.look(None, at(1, 9 * MIB)), None);
        bounds.look(Some(20_000), at(20_000, 9 * MIB));
        assert_eq!(bounds.look(Some(20_000), at(20_001, 18 * MIB)), None);
        assert_eq!(bounds.look(Some(20_000), at(20_002, 19 * MIB)), Some(Need::Snapshot));
    }

    #[test]
    fn large_entries_are_purged_closer_to_the_snapshot_than_small_ones() {
        let mut bounds = LogBounds::new(128 * MIB);
        assert_eq!(bounds.look(Some(10), at(10, 0)), None);
        let need = bounds.look(Some(200), at(210, 200 * MIB));
        assert_eq!(need, Some(Need::Purge { upto: 200 - 64 }), "64 entries of a megabyte are kept");
        assert_eq!(bounds.look(Some(30_000), at(30_000, 203 * MIB)), None, "openraft's count is fewer bytes");
    }
}
