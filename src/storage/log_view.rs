//! The log as its callers see it: bounds, vote, and the newest entries in memory.
//!
//! A call changes the view at once; the disk follows. What a caller may read is decided here, so
//! that an entry which was truncated or purged is never read back from a disk that lags behind.
//!
//! # Tiger Style
//! The log holds the indexes `first..next` without a hole. The tail is the end of that range and
//! holds at least every entry that is not on disk yet; what is on disk leaves it from the front.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::EntryPayload;

use super::codec::CodecError;
use crate::raft::types::{Entry, LogId, Vote};

/// Why the log refused, or could not do, what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// An append that would leave a hole, or overwrite.
    #[error(
        "entry {index} cannot be appended to a log whose next index is {next}: the log must have no hole"
    )]
    Gap {
        /// Of the entry.
        index: u64,
        /// Where the log ends.
        next: u64,
    },
    /// A truncation of what was committed.
    #[error("the log cannot be cut back to {next}: entry {committed} is committed")]
    TruncatesCommitted {
        /// First index that would go.
        next: u64,
        /// The last committed index.
        committed: u64,
    },
    /// A purge of the whole log ahead of the state.
    #[error(
        "the log, which ends before {next}, cannot be purged up to {index}: the state on disk reaches {}",
        durable.map_or("nothing".to_owned(), |index| index.to_string())
    )]
    PurgesUnsavedState {
        /// Last index that would go.
        index: u64,
        /// Where the log ends.
        next: u64,
        /// Last index in the durable state.
        durable: Option<u64>,
    },
    /// Entries that were asked for have been purged.
    #[error("entry {index} was purged from the log, which begins at {first}")]
    Purged {
        /// First index asked for.
        index: u64,
        /// First index there is.
        first: u64,
    },
    /// Entries were truncated during a read that goes on in batches.
    #[error("entry {0} was removed from the log while it was being read")]
    Removed(u64),
    /// An entry that the log must hold is not on disk.
    #[error("the log on disk has a hole: entry {0} is missing")]
    Hole(u64),
    /// An entry that cannot be trusted.
    #[error(transparent)]
    Record(#[from] CodecError),
    /// A read from the database failed.
    #[error("the log cannot be read: {0}")]
    Read(Arc<redb::Error>),
    /// An earlier write failed. What is on disk is unknown since, so nothing is written any more.
    #[error(
        "the log takes no more writes since one failed: {0}. Put the disk in order, then start the node again"
    )]
    Failed(Arc<str>),
}

impl From<redb::Error> for LogError {
    fn from(error: redb::Error) -> Self {
        Self::Read(Arc::new(error))
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::other(error)
    }
}

