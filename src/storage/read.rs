//! Reads of keys: the newest ones, and those of an older revision.
//!
//! The newest revision is the data table alone. An older one starts there, or at the tombstone of a
//! deleted key, and follows the undo log back until it meets what the key was at that revision.
//!
//! # Tiger Style
//! A page ends at [`limits::RANGE_MAX_KEYS`] keys or [`limits::RANGE_MAX_BYTES`], whichever comes
//! first. Every key lives in exactly one of the data and tombstone tables, or in none.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::head::Revisions;
use super::record::{self, Change, Live, Previous, Undo};
use super::tables::{ReadTables, StateError, Table};
use crate::kv::types::{Key, KeyRange, KeyValue, KvError, RangeReply, ReadRequest, Revision, Value};
use crate::limits;

/// Answers a read request from one consistent state.
pub(crate) fn read(
    tables: &impl ReadTables,
    request: &ReadRequest,
) -> Result<Result<(Revision, RangeReply), KvError>, StateError> {
    let Revisions { current, compacted } = Revisions::load(tables)?;
    let mut page = Page::new(request.effective_limit(), request.keys_only, limits::RANGE_MAX_BYTES);
    match request.revision {
        None => newest(tables, &request.range, &mut page)?,
        Some(requested) if requested > current => {
            return Ok(Err(KvError::FutureRevision { requested, current }));
        }
        Some(requested) if requested < compacted => {
            return Ok(Err(KvError::Compacted { requested, compacted }));
        }
        Some(requested) if requested == current => newest(tables, &request.range, &mut page)?,
        Some(requested) => as_of(tables, &request.range, requested, &mut page)?,
    }
    Ok(Ok((current, page.reply)))
}

/// A reply that is being filled, with what may still go into it.
pub(crate) struct Page {
    reply: RangeReply,
    keys_only: bool,
    keys_left: usize,
    bytes_left: usize,
}

impl Page {
    pub(crate) fn new(max_keys: usize, keys_only: bool, max_bytes: usize) -> Self {
        Self { reply: RangeReply::default(), keys_only, keys_left: max_keys, bytes_left: max_bytes }
    }

    /// The reply, and the bytes that it left unused.
    pub(crate) fn finish(self) -> (RangeReply, usize) {
        (self.reply, self.bytes_left)
    }

    /// Adds a key, or notes that there are more than fit. Returns whether it was added.
    fn add(&mut self, key: &[u8], live: Live, value: &[u8]) -> bool {
        let value = if self.keys_only { &[] } else { value };
        let cost = key.len() + value.len() + limits::KV_OVERHEAD_BYTES;
        if self.keys_left == 0 || cost > self.bytes_left {
            self.reply.more = true;
            return false;
        }
        self.keys_left -= 1;
        self.bytes_left -= cost;
        self.reply.kvs.push(KeyValue {
            key: stored_key(key),
            value: Value::stored(Bytes::copy_from_slice(value)),
            create_revision: live.create_revision,
            mod_revision: live.changed.revision,
            version: live.version,
            lease: live.lease,
        });
        true
    }
}

fn stored_key(key: &[u8]) -> Key {
    Key::new(Bytes::copy_from_slice(key)).expect("keys are checked before they are proposed")
}

/// Fills a page with the range's keys as they are.
pub(crate) fn newest(tables: &impl ReadTables, range: &KeyRange, page: &mut Page) -> Result<(), StateError> {
    if let KeyRange::Key(key) = range {
        let key = key.as_bytes();
        if let Some(sealed) = tables.get(Table::Data, key)? {
            let (live, value) = record::unseal_open(Table::Data, key, &sealed)?;
            page.add(key, live, value);
        }
        return Ok(());
    }
    if range.is_empty() {
        return Ok(());
    }
    let (start, end) = range.bounds();
    for row in tables.rows(Table::Data, (as_slice(&start), as_slice(&end)))? {
        let (key, sealed) = row?;
        let (live, value) = record::unseal_open(Table::Data, &key, &sealed)?;
        if !page.add(&key, live, value) {
            break;
        }
    }
    Ok(())
}

