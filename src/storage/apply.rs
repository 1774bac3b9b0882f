//! Applying commands to the tables. Pure: what comes out depends on the tables and the command alone,
//! so every replica, on either backend and with any batching, ends with the same bytes.
//!
//! It must never look at a clock, at chance, or at anything else that replicas do not share.
//!
//! # Tiger Style
//! - The revision grows by one with a transaction that changes something; each change of a key has its
//!   own number inside the revision, and exactly one undo record.
//! - A transaction deletes at most [`limits::DELETE_PREFIX_MAX_KEYS`] keys and
//!   [`limits::DELETE_PREFIX_MAX_BYTES`], and reads at most [`limits::TXN_READ_MAX_BYTES`], in all its
//!   operations together. What is beyond is left, and the result says so.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use super::head::Head;
use super::read::{self, Page};
use super::record::{self, Change, Live, Previous, Undo};
use super::tables::{StateError, Table, WriteTables};
use crate::kv::types::{
    Command, Compare, CompareOp, CompareTarget, Key, KeyRange, KvError, OpResult, Txn, TxnOp, Value, WriteOp,
    WriteReply,
};
use crate::limits;

mod compaction;
mod members;
mod restore;
mod sessions;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use sessions::{Reply, Session};

/// Applies one command after the other to tables that are open for writing.
pub(crate) struct Applier<'t, T> {
    tables: &'t mut T,
    head: Head,
    undo: UndoRows,
    /// Loaded when they are first asked for.
    members: Option<members::Members>,
}

/// Undo records that are not in their table yet. Each one's key is greater than all before it, and to add
/// many at the table's end costs less than to look for the place of each.
#[derive(Default)]
struct UndoRows {
    rows: Vec<([u8; Change::KEY_BYTES], Vec<u8>)>,
    bytes: usize,
}

impl<'t, T: WriteTables> Applier<'t, T> {
    /// Begins where the tables stand.
    pub(crate) fn begin(tables: &'t mut T) -> Result<Self, StateError> {
        let head = Head::load(tables)?;
        Ok(Self { tables, head, undo: UndoRows::default(), members: None })
    }

    /// Applies a command. The inner result is the client's, the same on every replica; the outer one
    /// says that the store is broken.
    pub(crate) fn apply(&mut self, command: &Command) -> Result<Result<WriteReply, KvError>, StateError> {
        match &command.session {
            None => self.run(&command.op),
            Some(tag) => self.run_once(tag, &command.op),
        }
    }

    /// Writes the facts back that commands changed. Without it the tables are not whole.
    pub(crate) fn finish(mut self) -> Result<Head, StateError> {
        self.write_undo()?;
        self.head.store(self.tables)?;
        Ok(self.head)
    }

