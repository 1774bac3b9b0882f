//! Restoring a backup: its keys are staged beside the data, and take its place all at once.
//!
//! What holds for whoever has seen the store before, or the one that the backup is of:
//!
//! - The restored keys come at one revision, [`limits::RESTORE_REVISION_GAP`] above all that the store and
//!   the backup have had, and are changed at it. Nothing that anyone has read carries it, so a comparison
//!   with a revision of change that was read before fails, and a watch has never been there.
//! - The history before that revision is gone, as after a compaction up to it: whoever reads or watches
//!   from an older one is told so and reads anew.
//! - Sessions of this store stay, so that a retry gets the reply that it had. One that is not known may be
//!   the retry of a write to the backup's cluster, whose effect the backup may hold: below that revision it
//!   is refused as forgotten.
//!
//! Until the commit reads and writes go on as if there were no restore; what they write is replaced.
//!
//! # Tiger Style
//! - No restore brings the revision, or a key's version, near the end of its 64 bits.
//! - A step has no more rows than one command holds. The commit takes the same time whatever is staged.
//! - Each step has the same effect however often, and however late, it is applied: a chunk that is staged is
//!   not staged again, a restore that is committed is not committed again, and a step of a restore that
//!   another one has superseded has none.

use super::{Applier, UndoRows};
use crate::kv::types::{BackupTotals, KvError, RestoreId, RestoreStep, Revision, WriteReply};
use crate::limits;
use crate::storage::backup::{BackupRow, take_rows};
use crate::storage::blocks::Totals;
use crate::storage::head::{self, Restored, Restoring};
use crate::storage::record::{self, Change, Live};
use crate::storage::tables::{StateError, Table, WriteTables};

type Outcome = Result<Result<WriteReply, KvError>, StateError>;

