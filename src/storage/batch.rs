//! Batches of log entries: taken from openraft's stream, applied in one transaction.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use tokio::sync::Notify;

use super::apply::Applier;
use super::head::{self, Head};
use super::record;
use super::tables::{ReadTables, StateError, WriteTables};
use crate::kv::types::{Command, Revision, WriteOp};
use crate::limits;
use crate::raft::types::{Applied, Entry, LogId, StoredMembership, TypeConfig};

/// A log entry with its command decoded.
pub(crate) struct BatchEntry {
    pub(crate) log_id: LogId,
    pub(crate) payload: BatchPayload,
}

impl BatchEntry {
    /// Whether it may leave a discarded table behind.
    pub(crate) fn may_discard(&self) -> bool {
        matches!(&self.payload, BatchPayload::Command(command) if matches!(command.op, WriteOp::Restore(_)))
    }
}

/// What an entry holds.
pub(crate) enum BatchPayload {
    Blank,
    Command(Command),
    Membership(StoredMembership),
}

/// Entries that are applied together. A command that does not decode fails the batch before any of it
/// is applied.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<BatchEntry>,
    /// Who waits for each entry, if anyone.
    pub(crate) responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    /// Length of the encoded commands.
    pub(crate) bytes: usize,
}

impl Batch {
    /// Waits for an entry and takes those with it that are there. None at the end of the stream.
    pub(crate) async fn next<S>(entries: &mut S) -> io::Result<Option<Self>>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
    {
        let mut batch = Self::default();
        let mut next = entries.next().await;
        while let Some(entry) = next {
            let (entry, responder) = entry?;
            batch.push(entry.log_id, entry.payload, responder)?;
            if batch.is_full() {
                break;
            }
            // An entry that is not there yet must not hold up the answers to those that are.
            next = entries.next().now_or_never().flatten();
        }
        Ok(if batch.entries.is_empty() { None } else { Some(batch) })
    }

    /// Entries for which nobody waits.
    pub(crate) fn of(entries: Vec<Entry>) -> Result<Self, StateError> {
        let mut batch = Self::default();
        for entry in entries {
            batch.push(entry.log_id, entry.payload, None)?;
        }
        Ok(batch)
    }

    /// Whether it takes so little time to apply that no thread is worth waking for it.
    pub(crate) fn is_quick(&self) -> bool {
        self.bytes <= limits::APPLY_AT_ONCE_MAX_BYTES
            && self.entries.len() <= limits::APPLY_AT_ONCE_MAX_ENTRIES
            && self.entries.iter().all(|entry| match &entry.payload {
                BatchPayload::Blank | BatchPayload::Membership(_) => true,
                BatchPayload::Command(command) => command.only_puts(),
            })
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= limits::APPLY_BATCH_MAX_ENTRIES || self.bytes >= limits::APPLY_BATCH_MAX_BYTES
    }

    fn push(
        &mut self,
        log_id: LogId,
        payload: openraft::alias::EntryPayloadOf<TypeConfig>,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> Result<(), StateError> {
        let payload = match payload {
            EntryPayload::Blank => BatchPayload::Blank,
            EntryPayload::Normal(proposal) => {
                self.bytes += proposal.0.len();
                BatchPayload::Command(record::decode_command(&proposal)?)
            }
            EntryPayload::Membership(membership) => {
                BatchPayload::Membership(StoredMembership::new(Some(log_id), membership))
            }
        };
        self.entries.push(BatchEntry { log_id, payload });
        self.responders.push(responder);
        Ok(())
    }
}

/// Applies entries to tables of one transaction, with the position in the log that they lead to.
pub(crate) fn apply(
    tables: &mut impl WriteTables,
    entries: &[BatchEntry],
) -> Result<(Vec<Applied>, Marks), StateError> {
    let mut applied = head::load_applied(tables)?;
    let mut membership = None;
    let mut results = Vec::with_capacity(entries.len());
    let mut applier = Applier::begin(tables)?;
    for entry in entries {
        assert!(
            applied.is_none_or(|applied| applied.index < entry.log_id.index),
            "entry {} comes after the state has applied {applied:?}",
            entry.log_id
        );
        applied = Some(entry.log_id);
        results.push(match &entry.payload {
            BatchPayload::Blank => Applied::Nothing,
            BatchPayload::Command(command) => Applied::Command(applier.apply(command)?),
            BatchPayload::Membership(stored) => {
                applier.membership(stored)?;
                membership = Some(stored);
                Applied::Nothing
            }
        });
    }
    let head = applier.finish()?;
    if let Some(membership) = membership {
        head::store_membership(tables, membership)?;
    }
    if let Some(applied) = applied {
        head::store_applied(tables, applied)?;
    }
    Ok((results, Marks::new(&head, applied)))
}

/// How far a committed state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) applied_index: Option<u64>,
}

impl Marks {
    pub(crate) fn load(tables: &impl ReadTables) -> Result<Self, StateError> {
        Ok(Self::new(&Head::load(tables)?, head::load_applied(tables)?))
    }

    fn new(head: &Head, applied: Option<LogId>) -> Self {
        Self {
            revision: head.revisions.current,
            compacted: head.revisions.compacted,
            applied_index: applied.map(|applied| applied.index),
        }
    }
}

/// The marks of the newest committed state, for anyone to look at. They are set after the commit, each
/// for itself: a reader may see a newer revision with an older index, never the other way round.
#[derive(Debug, Default)]
pub(crate) struct PublishedMarks {
    revision: AtomicU64,
    compacted: AtomicU64,
    /// The index plus one; 0 for none.
    applied: AtomicU64,
    /// Told whenever they are set.
    news: Notify,
}

impl PublishedMarks {
    pub(crate) fn set(&self, marks: Marks) {
        self.compacted.store(marks.compacted.0, Ordering::Release);
        self.revision.store(marks.revision.0, Ordering::Release);
        self.applied.store(marks.applied_index.map_or(0, |index| index + 1), Ordering::Release);
        self.news.notify_waiters();
    }

    /// Waits until an index is applied.
    pub(crate) async fn applied(&self, index: u64) {
        while self.applied_index() < Some(index) {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if self.applied_index() < Some(index) {
                news.await;
            }
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    pub(crate) fn applied_index(&self) -> Option<u64> {
        self.applied.load(Ordering::Acquire).checked_sub(1)
    }
}
