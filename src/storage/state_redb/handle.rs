//! An open database of the state: made empty, made of a snapshot, or opened as it is.

use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase};

use super::{NEW_STATE_FILE, STATE_FILE};
use crate::raft::types::SnapshotMeta;
use crate::storage::batch::Marks;
use crate::storage::checked_file::CheckedFile;
use crate::storage::damage::DamageAlarm;
use crate::storage::database;
use crate::storage::disk::{self, Disk};
use crate::storage::fused_file::Fuse;
use crate::storage::snapshot::{SnapshotData, SnapshotError, format};
use crate::storage::tables::{RedbRead, RedbWrite, StateError, Table, WriteTables};
use crate::storage::{StorageError, StorageOptions, head};

/// An open database.
pub(super) struct Handle {
    pub(super) database: Database,
    pub(super) file: CheckedFile,
    pub(super) fuse: Fuse,
}

impl Handle {
    pub(super) fn read(&self) -> Result<RedbRead, StateError> {
        Ok(RedbRead::new(self.database.begin_read().map_err(StateError::database)?))
    }
}

pub(super) fn remove_leftover(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    disk::remove_if_there(disk, path).map_err(StorageError::io("remove the leftover", path))
}

/// Makes a database with empty tables. It gets its name when it is whole, so that an unfinished one is
/// never taken for a damaged one.
pub(super) fn create_empty(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: StorageOptions,
) -> Result<(), StorageError> {
    let new_path = dir.join(NEW_STATE_FILE);
    let path = dir.join(STATE_FILE);
    let handle = create_database(disk, &new_path, options, &DamageAlarm::default())?;
    fill_database(&handle, |_| Ok(())).map_err(|source| content(&new_path, &handle.file, source))?;
    drop(handle);
    disk.rename(&new_path, &path).map_err(StorageError::io("rename to", &path))?;
    disk.sync_dir(dir).map_err(StorageError::io("sync the data directory", dir))
}

/// Makes a database of a snapshot, durable but not under its final name.
pub(super) fn build_database(
    disk: &Arc<dyn Disk>,
    path: &Path,
    options: StorageOptions,
    alarm: &DamageAlarm,
    meta: &SnapshotMeta,
    data: &SnapshotData,
) -> io::Result<(Handle, Marks)> {
    remove_leftover(&**disk, path).map_err(io::Error::other)?;
    let handle = create_database(disk, path, options, alarm).map_err(io::Error::other)?;
    let marks = fill_database(&handle, |tables| {
        let reader = BufReader::new(data.reader());
        let found = format::read(reader, |table: Table, key, value| tables.put(table, key, value))?;
        format::ensure_same(found, meta)?;
        format::ensure_same(head::snapshot_meta(tables)?, meta)?;
        Ok::<_, SnapshotError>(Marks::load(tables)?)
    })?;
    Ok((handle, marks))
}

/// Fills a new database in one durable transaction.
pub(super) fn fill_database<T, E: From<StateError>>(
    handle: &Handle,
    fill: impl FnOnce(&mut RedbWrite<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let mut transaction = handle.database.begin_write().map_err(StateError::database)?;
    transaction.set_quick_repair(true);
    let mut tables = RedbWrite::new(&transaction);
    tables.make_all()?;
    let filled = fill(&mut tables)?;
    drop(tables);
    transaction.commit().map_err(StateError::database)?;
    Ok(filled)
}

pub(super) fn create_database(
    disk: &Arc<dyn Disk>,
    path: &Path,
    options: StorageOptions,
    alarm: &DamageAlarm,
) -> Result<Handle, StorageError> {
    let fuse = Fuse::default();
    // It gets this name before anyone reads from it.
    let final_path = path.with_file_name(STATE_FILE);
    let (database, file) =
        database::create_checked(disk, path, &final_path, options.cache(), fuse.clone(), alarm)?;
    Ok(Handle { database, file, fuse })
}

pub(super) fn open_existing(
    disk: &Arc<dyn Disk>,
    path: &Path,
    options: StorageOptions,
    alarm: &DamageAlarm,
    whole_check_max_bytes: u64,
) -> Result<(Handle, Marks), StorageError> {
    let fuse = Fuse::default();
    let (database, file) =
        database::open_checked(disk, path, options.cache(), fuse.clone(), alarm, whole_check_max_bytes)?;
    let handle = Handle { database, file, fuse };
    let loaded = RedbRead::add_missing(&handle.database).and_then(|()| handle.read()).and_then(|tables| {
        tables.open_all()?;
        head::load_membership(&tables)?;
        Marks::load(&tables)
    });
    match loaded {
        Ok(marks) => Ok((handle, marks)),
        Err(source) => Err(content(path, &handle.file, source)),
    }
}

/// Why what a file holds cannot be used.
pub(super) fn content(path: &Path, file: &CheckedFile, source: StateError) -> StorageError {
    match source.with_cause(file) {
        StateError::Database(error) if database::is_io_failure(&error) => {
            database::explain(path, *error).into()
        }
        source => StorageError::Content { path: path.to_owned(), source },
    }
}
