//! The directory of snapshots: at most one that counts, and temporary files while some are made.
//!
//! A snapshot is written under a temporary name, made durable, and renamed. It must never be seen
//! under its own name before it is whole. Older ones are deleted when a newer one stands; whoever
//! still sends one of them holds it open.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::warn;

use super::format::{self, SnapshotError};
use super::{SnapshotData, SnapshotFile};
use crate::raft::types::SnapshotMeta;
use crate::storage::StorageError;
use crate::storage::blocks::BlockError;
use crate::storage::disk::{self, Appender, Disk, DiskFile};

pub(in crate::storage) const FINISHED: &str = "snapshot";
pub(in crate::storage) const TEMPORARY: &str = "tmp";

/// A directory of snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    current: Mutex<Option<(SnapshotMeta, SnapshotData)>>,
}

impl SnapshotDir {
    /// Opens the directory, makes it if there is none, removes what a crash left, and finds the newest
    /// snapshot.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StorageError> {
        let io = |action| StorageError::io(action, &path);
        disk.create_dir_all(&path).map_err(io("make the directory of snapshots"))?;
        // A snapshot whose rename was not synced would be found now, and be gone after a power cut.
        disk.sync_dir(&path).map_err(io("sync the directory of snapshots"))?;
        let mut finished = Vec::new();
        for file in disk.list(&path).map_err(io("list the directory of snapshots"))? {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some(TEMPORARY) => {
                    disk.remove(&file).map_err(StorageError::io("remove the leftover", &file))?;
                }
                Some(FINISHED) => finished.push(file),
                _ => {}
            }
        }
        // Names sort as the log positions in them.
        finished.sort_unstable();
        let mut current = None;
        while let Some(file) = finished.pop() {
            match open_finished(&*disk, &file) {
                Ok(snapshot) => {
                    current = Some(snapshot);
                    break;
                }
                // The log and the state do not need it, and the next one replaces it.
                Err(error) => warn!(file = %file.display(), %error, "a snapshot is damaged and not used"),
            }
        }
        Ok(Self { disk, path, current: Mutex::new(current) })
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<(SnapshotMeta, SnapshotData)> {
        self.lock().clone()
    }

    /// Whether this is the newest snapshot.
    pub(crate) fn is_current(&self, data: &SnapshotData) -> bool {
        self.lock().as_ref().is_some_and(|(_, current)| current.is_same_as(data))
    }

    /// Where the file of a snapshot stands.
    pub(crate) fn path_of(&self, meta: &SnapshotMeta) -> PathBuf {
        self.path.join(file_name(meta))
    }

    /// An empty file for a snapshot. It is removed when it is dropped before it was kept.
    pub(crate) fn create_temporary(&self) -> io::Result<TemporaryFile> {
        // Unique in the process, which has the data directory to itself.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Sorted by age, whatever the number.
        let path = self.path.join(format!("{number:020}.{TEMPORARY}"));
        let file = self.disk.create(&path)?;
        Ok(TemporaryFile { disk: self.disk.clone(), file, path })
    }

    /// Makes a snapshot the current one, unless there is a newer one, and returns the current one. The
    /// snapshot must be whole and durable.
    pub(crate) fn keep(
        &self,
        meta: SnapshotMeta,
        data: &SnapshotData,
    ) -> io::Result<(SnapshotMeta, SnapshotData)> {
        let mut current = self.lock();
        if let Some(kept) = &*current
            && (kept.0.last_log_id > meta.last_log_id || kept.1.is_same_as(data))
        {
            return Ok(kept.clone());
        }
        let path = self.path.join(file_name(&meta));
        match data.temporary_path() {
            Some(temporary) if temporary.parent() == Some(&*self.path) => {
                self.disk.rename(temporary, &path)?;
            }
            // It is in memory, or another store's.
            _ => {
                let copy = self.create_temporary()?;
                io::copy(&mut data.reader(), &mut copy.writer())?;
                copy.file.sync()?;
                self.disk.rename(&copy.path, &path)?;
            }
        }
        self.disk.sync_dir(&self.path)?;
        let kept = SnapshotData::File(Arc::new(SnapshotFile::open(&*self.disk, &path)?));
        *current = Some((meta.clone(), kept.clone()));
        self.remove_all_but(&path);
        Ok((meta, kept))
    }

    fn remove_all_but(&self, kept: &Path) {
        let Ok(files) = self.disk.list(&self.path) else {
            return;
        };
        for file in files {
            if file.extension().is_some_and(|extension| extension == FINISHED)
                && file != kept
                && let Err(error) = self.disk.remove(&file)
            {
                warn!(file = %file.display(), %error, "an old snapshot could not be removed");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(SnapshotMeta, SnapshotData)>> {
        self.current.lock().expect("no code panics while it holds this lock")
    }
}

/// A file under a temporary name, removed with it. Removing does nothing once it was renamed: no name
/// is given twice.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    disk: Arc<dyn Disk>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
}

impl TemporaryFile {
    /// Writes it from its start.
    pub(crate) fn writer(&self) -> Appender {
        Appender::new(self.file.clone())
    }

    /// Reads what has been written so far.
    pub(crate) fn reader(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    /// Makes durable what has been written so far.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Makes what was written durable.
    pub(crate) fn finish(self) -> io::Result<SnapshotData> {
        self.file.sync()?;
        Ok(SnapshotData::File(Arc::new(SnapshotFile::temporary(self)?)))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_if_there(&*self.disk, &self.path) {
            warn!(file = %self.path.display(), %error, "a temporary snapshot could not be removed");
        }
    }
}

fn file_name(meta: &SnapshotMeta) -> String {
    // Entries rather than an index, so that the empty state has a name, too.
    let entries = meta.last_log_id.map_or(0, |last| last.index + 1);
    format!("{entries:020}.{FINISHED}")
}

/// Opens a snapshot and checks both its ends; the middle is checked by whoever uses it.
pub(crate) fn open_finished(
    disk: &dyn Disk,
    path: &Path,
) -> Result<(SnapshotMeta, SnapshotData), SnapshotError> {
    let file = SnapshotFile::open(disk, path).map_err(BlockError::Io)?;
    let trailer_at = file.len.checked_sub(format::TRAILER_BYTES as u64).ok_or(BlockError::Truncated)?;
    let mut trailer = [0; format::TRAILER_BYTES];
    file.file.read_exact_at(trailer_at, &mut trailer).map_err(BlockError::Io)?;
    format::has_trailer(&trailer)?;
    let data = SnapshotData::File(Arc::new(file));
    let meta = format::read_meta(&mut BufReader::new(data.reader()))?;
    Ok((meta, data))
}
