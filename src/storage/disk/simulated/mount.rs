//! The simulated disk as one process has it open.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{BackendError, StorageBackend};

use super::faults::{Lie, Operation};
use super::names::FileId;
use super::{SimulatedDisk, in_memory};
use crate::storage::disk::{Disk, DiskFile};

/// The disk until the power is cut or the process ends.
#[derive(Debug)]
pub(super) struct Mount {
    disk: SimulatedDisk,
    life: u64,
}

impl Mount {
    pub(super) fn new(disk: SimulatedDisk, life: u64) -> Self {
        Self { disk, life }
    }

    fn change<T>(
        &self,
        operation: Operation,
        path: &Path,
        act: impl FnOnce(&mut super::State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.change(self.life, operation, |_| path.to_owned(), act)
    }

    fn create_file(&self, path: &Path) -> io::Result<OpenFile> {
        let id = self.change(Operation::Create, path, |state| {
            let id = state.create(path)?;
            state.file(id).open += 1;
            Ok(id)
        })?;
        Ok(OpenFile { disk: self.disk.clone(), life: self.life, id })
    }

    fn open_file(&self, path: &Path) -> io::Result<OpenFile> {
        let mut state = self.disk.enter(self.life)?;
        let id = state.names.file(path)?;
        state.file(id).open += 1;
        drop(state);
        Ok(OpenFile { disk: self.disk.clone(), life: self.life, id })
    }
}

impl Disk for Mount {
    #[cfg(madsim)]
    fn sync_time(&self) -> std::time::Duration {
        self.disk.draw_sync_time()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.disk.enter(self.life)?.names.exists(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.exists(path)? {
            return Ok(());
        }
        self.change(Operation::CreateDir, path, |state| state.names.make_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.enter(self.life)?.names.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.create_file(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_file(path)?))
    }

    fn forget_cached(&self, _path: &Path, _offset: u64, _length: u64) {}

    fn allocated_bytes(&self, path: &Path) -> io::Result<u64> {
        let state = self.disk.enter(self.life)?;
        let id = state.names.file(path)?;
        Ok(state.files[&id].image.allocated_bytes())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.disk.enter(self.life)?;
        Ok(state.faults.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(state.allocated_bytes())))
    }

    fn create_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.create_file(path)?))
    }

    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.open_file(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Rename, to, |state| {
            state.names.rename(from, to)?;
            state.forget_unused();
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Remove, path, |state| {
            state.names.unlink(path)?;
            state.forget_unused();
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(Operation::SyncDir, dir, |state| {
            if state.faults.lie != Some(Lie::NamesAreSynced) {
                state.names.sync(dir)?;
                state.forget_unused();
            }
            Ok(())
        })
    }
}

/// A file until it is closed, the power is cut or the process ends.
#[derive(Debug)]
struct OpenFile {
    disk: SimulatedDisk,
    life: u64,
    id: FileId,
}

impl OpenFile {
    fn change<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut super::State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.change(self.life, operation, |state| state.path_of(self.id), act)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.disk.lock().close(self.id, self.life);
    }
}

impl DiskFile for OpenFile {
    fn forget_cached(&self, _offset: u64, _length: u64) {}

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.enter(self.life)?.file(self.id).image.bytes().len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.enter(self.life)?;
        let content = state.file(self.id).image.bytes();
        let content = content.get(in_memory(offset)..).unwrap_or_default();
        let read = content.len().min(bytes.len());
        bytes[..read].copy_from_slice(&content[..read]);
        Ok(read)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Operation::Write, |state| state.write(self.id, offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync_file(self.life, self.id)
    }
}

/// Whole files are locked alone, which redb makes do with.
fn is_whole(start: Bound<u64>, end: Bound<u64>) -> bool {
    matches!(start, Bound::Unbounded | Bound::Included(0)) && end == Bound::Unbounded
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        DiskFile::len(self)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLen, |state| {
            state.file(self.id).image.set_len(in_memory(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        if let Ok(mut state) = self.disk.enter(self.life) {
            state.file(self.id).is_locked = false;
        }
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !is_whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        let mut state = self.disk.enter(self.life)?;
        let is_free = !state.file(self.id).is_locked;
        state.file(self.id).is_locked = true;
        Ok(is_free)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if !is_whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        self.disk.enter(self.life)?.file(self.id).is_locked = false;
        Ok(())
    }
}
