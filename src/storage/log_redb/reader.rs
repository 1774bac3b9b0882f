//! Reading the log: from the tail in memory where it can, from disk where it must.
//!
//! # Tiger Style
//! A read for replication or for apply takes [`limits::APPEND_BATCH_MAX_BYTES`] and one entry at
//! least. Each record read is checked, and an entry that is missing from disk is an error.

use std::fmt::Debug;
use std::io;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use futures::{Stream, TryStreamExt, stream};
use openraft::OptionalSend;
use openraft::storage::RaftLogReader;
use redb::{ReadOnlyTable, ReadableDatabase};

use super::{LOG, Shared};
use crate::limits;
use crate::raft::runtime;
use crate::raft::types::{Entry, TypeConfig, Vote};
use crate::storage::codec::{self, CodecError, CodecProblem};
use crate::storage::damage::{Damage, Place};
use crate::storage::log_view::{LogError, half_open};

/// What to read on disk, and where; and what the tail had.
type BothViews = (Range<u64>, Vec<Entry>, ReadOnlyTable<u64, &'static [u8]>);

/// A reader of the log. Clones are cheap and see every append as soon as it returns.
#[derive(Clone, Debug)]
pub struct RedbLogReader {
    shared: Arc<Shared>,
}

impl RedbLogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Entries of the log in `range`: all of them, unless `max_bytes` ends it after the first.
    pub(super) async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        {
            let state = self.shared.lock();
            state.check()?;
            let range = state.view.clamp(&range);
            if range.start >= state.view.tail_first() {
                return Ok(state.view.read_tail(&range, max_bytes));
            }
        }
        let shared = Arc::clone(&self.shared);
        let read = runtime::blocking(move || shared.read_from_disk(&range, max_bytes))
            .await
            .map_err(|error| LogError::from(redb::Error::Io(error)))
            .flatten();
        read.map_err(|error| self.shared.noticed(error))
    }
}

impl Shared {
    fn read_from_disk(&self, range: &Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let (on_disk, tail, log) = self.view_of_both(range, max_bytes)?;
        let (mut next, mut bytes) = (on_disk.start, 0_usize);
        let mut entries = Vec::new();
        for item in log.range(on_disk.clone()).map_err(redb::Error::from)? {
            let (index, record) = item.map_err(redb::Error::from)?;
            if index.value() != next {
                return Err(LogError::Hole(next));
            }
            bytes = bytes.saturating_add(record.value().len());
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(decode(next, record.value())?);
            next += 1;
        }
        if next < on_disk.end {
            return Err(LogError::Hole(next));
        }
        // A limited read may end at the seam: it gets the rest with its next one.
        if max_bytes == usize::MAX || entries.is_empty() {
            entries.extend(tail);
        }
        Ok(entries)
    }

    /// A transaction, which of the range to read in it, and the rest from the tail.
    ///
    /// To begin a transaction can take as long as a sync: the lock, which every call takes, is not held
    /// meanwhile. So the two may not fit together, and it is done again: once is enough, unless a whole
    /// tail was written and flushed in between.
    fn view_of_both(&self, range: &Range<u64>, max_bytes: usize) -> Result<BothViews, LogError> {
        loop {
            let on_disk_before = self.lock().view.flushed_position();
            let log = self.begin_read()?;
            let state = self.lock();
            let range = state.view.clamp(range);
            let on_disk = range.start..range.end.min(state.view.tail_first());
            if on_disk.is_empty() || state.view.is_in(on_disk.end, on_disk_before) {
                let tail = state.view.read_tail(&(on_disk.end..range.end), max_bytes);
                return Ok((on_disk, tail, log));
            }
        }
    }

    /// Raises the alarm for a read that met damage, or a disk that fails. Returns the error with its cause.
    fn noticed(&self, error: LogError) -> LogError {
        let error = match error {
            LogError::Read(error) if matches!(*error, redb::Error::PreviousIo) => {
                LogError::from(self.file.cause_of(redb::Error::PreviousIo))
            }
            other => other,
        };
        match &error {
            LogError::Hole(index) => {
                self.alarm.raise(Damage::new(&self.path, Place::Entry(*index), "it is missing"));
            }
            LogError::Record(problem) => self.alarm.raise(Damage::new(&self.path, Place::File, problem)),
            // A log that is closed under its last readers is whole.
            LogError::Read(error) if !matches!(**error, redb::Error::DatabaseClosed) => {
                self.alarm.raise(Damage::of_database(&self.path, Place::File, error));
            }
            _ => {}
        }
        error
    }

    pub(super) fn begin_read(&self) -> Result<ReadOnlyTable<u64, &'static [u8]>, redb::Error> {
        Ok(self.database.begin_read()?.open_table(LOG)?)
    }
}

/// Checks and decodes the entry that is stored under `index`.
pub(super) fn decode(index: u64, record: &[u8]) -> Result<Entry, CodecError> {
    let what = format_args!("log entry {index}");
    let entry: Entry = codec::unseal(what, record)?;
    if entry.log_id.index == index {
        return Ok(entry);
    }
    let problem = CodecProblem::Misplaced(format!("entry {}", entry.log_id.index));
    Err(CodecError { what: what.to_string(), problem })
}

impl RaftLogReader<TypeConfig> for RedbLogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(half_open(&range), usize::MAX).await?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let state = self.shared.lock();
        state.check()?;
        Ok(state.view.vote)
    }

    /// Refuses a range that begins with purged entries: a follower would get entries that do not
    /// continue its log.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start..end, limits::APPEND_BATCH_MAX_BYTES).await?;
        // After the read, for a purge may have come meanwhile. Where it took all of the range, nothing is read.
        let first = match entries.first() {
            Some(entry) => entry.log_id.index,
            None => self.shared.lock().view.indexes().start,
        };
        if start < end && start < first {
            return Err(LogError::Purged { index: start, first }.into());
        }
        Ok(entries)
    }

    /// Reads batch by batch while the stream is consumed: a replay after a start may be long.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = self.shared.lock().view.clamp(&half_open(&range));
        let reader = self.clone();
        stream::try_unfold((reader, range), async |(reader, range)| {
            if range.is_empty() {
                return Ok(None);
            }
            let batch = reader.read(range.clone(), limits::APPEND_BATCH_MAX_BYTES).await?;
            match batch.first().map(|entry| entry.log_id.index) {
                Some(first) if first == range.start => {}
                Some(first) => return Err(LogError::Purged { index: range.start, first }),
                None => return Err(LogError::Removed(range.start)),
            }
            let next = range.start + batch.len() as u64;
            Ok(Some((stream::iter(batch.into_iter().map(Ok::<_, LogError>)), (reader, next..range.end))))
        })
        .try_flatten()
        .map_err(io::Error::from)
    }
}