    fn run(&mut self, op: &WriteOp) -> Result<Result<WriteReply, KvError>, StateError> {
        match op {
            WriteOp::Txn(txn) => Ok(Ok(self.txn(txn)?)),
            WriteOp::Compact { revision } => self.compact(*revision),
            WriteOp::Restore(step) => self.restore(step),
            WriteOp::Member(op) => Ok(Ok(self.member_op(op)?)),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<WriteReply, StateError> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut budget = Budget::new();
        let mut next = Change { revision: self.head.revisions.current.next(), sub: 0 };
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.txn_op(op, &mut next, &mut budget)?);
        }
        if next.sub > 0 {
            self.head.revisions.current = next.revision;
        }
        Ok(WriteReply { revision: self.head.revisions.current, succeeded, results, replayed: false })
    }

    fn txn_op(&mut self, op: &TxnOp, next: &mut Change, budget: &mut Budget) -> Result<OpResult, StateError> {
        match op {
            TxnOp::Put { key, value, lease } => {
                self.put(key, value, *lease, next)?;
                Ok(OpResult::Put)
            }
            TxnOp::Delete { range } => self.delete(range, next, budget),
            TxnOp::Range { range, limit, keys_only } => {
                let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
                let limit = limit.min(limits::RANGE_MAX_KEYS);
                let mut page = Page::new(limit, *keys_only, budget.read_bytes);
                read::newest(self.tables, range, &mut page)?;
                let (reply, left) = page.finish();
                budget.read_bytes = left;
                Ok(OpResult::Range(reply))
            }
        }
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StateError> {
        let key = compare.key.as_bytes();
        let sealed = self.tables.get(Table::Data, key)?;
        let found = match &sealed {
            Some(sealed) => Some(record::unseal_open::<Live>(Table::Data, key, sealed)?),
            None => None,
        };
        let number = |of: fn(&Live) -> u64| found.as_ref().map_or(0, |(live, _)| of(live));
        let ordering = match &compare.target {
            CompareTarget::Value(operand) => match &found {
                Some((_, value)) => value.cmp(&operand.as_bytes()),
                None => return Ok(compare.op == CompareOp::NotEqual),
            },
            CompareTarget::Version(operand) => number(|live| live.version).cmp(operand),
            CompareTarget::CreateRevision(operand) => number(|live| live.create_revision.0).cmp(&operand.0),
            CompareTarget::ModRevision(operand) => number(|live| live.changed.revision.0).cmp(&operand.0),
        };
        Ok(match compare.op {
            CompareOp::Equal => ordering == Ordering::Equal,
            CompareOp::NotEqual => ordering != Ordering::Equal,
            CompareOp::Greater => ordering == Ordering::Greater,
            CompareOp::Less => ordering == Ordering::Less,
        })
    }

    fn put(&mut self, key: &Key, value: &Value, lease: u64, next: &mut Change) -> Result<(), StateError> {
        let (key, change) = (key.as_bytes(), *next);
        let mut undo = None;
        let was_there = self.tables.replace(Table::Data, key, |sealed| {
            let (before, to_undo) = undo_live(key, sealed, change)?;
            undo = Some(to_undo);
            let live = Live { changed: change, version: before.version + 1, lease, ..before };
            Ok(record::seal(Table::Data, key, &live, value.as_bytes()))
        })?;
        if !was_there {
            undo = Some(self.undo_absent(key, change)?);
            let live = Live { create_revision: change.revision, changed: change, version: 1, lease };
            self.tables.put(Table::Data, key, &record::seal(Table::Data, key, &live, value.as_bytes()))?;
        }
        self.remember(change, undo.expect("a key is there or it is not"))?;
        next.sub += 1;
        Ok(())
    }

    fn delete(
        &mut self,
        range: &KeyRange,
        next: &mut Change,
        budget: &mut Budget,
    ) -> Result<OpResult, StateError> {
        let (keys, more) = self.keys_to_delete(range, budget)?;
        for key in &keys {
            self.remove(key, *next)?;
            self.tables.put(Table::Tombstones, key, &record::seal(Table::Tombstones, key, next, &[]))?;
            next.sub += 1;
        }
        Ok(OpResult::Delete { deleted: keys.len() as u64, more })
    }

    /// The range's keys as far as the budget goes, and whether there are more.
    fn keys_to_delete(
        &self,
        range: &KeyRange,
        budget: &mut Budget,
    ) -> Result<(Vec<Bytes>, bool), StateError> {
        let mut keys = Vec::new();
        if range.is_empty() {
            return Ok((keys, false));
        }
        let (start, end) = range.bounds();
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) =
            (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
        for row in self.tables.rows(Table::Data, bounds)? {
            let (key, sealed) = row?;
            if !budget.take_delete(key.len() + sealed.len()) {
                return Ok((keys, true));
            }
            keys.push(Bytes::copy_from_slice(&key));
        }
        Ok((keys, false))
    }

    /// Removes a live key.
    fn remove(&mut self, key: &[u8], change: Change) -> Result<(), StateError> {
        let sealed = self.tables.get(Table::Data, key)?.expect("a key that is deleted was just seen");
        let (_, undo) = undo_live(key, &sealed, change)?;
        drop(sealed);
        self.tables.remove(Table::Data, key)?;
        self.remember(change, undo)
    }

    /// Takes the undo record of a change.
    fn remember(&mut self, change: Change, undo: Vec<u8>) -> Result<(), StateError> {
        self.undo.bytes += undo.len();
        self.undo.rows.push((change.to_key(), undo));
        if self.undo.bytes >= limits::UNDO_BUFFER_MAX_BYTES {
            self.write_undo()?;
        }
        Ok(())
    }

    /// Puts the undo records into their table, which must have all of them before it is read.
    fn write_undo(&mut self) -> Result<(), StateError> {
        if self.undo.rows.is_empty() {
            return Ok(());
        }
        let UndoRows { rows, .. } = std::mem::take(&mut self.undo);
        self.tables.append(Table::History, &rows)
    }

    /// The undo record for a key that is not there, whose tombstone is taken away.
    fn undo_absent(&mut self, key: &[u8], change: Change) -> Result<Vec<u8>, StateError> {
        let previous = match self.tables.get(Table::Tombstones, key)? {
            Some(sealed) => Previous::Deleted(record::unseal_open(Table::Tombstones, key, &sealed)?.0),
            None => Previous::Absent,
        };
        if previous != Previous::Absent {
            self.tables.remove(Table::Tombstones, key)?;
        }
        let undo = Undo { key: Bytes::copy_from_slice(key), previous };
        Ok(record::seal(Table::History, &change.to_key(), &undo, &[]))
    }
}

/// The header of a live key's record, and the undo record that brings it back.
fn undo_live(key: &[u8], sealed: &[u8], change: Change) -> Result<(Live, Vec<u8>), StateError> {
    let content = record::unseal(Table::Data, key, sealed)?;
    let (live, _) = record::open(Table::Data, key, content)?;
    let undo = Undo { key: Bytes::copy_from_slice(key), previous: Previous::Live };
    Ok((live, record::seal(Table::History, &change.to_key(), &undo, content)))
}

/// What one transaction may still do.
struct Budget {
    read_bytes: usize,
    delete_keys: usize,
    delete_bytes: usize,
}

impl Budget {
    fn new() -> Self {
        Self {
            read_bytes: limits::TXN_READ_MAX_BYTES,
            delete_keys: limits::DELETE_PREFIX_MAX_KEYS,
            delete_bytes: limits::DELETE_PREFIX_MAX_BYTES,
        }
    }

    fn take_delete(&mut self, bytes: usize) -> bool {
        if self.delete_keys == 0 || bytes > self.delete_bytes {
            return false;
        }
        self.delete_keys -= 1;
        self.delete_bytes -= bytes;
        true
    }
}