/// Where the log ended after some write, and in which life: each truncation begins a new one, in
/// which older writes say nothing about what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    epoch: u64,
    /// Index after the last.
    pub(super) next: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LogView {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    first: u64,
    next: u64,
    /// Entries on disk, as the index after the last.
    flushed: u64,
    epoch: u64,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl LogView {
    /// A log that is all on disk. `last` is the last entry's id, or that of the last purged one.
    pub(super) fn on_disk(purged: Option<LogId>, last: Option<LogId>) -> Self {
        let next = count(last);
        Self { purged, last, first: count(purged), next, flushed: next, ..Self::default() }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Id of the last entry, or of the last purged one where there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Indexes in the log.
    pub(super) fn indexes(&self) -> Range<u64> {
        self.first..self.next
    }

    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, next: self.next }
    }

    /// Where the log ended when this was its last entry.
    pub(super) fn position_at(&self, index: u64) -> Position {
        assert!(index < self.next, "the view holds the entry");
        Position { epoch: self.epoch, next: index + 1 }
    }

    /// Where what is on disk ends.
    pub(super) fn flushed_position(&self) -> Position {
        Position { epoch: self.epoch, next: self.flushed }
    }

    /// Whether the entries below `next` are those that were there at a position.
    pub(super) fn is_in(&self, next: u64, position: Position) -> bool {
        self.epoch == position.epoch && next <= position.next
    }

    /// First index in the tail; what is below must be read from disk.
    pub(super) fn tail_first(&self) -> u64 {
        self.next - self.tail.len() as u64
    }

    /// Bytes in the tail, roughly.
    #[cfg(test)]
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// The part of a range that the log holds.
    pub(super) fn clamp(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start.max(self.first);
        start..range.end.min(self.next).max(start)
    }

    /// Entries of the tail in `range`, as many as fit into `max_bytes`, but one at least.
    pub(super) fn read_tail(&self, range: &Range<u64>, max_bytes: usize) -> Vec<Entry> {
        let skip = range.start.saturating_sub(self.tail_first());
        let wanted = range.end.saturating_sub(range.start.max(self.tail_first()));
        let (skip, wanted) = (in_memory(skip), in_memory(wanted));
        let mut bytes = 0;
        let fits = |(n, entry): &(usize, &Entry)| {
            bytes += entry_bytes(entry);
            *n == 0 || bytes <= max_bytes
        };
        self.tail
            .iter()
            .skip(skip)
            .take(wanted)
            .enumerate()
            .take_while(fits)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Adds entries to the end.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let Some(start) = entries.first().map(|entry| entry.log_id.index) else { return Ok(()) };
        // Only a log that never held anything may begin anywhere; one that was cut back has.
        let untouched = self.first == self.next && self.purged.is_none() && self.epoch == 0;
        let mut next = if untouched { start } else { self.next };
        for entry in entries {
            let index = entry.log_id.index;
            if index != next {
                return Err(LogError::Gap { index, next });
            }
            next += 1;
        }
        if untouched {
            self.first = start;
            self.flushed = start;
        }
        self.next = next;
        self.last = entries.last().map(|entry| entry.log_id);
        self.tail_bytes += entries.iter().map(entry_bytes).sum::<usize>();
        self.tail.extend(entries.iter().cloned());
        Ok(())
    }

    /// Removes what comes after `last`. Says whether there was anything.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) -> Result<bool, LogError> {
        let next = count(last).max(self.first);
        if next >= self.next {
            return Ok(false);
        }
        if let Some(committed) = self.committed.filter(|committed| committed.index >= next) {
            return Err(LogError::TruncatesCommitted { next, committed: committed.index });
        }
        while self.next > next {
            if let Some(entry) = self.tail.pop_back() {
                self.tail_bytes -= entry_bytes(&entry);
                self.next -= 1;
            } else {
                self.next = next;
            }
        }
        self.last = if next == self.first { self.purged } else { last };
        self.flushed = self.flushed.min(next);
        self.epoch += 1;
        Ok(true)
    }

    /// Removes everything up to `to`, which may lie beyond the end.
    pub(super) fn purge(&mut self, to: LogId) {
        assert!(Some(to.index) >= self.purged.map(|id| id.index), "a purge goes forward");
        self.purged = Some(to);
        self.first = self.first.max(to.index + 1);
        if to.index >= self.next {
            self.next = to.index + 1;
            self.last = Some(to);
            self.tail.clear();
            self.tail_bytes = 0;
        } else if to.index + 1 == self.next {
            self.last = Some(to);
        }
        while self.tail_first() < self.first {
            self.drop_front();
        }
    }

    /// Everything up to `position` is on disk.
    pub(super) fn set_flushed(&mut self, position: Position) {
        if position.epoch == self.epoch {
            assert!(position.next <= self.next, "the disk holds no more than the view");
            self.flushed = self.flushed.max(position.next);
        }
    }

    /// The committed id, if its entry is on disk once everything up to `position` is.
    pub(super) fn committed_within(&self, position: Position) -> Option<LogId> {
        let same_life = position.epoch == self.epoch;
        self.committed.filter(|committed| same_life && committed.index < position.next)
    }

    /// Last index on disk. What a purge removed counts: the durable state holds it.
    pub(super) fn flushed(&self) -> Option<u64> {
        self.flushed.checked_sub(1)
    }

    /// Drops the oldest entries that are on disk while the tail is above `max_bytes`.
    pub(super) fn shrink_tail(&mut self, max_bytes: usize) {
        while self.tail_bytes > max_bytes && self.tail_first() < self.flushed {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        let entry = self.tail.pop_front().expect("the tail has entries below its end");
        self.tail_bytes -= entry_bytes(&entry);
    }
}

