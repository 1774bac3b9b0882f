//! What a store must hold: the cluster's log, how far each part was acknowledged, the states along it.

use std::collections::BTreeMap;

use openraft::EntryPayload;

use crate::kv::types::{RestoreStep, Revision};
use crate::raft::types::{Entry, LogId, StoredMembership, Vote};
use crate::storage::batch::{self, BatchEntry, BatchPayload};
use crate::storage::record::decode_command;
use crate::storage::tables::MemTables;

/// Positions are counts of entries, so that 0 is none.
pub(super) struct Model {
    pub(super) term: u64,
    /// By index. Up to `committed` the cluster's, then the node's own that may be replaced.
    pub(super) entries: Vec<Entry>,
    pub(super) committed: u64,
    /// The log's length, as far as its callers know.
    pub(super) log_len: u64,
    /// Entries that were reported as flushed.
    pub(super) acknowledged: u64,
    /// Where a truncation that is under way cuts the log.
    pub(super) truncating: Option<u64>,
    /// Highest committed id that was saved.
    pub(super) saved_committed: u64,
    pub(super) purge_asked: u64,
    pub(super) purged: u64,
    pub(super) vote: Option<Vote>,
    pub(super) vote_under_way: Option<Vote>,
    pub(super) applied: u64,
    /// Applied entries of the state that was reported as durable.
    pub(super) durable: u64,
    /// Entries in the snapshot that was reported as kept.
    pub(super) snapshot: u64,
    /// Entries in the last snapshot that came from another node.
    pub(super) installing: Option<u64>,
    /// Steps that are left of a restore, the next one last.
    pub(super) restoring: Vec<RestoreStep>,
    /// The state after so many entries.
    states: BTreeMap<u64, MemTables>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            term: 1,
            entries: Vec::new(),
            committed: 0,
            log_len: 0,
            acknowledged: 0,
            truncating: None,
            saved_committed: 0,
            purge_asked: 0,
            purged: 0,
            vote: None,
            vote_under_way: None,
            applied: 0,
            durable: 0,
            snapshot: 0,
            installing: None,
            restoring: Vec::new(),
            states: BTreeMap::from([(0, MemTables::default())]),
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn range(&self, from: u64, to: u64) -> &[Entry] {
        &self.entries[at(from)..at(to)]
    }

    /// The id of the last of so many entries.
    pub(super) fn id(&self, count: u64) -> Option<LogId> {
        count.checked_sub(1).map(|index| self.entries[at(index)].log_id)
    }

    pub(super) fn truncate(&mut self, count: u64) {
        self.entries.truncate(at(count));
    }

    /// Moves the cluster's log on: its state is known from here on.
    pub(super) fn commit(&mut self, count: u64) {
        while self.committed < count {
            let mut tables = self.state(self.committed).clone();
            let entry = batch_entry(&self.entries[at(self.committed)]);
            batch::apply(&mut tables, &[entry]).expect("tables in memory do not fail");
            self.committed += 1;
            self.states.insert(self.committed, tables);
        }
    }

    pub(super) fn state(&self, count: u64) -> &MemTables {
        &self.states[&count]
    }

    pub(super) fn revision(&self, count: u64) -> Revision {
        crate::storage::head::Revisions::load(self.state(count))
            .expect("tables in memory do not fail")
            .current
    }

    /// Forgets the states to which no store can go back.
    pub(super) fn forget_old_states(&mut self) {
        let (durable, snapshot, committed) = (self.durable, self.snapshot, self.committed);
        self.states.retain(|count, _| *count >= durable || *count == snapshot || *count == committed);
    }
}

fn batch_entry(entry: &Entry) -> BatchEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => BatchPayload::Blank,
        EntryPayload::Normal(proposal) => {
            BatchPayload::Command(decode_command(proposal).expect("the workload encodes commands"))
        }
        EntryPayload::Membership(membership) => {
            BatchPayload::Membership(StoredMembership::new(Some(entry.log_id), membership.clone()))
        }
    };
    BatchEntry { log_id: entry.log_id, payload }
}

fn at(index: u64) -> usize {
    usize::try_from(index).expect("the model's log is short")
}

/// A position as a count of entries.
pub(super) fn count(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}
