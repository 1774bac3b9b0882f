//! A state in a few numbers, for comparing replicas where there are many states to compare.
//!
//! It reads every row, so it is there for tests and simulations alone.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::ops::Bound;

use super::batch::Marks;
use super::head;
use super::record::Change;
use super::tables::{ReadTables, StateError, Table};
use crate::kv::types::Revision;
use crate::raft::types::{LogId, StoredMembership};

/// What all rows of all tables come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// The last log entry in the state.
    pub applied: Option<LogId>,
    /// The membership in the state.
    pub membership: StoredMembership,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// Revisions with an undo record, of those that are not compacted.
    pub revisions_in_history: u64,
    /// Rows in all tables.
    pub rows: u64,
    /// Hash of all rows, in order.
    pub hash: u64,
}

/// Reads all of a state.
pub(super) fn digest(tables: &impl ReadTables) -> Result<StateDigest, StateError> {
    let marks = Marks::load(tables)?;
    // Its keys are fixed: the same rows give the same hash in every process.
    let mut hasher = DefaultHasher::new();
    let (mut rows, mut revisions_in_history, mut last) = (0, 0, marks.compacted);
    for table in Table::ALL {
        for row in tables.rows(table, (Bound::Unbounded, Bound::Unbounded))? {
            let (key, value) = row?;
            rows += 1;
            hasher.write_u8(table.id());
            for bytes in [&*key, &*value] {
                hasher.write_usize(bytes.len());
                hasher.write(bytes);
            }
            if table == Table::History {
                let revision = Change::from_key(&key)?.revision;
                if revision > last {
                    (last, revisions_in_history) = (revision, revisions_in_history + 1);
                }
            }
        }
    }
    Ok(StateDigest {
        applied: head::load_applied(tables)?,
        membership: head::load_membership(tables)?,
        revision: marks.revision,
        compacted: marks.compacted,
        revisions_in_history,
        rows,
        hash: hasher.finish(),
    })
}