/// Bytes that an entry takes, roughly: what it carries and a flat share for the rest.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    const FLAT_BYTES: usize = 64;
    const NODE_BYTES: usize = 256;
    match &entry.payload {
        EntryPayload::Blank => FLAT_BYTES,
        EntryPayload::Normal(proposal) => FLAT_BYTES + proposal.0.len(),
        EntryPayload::Membership(membership) => FLAT_BYTES + membership.nodes().count() * NODE_BYTES,
    }
}

/// Any range of indexes as one with a start and an end.
pub(super) fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn count(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

fn in_memory(entries: u64) -> usize {
    usize::try_from(entries).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use openraft::testing::log_id;

    use super::*;
    use crate::kv::types::NodeId;
    use crate::raft::types::TypeConfig;

    fn id(term: u64, index: u64) -> LogId {
        log_id::<TypeConfig>(term, NodeId(1), index)
    }

    fn blanks(term: u64, range: Range<u64>) -> Vec<Entry> {
        range.map(|index| Entry::new_blank(id(term, index))).collect()
    }

    #[test]
    fn an_append_that_leaves_a_hole_or_overwrites_is_refused() {
        let mut view = LogView::on_disk(None, Some(id(1, 9)));
        assert!(matches!(view.append(&blanks(1, 11..12)), Err(LogError::Gap { index: 11, next: 10 })));
        assert!(matches!(view.append(&blanks(1, 9..11)), Err(LogError::Gap { index: 9, next: 10 })));
        view.append(&blanks(1, 10..12)).unwrap();
        assert_eq!((view.indexes(), view.tail_first()), (0..12, 10));
    }

    #[test]
    fn only_what_is_on_disk_leaves_the_tail() {
        let mut view = LogView::default();
        view.append(&blanks(1, 0..4)).unwrap();
        let first_two = Position { epoch: 0, next: 2 };
        view.set_flushed(first_two);
        view.shrink_tail(0);
        assert_eq!((view.tail_first(), view.flushed()), (2, Some(1)));
        assert_eq!(view.read_tail(&(2..4), usize::MAX).len(), 2);
        assert_eq!(view.read_tail(&(2..4), 1).len(), 1, "one entry at least");
    }

    #[test]
    fn a_write_from_before_a_truncation_does_not_count_as_flushed() {
        let mut view = LogView::default();
        view.append(&blanks(1, 0..5)).unwrap();
        let before = view.position();
        assert!(view.truncate_after(Some(id(1, 1))).unwrap());
        view.append(&blanks(2, 2..4)).unwrap();
        view.set_flushed(before);
        assert_eq!(view.flushed(), None, "entries 2 and 3 are other ones now");
        view.set_flushed(view.position());
        assert_eq!(view.flushed(), Some(3));
    }

    #[test]
    fn committed_entries_are_not_truncated() {
        let mut view = LogView::on_disk(None, Some(id(1, 9)));
        view.committed = Some(id(1, 5));
        assert!(matches!(view.truncate_after(Some(id(1, 4))), Err(LogError::TruncatesCommitted { .. })));
        assert!(view.truncate_after(Some(id(1, 5))).unwrap());
        assert!(!view.truncate_after(Some(id(1, 7))).unwrap(), "nothing is there to remove");
        assert_eq!(view.last(), Some(id(1, 5)));
    }

    #[test]
    fn a_log_of_which_all_was_removed_goes_on_where_it_began() {
        let mut view = LogView::default();
        view.append(&blanks(1, 0..3)).unwrap();
        assert!(view.truncate_after(None).unwrap());
        assert!(matches!(view.append(&blanks(2, 3..4)), Err(LogError::Gap { index: 3, next: 0 })));
        view.append(&blanks(2, 0..2)).unwrap();
        assert_eq!(view.indexes(), 0..2);
    }

    #[test]
    fn a_purge_past_the_end_moves_the_end() {
        let mut view = LogView::default();
        view.append(&blanks(1, 0..3)).unwrap();
        view.purge(id(2, 9));
        assert_eq!((view.indexes(), view.last(), view.tail_bytes()), (10..10, Some(id(2, 9)), 0));
        assert!(matches!(view.append(&blanks(2, 0..1)), Err(LogError::Gap { .. })));
        view.append(&blanks(2, 10..11)).unwrap();
        assert_eq!(view.clamp(&(0..100)), 10..11);
    }
}