impl<T: WriteTables> Applier<'_, T> {
    /// Does one step.
    pub(super) fn restore(&mut self, step: &RestoreStep) -> Outcome {
        match step {
            RestoreStep::Begin { id, revision, replace } => self.begin_restore(*id, *revision, *replace),
            RestoreStep::Chunk { id, number, checksum, rows } => {
                self.stage_chunk(*id, *number, *checksum, rows)
            }
            RestoreStep::Commit { id, totals } => self.commit_restore(*id, *totals),
            RestoreStep::Abort { id } => self.abort_restore(*id),
            RestoreStep::MoveOn { id } => self.move_on(*id),
        }
    }

    fn begin_restore(&mut self, id: RestoreId, backup_revision: Revision, replace: bool) -> Outcome {
        if self.restored_at(id)?.is_some() || self.restoring(id)?.is_some() {
            return Ok(Ok(self.restore_reply(true)));
        }
        if let Err(refused) = self.ensure_replaceable(replace)? {
            return Ok(Err(refused));
        }
        let revision = match beyond(self.head.revisions.current.max(backup_revision)) {
            Ok(revision) => revision,
            Err(refused) => return Ok(Err(refused)),
        };
        self.tables.discard(Table::Staging)?;
        let staged = BackupTotals::default();
        let restoring =
            Restoring { id, backup_revision, revision, replace, staged, last_key: Default::default() };
        head::store_restoring(self.tables, Some(&restoring))?;
        Ok(Ok(self.restore_reply(false)))
    }

    fn stage_chunk(&mut self, id: RestoreId, number: u64, checksum: u32, rows: &bytes::Bytes) -> Outcome {
        let Some(mut restoring) = self.restoring(id)? else {
            return Ok(Err(KvError::NoSuchRestore { id }));
        };
        let expected = restoring.staged.chunks;
        if number < expected {
            return Ok(Ok(self.restore_reply(true)));
        }
        if number > expected {
            return Ok(Err(KvError::RestoreOutOfOrder { given: number, expected }));
        }
        if crc32c::crc32c(rows) != checksum {
            return Ok(Err(bad(format!("chunk {number} fails its checksum"))));
        }
        let taken = match take_rows(rows, &restoring.last_key, restoring.backup_revision) {
            Ok(taken) => taken,
            Err(reason) => return Ok(Err(bad(format!("chunk {number}: {reason}")))),
        };
        let Ok(first) = u32::try_from(restoring.staged.keys + taken.len() as u64) else {
            return Ok(Err(bad(format!("it has more than {} keys", u32::MAX))));
        };
        let first = first - u32::try_from(taken.len()).expect("the sum fits");
        let records: Vec<(&[u8], Vec<u8>)> = (first..)
            .zip(&taken)
            .map(|(sub, row)| (row.key, staged_record(row, Change { revision: restoring.revision, sub })))
            .collect();
        self.tables.append(Table::Staging, &records)?;
        let last = taken.last().expect("a chunk has rows");
        restoring.last_key = bytes::Bytes::copy_from_slice(last.key);
        restoring.staged = with_chunk(restoring.staged, taken.len() as u64, checksum);
        head::store_restoring(self.tables, Some(&restoring))?;
        Ok(Ok(self.restore_reply(false)))
    }

    fn commit_restore(&mut self, id: RestoreId, totals: BackupTotals) -> Outcome {
        if let Some(revision) = self.restored_at(id)? {
            return Ok(Ok(WriteReply { revision, ..self.restore_reply(true) }));
        }
        let Some(restoring) = self.restoring(id)? else {
            return Ok(Err(KvError::NoSuchRestore { id }));
        };
        if restoring.staged != totals {
            let BackupTotals { keys, chunks, .. } = restoring.staged;
            return Ok(Err(bad(format!(
                "{keys} keys in {chunks} chunks are staged, and not the {} in {} that are to be committed",
                totals.keys, totals.chunks
            ))));
        }
        if let Err(refused) = self.ensure_replaceable(restoring.replace)? {
            return Ok(Err(refused));
        }
        let current = self.head.revisions.current;
        if current >= restoring.revision {
            return Ok(Err(bad(format!("the store has reached revision {current} meanwhile: begin anew"))));
        }
        self.tables.take_over(Table::Staging, Table::Data)?;
        head::store_restoring(self.tables, None)?;
        self.begin_anew_at(restoring.revision, id)?;
        Ok(Ok(self.restore_reply(false)))
    }

    fn move_on(&mut self, id: RestoreId) -> Outcome {
        if let Some(revision) = self.restored_at(id)? {
            return Ok(Ok(WriteReply { revision, ..self.restore_reply(true) }));
        }
        let revision = match beyond(self.head.revisions.current) {
            Ok(revision) => revision,
            Err(refused) => return Ok(Err(refused)),
        };
        self.begin_anew_at(revision, id)?;
        Ok(Ok(self.restore_reply(false)))
    }

    /// Forgets the history, and all that clients may have been told before this revision.
    fn begin_anew_at(&mut self, revision: Revision, id: RestoreId) -> Result<(), StateError> {
        // What is not in the history yet would be thrown away with it.
        self.undo = UndoRows::default();
        self.tables.discard(Table::History)?;
        self.tables.discard(Table::Tombstones)?;
        self.head.revisions.current = revision;
        self.head.revisions.compacted = revision;
        let forgotten = &mut self.head.sessions.forgotten;
        *forgotten = (*forgotten).max(revision);
        head::store_restored(self.tables, Restored { id, revision })
    }

    fn abort_restore(&mut self, id: Option<RestoreId>) -> Outcome {
        let under_way = head::load_restoring(self.tables)?;
        let is_meant = under_way.is_some_and(|restoring| id.is_none_or(|id| id == restoring.id));
        if is_meant {
            self.tables.discard(Table::Staging)?;
            head::store_restoring(self.tables, None)?;
        }
        Ok(Ok(self.restore_reply(!is_meant)))
    }

    /// The restore of this id, if it is the one under way.
    fn restoring(&self, id: RestoreId) -> Result<Option<Restoring>, StateError> {
        Ok(head::load_restoring(self.tables)?.filter(|restoring| restoring.id == id))
    }

    /// Where the restore of this id was committed, if it is the last one that was.
    fn restored_at(&self, id: RestoreId) -> Result<Option<Revision>, StateError> {
        let restored = head::load_restored(self.tables)?.filter(|restored| restored.id == id);
        Ok(restored.map(|restored| restored.revision))
    }

    fn ensure_replaceable(&self, replace: bool) -> Result<Result<(), KvError>, StateError> {
        let keys = self.tables.count(Table::Data)?;
        if replace || keys == 0 {
            return Ok(Ok(()));
        }
        Ok(Err(KvError::NotEmpty { keys, revision: self.head.revisions.current }))
    }

    fn restore_reply(&self, replayed: bool) -> WriteReply {
        let revision = self.head.revisions.current;
        WriteReply { revision, succeeded: true, results: Vec::new(), replayed }
    }
}

/// A revision that nobody has seen who has seen none newer than this one, but for what came behind it since.
fn beyond(revision: Revision) -> Result<Revision, KvError> {
    let max = limits::RESTORE_REVISION_MAX;
    let beyond = revision.0.checked_add(limits::RESTORE_REVISION_GAP).filter(|beyond| *beyond <= max);
    beyond.map(Revision).ok_or_else(|| {
        bad(format!(
            "the revision would move on from {revision}, and a restore moves it no further than {max}"
        ))
    })
}

fn bad(reason: String) -> KvError {
    KvError::BadRestore { reason }
}

/// What is staged, with one more chunk; the same sums as those of the backup's trailer.
fn with_chunk(staged: BackupTotals, keys: u64, chunk_checksum: u32) -> BackupTotals {
    let BackupTotals { keys: rows, chunks, checksum } = staged;
    let mut totals = Totals { rows: rows + keys, chunks, checksum };
    totals.add_chunk(chunk_checksum);
    let Totals { rows: keys, chunks, checksum } = totals;
    BackupTotals { keys, chunks, checksum }
}

/// The record that a key of a backup has once it is restored. It is sealed as one of the data, which it
/// becomes as it is.
fn staged_record(row: &BackupRow<'_>, changed: Change) -> Vec<u8> {
    let BackupRow { create_revision, version, lease, .. } = *row;
    record::seal(Table::Data, row.key, &Live { create_revision, changed, version, lease }, row.value)
}

#[cfg(test)]
mod tests;
