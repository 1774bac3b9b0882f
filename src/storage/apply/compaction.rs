//! Forgetting history, a bounded step at a time.
//!
//! A step drops the oldest undo records. Reading at a revision needs the records of all changes after
//! it, so the revision of the last record that was dropped, even if others of that revision are left,
//! becomes the oldest that can be read: it and everything above need none of what is gone.

use std::ops::Bound;

use super::Applier;
use crate::kv::types::{KvError, Revision, WriteReply};
use crate::limits;
use crate::storage::record::{self, Change, Undo};
use crate::storage::tables::{StateError, Table, WriteTables};

impl<T: WriteTables> Applier<'_, T> {
    /// Drops undo records up to a revision. The reply's `succeeded` says whether none is left; the
    /// caller repeats the command until then.
    pub(super) fn compact(&mut self, requested: Revision) -> Result<Result<WriteReply, KvError>, StateError> {
        self.write_undo()?;
        let current = self.head.revisions.current;
        if requested > current {
            return Ok(Err(KvError::FutureRevision { requested, current }));
        }
        // Not skipped where `requested` is compacted already: a step that ended inside that revision
        // left some of its records behind.
        let (dropped, finished) = self.oldest_changes(requested)?;
        for (change, undo) in &dropped {
            self.tables.remove(Table::History, &change.to_key())?;
            self.drop_tombstone(&undo.key, *change)?;
        }
        let reached = if finished { Some(requested) } else { dropped.last().map(|(last, _)| last.revision) };
        let compacted = &mut self.head.revisions.compacted;
        *compacted = (*compacted).max(reached.expect("a step that is not finished dropped something"));
        Ok(Ok(WriteReply { revision: current, succeeded: finished, results: Vec::new(), replayed: false }))
    }

    /// The changes of one step, and whether no further ones are left up to the revision.
    fn oldest_changes(&self, up_to: Revision) -> Result<(Vec<(Change, Undo)>, bool), StateError> {
        let last = Change { revision: up_to, sub: u32::MAX }.to_key();
        let mut changes = Vec::new();
        for row in self.tables.rows(Table::History, (Bound::Unbounded, Bound::Included(&last)))? {
            if changes.len() == limits::COMPACT_STEP_MAX_RECORDS {
                return Ok((changes, false));
            }
            let (key, sealed) = row?;
            let (undo, _) = record::unseal_open(Table::History, &key, &sealed)?;
            changes.push((Change::from_key(&key)?, undo));
        }
        Ok((changes, true))
    }

    /// Removes the tombstone that a change left, unless the key was written and deleted again since.
    fn drop_tombstone(&mut self, key: &[u8], change: Change) -> Result<(), StateError> {
        let Some(sealed) = self.tables.get(Table::Tombstones, key)? else {
            return Ok(());
        };
        let (deleted, _) = record::unseal_open::<Change>(Table::Tombstones, key, &sealed)?;
        drop(sealed);
        if deleted == change {
            self.tables.remove(Table::Tombstones, key)?;
        }
        Ok(())
    }
}