/// Fills a page with the range's keys as they were at a revision that is not compacted.
fn as_of(
    tables: &impl ReadTables,
    range: &KeyRange,
    revision: Revision,
    page: &mut Page,
) -> Result<(), StateError> {
    if range.is_empty() {
        return Ok(());
    }
    let (start, end) = range.bounds();
    let bounds = (as_slice(&start), as_slice(&end));
    let mut data = tables.rows(Table::Data, bounds)?.peekable();
    let mut tombstones = tables.rows(Table::Tombstones, bounds)?.peekable();
    loop {
        let from_data = match order(&mut data, &mut tombstones) {
            None => return Ok(()),
            Some(Ordering::Less) => true,
            Some(Ordering::Greater) => false,
            Some(Ordering::Equal) => panic!("a key is in the data and in the tombstone table"),
        };
        let row = if from_data { data.next() } else { tombstones.next() };
        let (key, sealed) = row.expect("the row was peeked at")?;
        let added = if from_data {
            let content = record::unseal(Table::Data, &key, &sealed)?;
            let (live, value) = record::open(Table::Data, &key, content)?;
            add_live_as_of(tables, &key, live, value, revision, page)?
        } else {
            let (deleted, _) = record::unseal_open::<Change>(Table::Tombstones, &key, &sealed)?;
            add_changed_as_of(tables, &key, deleted, revision, page)?
        };
        if !added {
            return Ok(());
        }
    }
}

/// Which of two scans stands at the lower key; none if both are at their end.
fn order<S: std::ops::Deref<Target = [u8]>>(
    left: &mut Peekable<impl Iterator<Item = Result<(S, S), StateError>>>,
    right: &mut Peekable<impl Iterator<Item = Result<(S, S), StateError>>>,
) -> Option<Ordering> {
    match (left.peek(), right.peek()) {
        (None, None) => None,
        // A failed row goes first, so that its error is seen.
        (Some(_), None) | (Some(Err(_)), Some(_)) => Some(Ordering::Less),
        (None, Some(_)) | (Some(Ok(_)), Some(Err(_))) => Some(Ordering::Greater),
        (Some(Ok((left, _))), Some(Ok((right, _)))) => Some((**left).cmp(&**right)),
    }
}

/// Adds a live key as it was at the revision. Returns whether the page has room for further keys.
fn add_live_as_of(
    tables: &impl ReadTables,
    key: &[u8],
    live: Live,
    value: &[u8],
    revision: Revision,
    page: &mut Page,
) -> Result<bool, StateError> {
    if live.changed.revision <= revision {
        return Ok(page.add(key, live, value));
    }
    add_changed_as_of(tables, key, live.changed, revision, page)
}

/// Adds what a key was before its changes after the revision, beginning with its last one.
fn add_changed_as_of(
    tables: &impl ReadTables,
    key: &[u8],
    mut last: Change,
    revision: Revision,
    page: &mut Page,
) -> Result<bool, StateError> {
    while last.revision > revision {
        let broken = || StateError::BrokenHistory {
            key: Bytes::copy_from_slice(key),
            revision: last.revision.0,
            sub: last.sub,
        };
        let change = last.to_key();
        let sealed = tables.get(Table::History, &change)?.ok_or_else(broken)?;
        let (undo, content): (Undo, _) = record::unseal_open(Table::History, &change, &sealed)?;
        if undo.key != key {
            return Err(broken());
        }
        last = match undo.previous {
            Previous::Absent => return Ok(true),
            Previous::Deleted(deleted) => deleted,
            Previous::Live => {
                let (live, value): (Live, _) = record::open(Table::History, &change, content)?;
                if live.changed.revision <= revision {
                    return Ok(page.add(key, live, value));
                }
                live.changed
            }
        };
    }
    // Deleted at the revision or before it.
    Ok(true)
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(Bytes::as_ref)
}
