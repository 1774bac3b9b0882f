//! The log as the scrub sees it: the blocks of the file, and the entries one after the other.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::ReadOnlyTable;

use super::Shared;
use super::reader::decode;
use crate::limits;
use crate::storage::checked_file::CheckedFile;
use crate::storage::damage::{Damage, DamageAlarm, Place, looking_at};

/// Entries, and a transaction that holds them.
type DiskView = (Range<u64>, ReadOnlyTable<u64, &'static [u8]>);

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::storage) struct LogScrub {
    shared: Arc<Shared>,
}

/// Entries that one step has checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct ScrubbedEntries {
    /// The entry to go on with; none at the end.
    pub(in crate::storage) next: Option<u64>,
    pub(in crate::storage) records: u64,
    pub(in crate::storage) bytes: u64,
}

impl LogScrub {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(in crate::storage) fn file(&self) -> &CheckedFile {
        &self.shared.file
    }

    pub(in crate::storage) fn alarm(&self) -> &DamageAlarm {
        &self.shared.alarm
    }

    /// Checks entries from `from` on: each must be there, found by its index, and whole.
    pub(in crate::storage) fn entries(&self, from: u64) -> Result<ScrubbedEntries, Damage> {
        let Shared { path, alarm, .. } = &*self.shared;
        looking_at(path, || self.shared.check_entries(from)).inspect_err(|damage| alarm.raise(damage.clone()))
    }
}

impl Shared {
    /// A transaction, and the entries from `from` on that it holds.
    ///
    /// Like a read of entries it begins without the lock, which every call takes: on a disk that hangs it
    /// takes as long as the disk.
    fn view_of_disk(&self, from: u64) -> Result<DiskView, redb::Error> {
        loop {
            let on_disk_before = self.lock().view.flushed_position();
            let log = self.begin_read()?;
            let state = self.lock();
            let range = state.view.clamp(&(from..on_disk_before.next));
            // Cut off meanwhile, the entries may be other ones by now.
            if range.is_empty() || state.view.is_in(range.end, on_disk_before) {
                return Ok((range, log));
            }
        }
    }

    fn check_entries(&self, from: u64) -> Result<ScrubbedEntries, Damage> {
        let damaged = |index, problem: &str| Damage::new(&self.path, Place::Entry(index), problem);
        let unread = |index, error: redb::Error| {
            Damage::of_database(&self.path, Place::Entry(index), &self.file.cause_of(error))
        };
        let (range, log) = self.view_of_disk(from).map_err(|error| unread(from, error))?;
        let mut done = ScrubbedEntries::default();
        let until = Instant::now() + Duration::from_millis(limits::SCRUB_STEP_MAX_MS);
        let mut next = range.start;
        for item in log.range(range.clone()).map_err(|error| unread(next, error.into()))? {
            let (index, record) = item.map_err(|error| unread(next, error.into()))?;
            if index.value() != next {
                break;
            }
            let entry = decode(next, record.value())
                .map_err(|error| Damage::of_record(&self.path, Place::Entry(next), &error.problem))?;
            let found = log.get(next).map_err(|error| unread(next, error.into()))?;
            if found.is_none_or(|found| found.value() != record.value()) {
                return Err(damaged(next, "a look-up by its index does not find it"));
            }
            debug_assert_eq!(entry.log_id.index, next, "the decoder checks it");
            done.records += 1;
            done.bytes += record.value().len() as u64;
            next += 1;
            if done.bytes >= limits::SCRUB_STEP_MAX_BYTES as u64 || Instant::now() >= until {
                done.next = (next < range.end).then_some(next);
                return Ok(done);
            }
        }
        if next < range.end {
            return Err(damaged(next, "it is missing"));
        }
        Ok(done)
    }
}
