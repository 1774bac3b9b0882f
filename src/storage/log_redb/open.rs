//! Opening the log, and what must hold before it is used.
//!
//! Nothing is repaired here but a purge that was cut short. A log that is not what was written is
//! refused: a node that guesses about its log can lose what others count on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde::de::DeserializeOwned;

use super::reader::decode;
use super::writer::sweep_step;
use super::{COMMITTED, LOG, META, PURGED, VOTE};
use crate::raft::types::{LogId, Vote};
use crate::storage::checked_file::CheckedFile;
use crate::storage::codec::{self, CodecError};
use crate::storage::damage::{DamageAlarm, WHAT_TO_DO};
use crate::storage::database::{self, OpenDatabaseError, guarded};
use crate::storage::disk::Disk;
use crate::storage::log_view::LogView;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The file as such.
    #[error(transparent)]
    Database(#[from] OpenDatabaseError),
    /// The file holds a log that is not what was written.
    #[error("the log in {} is damaged: {problem}. {WHAT_TO_DO}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: LogProblem,
    },
    /// A newer Aspen has written to it.
    #[error("the log in {}: {source}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The record that tells.
        source: CodecError,
    },
    /// The operating system gave no thread.
    #[error("cannot start the thread that writes the log: {0}. Check the limits on processes and memory")]
    Thread(io::Error),
}

/// What is wrong with a stored log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogProblem {
    /// Fewer entries than the indexes of the first and the last demand.
    #[error("it has a hole: {count} entries between the first, {first}, and the last, {last}")]
    Hole {
        /// First index.
        first: u64,
        /// Last index.
        last: u64,
        /// Entries there are.
        count: u64,
    },
    /// The entries between the purged ones and the first are missing.
    #[error("it begins at entry {first} and must begin at {expected}, after what was purged")]
    Start {
        /// First index.
        first: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// The end of the log is missing.
    #[error("entry {committed} is committed, and the log ends before {next}")]
    End {
        /// Index of the committed id.
        committed: u64,
        /// Where the log ends.
        next: u64,
    },
    /// A record that cannot be trusted.
    #[error(transparent)]
    Record(#[from] CodecError),
}

/// An open log whose content was checked.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) file: CheckedFile,
    pub(super) view: LogView,
    pub(super) path: PathBuf,
    pub(super) alarm: DamageAlarm,
}

/// Opens or makes the log in a file.
pub(super) fn file(disk: &Arc<dyn Disk>, path: &Path, cache_bytes: usize) -> Result<Opened, OpenLogError> {
    let alarm = DamageAlarm::default();
    let (database, file) = database::open_or_create_checked(disk, path, cache_bytes, &alarm, make_tables)?;
    let view = load(path, &database)?;
    Ok(Opened { database, file, view, path: path.to_owned(), alarm })
}

fn make_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(LOG)?;
    transaction.open_table(META)?;
    Ok(())
}

fn load(path: &Path, database: &Database) -> Result<LogView, OpenLogError> {
    let checked = guarded(path, || {
        if let Some(purged) = purged_index(database)? {
            finish_purge(database, purged)?;
        }
        read(database)
    })?;
    checked.map_err(|problem| refusal(path.to_owned(), problem))
}

fn refusal(path: PathBuf, problem: LogProblem) -> OpenLogError {
    match problem {
        LogProblem::Record(source) if !source.problem.is_damage() => OpenLogError::Newer { path, source },
        problem => OpenLogError::Damaged { path, problem },
    }
}

/// The purged index, if its record is whole; a damaged one is told of by [`read`].
fn purged_index(database: &Database) -> Result<Option<u64>, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let id: Result<Option<LogId>, _> = record(&meta, PURGED)?;
    Ok(id.ok().flatten().map(|id| id.index))
}

fn finish_purge(database: &Database, to: u64) -> Result<(), redb::Error> {
    loop {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        let more = sweep_step(&mut transaction.open_table(LOG)?, to)?;
        transaction.commit()?;
        if more.is_none() {
            return Ok(());
        }
    }
}

/// Reads and checks all but the entries between the first and the last.
fn read(database: &Database) -> Result<Result<LogView, LogProblem>, redb::Error> {
    let transaction = database.begin_read()?;
    let log = transaction.open_table(LOG)?;
    let meta = transaction.open_table(META)?;
    let vote: Result<Option<Vote>, _> = record(&meta, VOTE)?;
    let committed: Result<Option<LogId>, _> = record(&meta, COMMITTED)?;
    let purged: Result<Option<LogId>, _> = record(&meta, PURGED)?;
    let count = log.len()?;
    let ends = match (log.first()?, log.last()?) {
        (Some(first), Some(last)) => Some([first, last].map(|(index, record)| {
            let index = index.value();
            (index, decode(index, record.value()).map(|entry| entry.log_id))
        })),
        _ => None,
    };
    Ok((|| {
        let (vote, committed, purged) = (vote?, committed?, purged?);
        let last = match ends {
            Some([(first, first_entry), (last, last_entry)]) => {
                first_entry?;
                check_indexes(purged, first, last, count)?;
                Some(last_entry?)
            }
            None => purged,
        };
        let mut view = LogView::on_disk(purged, last);
        let next = view.indexes().end;
        if let Some(committed) = committed.filter(|committed| committed.index >= next) {
            return Err(LogProblem::End { committed: committed.index, next });
        }
        view.vote = vote;
        view.committed = committed;
        Ok(view)
    })())
}

pub(super) fn check_indexes(
    purged: Option<LogId>,
    first: u64,
    last: u64,
    count: u64,
) -> Result<(), LogProblem> {
    let expected = purged.map_or(0, |purged| purged.index + 1);
    if first != expected {
        return Err(LogProblem::Start { first, expected });
    }
    if count != last - first + 1 {
        return Err(LogProblem::Hole { first, last, count });
    }
    Ok(())
}

pub(super) type Record<T> = Result<Option<T>, CodecError>;

pub(super) fn record<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Record<T>, redb::Error> {
    let Some(value) = meta.get(key)? else { return Ok(Ok(None)) };
    Ok(codec::unseal(format_args!("{key} record of the log"), value.value()).map(Some))
}
