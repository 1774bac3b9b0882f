//! Opening a database file: whole or not at all.
//!
//! A new file is made under another name and renamed once it is complete, so a file that stands
//! under its own name was complete once. Whatever is missing from it later is damage: it must never
//! be filled in silently, because an empty log is a node that forgot its votes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, Durability, StorageBackend, WriteTransaction};
use tracing::{debug, info};

use super::checked_file::CheckedFile;
use super::damage::{DamageAlarm, WHAT_TO_DO};
use super::disk::{self, Disk};
use super::fused_file::{Fuse, FusedFile};

/// Why a database file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatabaseError {
    /// The operating system refused.
    #[error("cannot open {}: {source}. Check that the directory exists, is writable for this user, and has free space", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("{} is in use by another process. Stop that process, or give this node another data directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file holds something else, or not all that was written.
    #[error(
        "{} cannot be read: {problem}. It is damaged, or no file of Aspen's. {WHAT_TO_DO}", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl OpenDatabaseError {
    /// A file of no bytes, which once was a database.
    pub(super) fn empty(path: &Path) -> Self {
        Self::Damaged { path: path.to_owned(), problem: "the file is empty".to_owned() }
    }
}

/// Opens the database at `path`; where there is none, makes it and fills it with `init`.
///
/// # Errors
/// The file cannot be opened, is locked, foreign or damaged, or cannot be made.
pub fn open_or_create(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
    init: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<Database, OpenDatabaseError> {
    create_if_missing(disk, path, cache_bytes, init)?;
    let file = FusedFile::new(open_file(disk, path)?, Fuse::default());
    guarded(path, || Ok(builder(path, cache_bytes).create_with_backend(file)?))
}

/// The same for a file whose blocks are checked whenever they are read.
pub(super) fn open_or_create_checked(
    disk: &Arc<dyn Disk>,
    path: &Path,
    cache_bytes: usize,
    alarm: &DamageAlarm,
    init: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(Database, CheckedFile), OpenDatabaseError> {
    create_if_missing(&**disk, path, cache_bytes, init)?;
    open_checked(disk, path, cache_bytes, Fuse::default(), alarm, u64::MAX)
}

/// Opens the database that stands at `path`. Its blocks are checked whenever they are read, and all of
/// it now if it is no longer than `whole_check_max_bytes`.
pub(super) fn open_checked(
    disk: &Arc<dyn Disk>,
    path: &Path,
    cache_bytes: usize,
    fuse: Fuse,
    alarm: &DamageAlarm,
    whole_check_max_bytes: u64,
) -> Result<(Database, CheckedFile), OpenDatabaseError> {
    let file = FusedFile::new(open_file(&**disk, path)?, fuse);
    let file_bytes = file.len().map_err(|source| OpenDatabaseError::Io { path: path.to_owned(), source })?;
    let check = file_bytes <= whole_check_max_bytes;
    if !check {
        info!(path = %path.display(), file_bytes, "too large to be checked at the start; it is checked while it is used");
    }
    on_checked(CheckedFile::new(file, Some(disk.clone()), path, alarm.clone()), path, cache_bytes, check)
}

/// Makes an empty database at `path`, where nothing may stand. Its blocks are checked whenever they are
/// read, as those of a file at `final_path`, where it will be by then.
pub(super) fn create_checked(
    disk: &Arc<dyn Disk>,
    path: &Path,
    final_path: &Path,
    cache_bytes: usize,
    fuse: Fuse,
    alarm: &DamageAlarm,
) -> Result<(Database, CheckedFile), OpenDatabaseError> {
    let io = |source| OpenDatabaseError::Io { path: path.to_owned(), source };
    let file = FusedFile::new(disk.create_database(path).map_err(io)?, fuse);
    on_checked(CheckedFile::new(file, Some(disk.clone()), final_path, alarm.clone()), path, cache_bytes, true)
}

fn on_checked(
    file: CheckedFile,
    path: &Path,
    cache_bytes: usize,
    check: bool,
) -> Result<(Database, CheckedFile), OpenDatabaseError> {
    let mut builder = builder(path, cache_bytes);
    builder.set_check_integrity_on_open(check);
    let database = guarded(path, || Ok(builder.create_with_backend(file.clone())?))?;
    Ok((database, file))
}

fn open_file(disk: &dyn Disk, path: &Path) -> Result<Box<dyn StorageBackend>, OpenDatabaseError> {
    let io = |source| OpenDatabaseError::Io { path: path.to_owned(), source };
    let file = disk.open_database(path).map_err(io)?;
    // The database library would take an empty file for a new database.
    if file.len().map_err(io)? == 0 {
        return Err(OpenDatabaseError::empty(path));
    }
    Ok(file)
}

fn create_if_missing(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
    init: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), OpenDatabaseError> {
    let io = |source| OpenDatabaseError::Io { path: path.to_owned(), source };
    if !disk.exists(path).map_err(io)? {
        create(disk, path, cache_bytes, init)?;
        info!(path = %path.display(), "made a new database");
    }
    Ok(())
}

/// Runs `access` and tells its failure in terms of the file. The database library asserts what no
/// file that it wrote can violate, so a damaged file can make it panic: that is an error here.
pub(super) fn guarded<T>(
    path: &Path,
    access: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, OpenDatabaseError> {
    match catch_unwind(AssertUnwindSafe(access)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(path, error)),
        Err(panic) => {
            Err(OpenDatabaseError::Damaged { path: path.to_owned(), problem: panic_message(&*panic) })
        }
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

fn create(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
    init: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), OpenDatabaseError> {
    let io = |source| OpenDatabaseError::Io { path: path.to_owned(), source };
    let unfinished = unfinished(path);
    disk::remove_if_there(disk, &unfinished).map_err(io)?;
    let file = FusedFile::new(disk.create_database(&unfinished).map_err(io)?, Fuse::default());
    guarded(path, || {
        let database = builder(path, cache_bytes).create_with_backend(file)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        init(&transaction)?;
        transaction.commit()?;
        drop(database);
        Ok(())
    })?;
    disk.rename(&unfinished, path).map_err(io)?;
    disk.sync_dir(disk::parent(path)).map_err(io)
}

/// Where a database stands until it is complete.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("redb.new")
}

fn builder(path: &Path, cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    let path = path.to_owned();
    // Otherwise the checksums of a cleanly closed file are not looked at, and one that was damaged
    // since can panic anywhere, even while it is closed.
    builder.set_check_integrity_on_open(true);
    builder.set_cache_size(cache_bytes).set_repair_callback(move |session| {
        debug!(path = %path.display(), progress = session.progress(), "checking the database");
    });
    builder
}

/// Whether the disk did not do what it was asked to, and nothing says that what is on it is wrong.
pub(super) fn is_io_failure(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(source) => is_io_failure_kind(source.kind()),
        redb::Error::PreviousIo => true,
        _ => false,
    }
}

/// A block that is not what it was, and a file that ends before it should, are errors of these two kinds.
pub(super) fn is_io_failure_kind(kind: io::ErrorKind) -> bool {
    !matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// An error of the database library in terms of the file.
pub(super) fn explain(path: &Path, error: redb::Error) -> OpenDatabaseError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenDatabaseError::InUse { path },
        redb::Error::Io(source) if is_io_failure_kind(source.kind()) => {
            OpenDatabaseError::Io { path, source }
        }
        error @ redb::Error::PreviousIo => OpenDatabaseError::Io { path, source: io::Error::other(error) },
        other => OpenDatabaseError::Damaged { path, problem: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use redb::{ReadableDatabase, TableDefinition};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::disk::RealDisk;

    const TABLE: TableDefinition<u64, u64> = TableDefinition::new("t");

    fn open(path: &Path) -> Result<Database, OpenDatabaseError> {
        open_or_create(&RealDisk, path, 1 << 20, |transaction| {
            transaction.open_table(TABLE)?.insert(1, 2)?;
            Ok(())
        })
    }

    #[test]
    fn a_new_file_is_complete_and_a_leftover_of_an_aborted_start_is_replaced() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.redb");
        fs::write(dir.path().join("x.redb.new"), b"half a file").unwrap();
        let database = open(&path).unwrap();
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        assert_eq!(table.get(1).unwrap().unwrap().value(), 2);
        assert!(!dir.path().join("x.redb.new").exists());
    }

    #[test]
    fn a_file_in_use_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.redb");
        let _held = open(&path).unwrap();
        assert!(matches!(open(&path), Err(OpenDatabaseError::InUse { .. })));
    }

    #[test]
    fn empty_foreign_and_truncated_files_are_refused_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let whole = dir.path().join("whole.redb");
        drop(open(&whole).unwrap());
        let whole = fs::read(whole).unwrap();
        for content in
            [&[][..], b"#!/bin/sh\n", &[7; 100_000], &whole[..100], &whole[..5000], &whole[..whole.len() / 2]]
        {
            let path = dir.path().join("x.redb");
            fs::write(&path, content).unwrap();
            let error = open(&path).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, OpenDatabaseError::Damaged { .. }), "{} bytes: {text}", content.len());
            assert!(text.contains("x.redb") && text.ends_with(WHAT_TO_DO), "{text}");
        }
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = TempDir::new().unwrap();
        let error = open(&dir.path().join("absent/x.redb")).unwrap_err();
        assert!(matches!(error, OpenDatabaseError::Io { .. }) && error.to_string().contains("absent/x.redb"));
    }
}
