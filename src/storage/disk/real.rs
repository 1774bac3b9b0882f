//! The file system of the operating system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::{Disk, DiskFile};

/// Gives a file to whom a directory belongs. Who repairs a node's directory is often root, and the node is not.
///
/// # Errors
/// The file has another owner, and this process may not change that.
pub fn give_to_owner_of(dir: &Path, file: &Path) -> io::Result<()> {
    let (dir, has) = (fs::metadata(dir)?, fs::metadata(file)?);
    match (dir.uid(), dir.gid()) == (has.uid(), has.gid()) {
        true => Ok(()),
        false => {
            chown(file, Some(dir.uid()), Some(dir.gid()))?;
            // Or a power cut gives it back.
            File::open(file)?.sync_all()
        }
    }
}

/// The real thing.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    #[cfg(madsim)]
    fn sync_time(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(create_new(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn forget_cached(&self, path: &Path, offset: u64, length: u64) {
        if let Ok(file) = File::open(path) {
            DiskFile::forget_cached(&file, offset, length);
        }
    }

    fn allocated_bytes(&self, path: &Path) -> io::Result<u64> {
        /// The unit in which the kernel counts, whatever the file system's own is.
        const BLOCK_BYTES: u64 = 512;
        Ok(fs::metadata(path)?.blocks() * BLOCK_BYTES)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn create_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        backend(create_new(path)?)
    }

    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        backend(File::options().read(true).write(true).open(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

impl DiskFile for File {
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables))]
    fn forget_cached(&self, offset: u64, length: u64) {
        // Advice that is not taken costs a scrub its sight of the disk, and nothing else.
        #[cfg(target_os = "linux")]
        if let Some(length) = std::num::NonZeroU64::new(length) {
            rustix::fs::fadvise(self, offset, Some(length), rustix::fs::Advice::DontNeed).ok();
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}
