//! The file system as storage uses it: the only way by which databases and snapshots reach a disk.
//!
//! There are two disks: the [real one](real), and one in memory (`simulated`) whose power can be cut at any
//! operation. Code above this seam must never assume more than file systems promise: what was written
//! is on disk once the file was synced, and a name (a new file, a rename, a removal) once its directory
//! was.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;

pub mod real;
#[cfg(any(test, feature = "simulated-disk"))]
pub mod simulated;

pub use real::{RealDisk, give_to_owner_of};
#[cfg(any(test, feature = "simulated-disk"))]
pub use simulated::SimulatedDisk;

/// A file system. All calls block.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Whether a file or a directory has this name.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// How long the next sync takes, in the time of the simulation.
    #[cfg(madsim)]
    fn sync_time(&self) -> std::time::Duration;

    /// Makes a directory, and those above it, where they are missing.
    ///
    /// # Errors
    /// Where it cannot be made, or a file has the name.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The files in a directory, sorted.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes a file that must not be there yet.
    ///
    /// # Errors
    /// Where it is there, or cannot be made.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Where it is not there, or cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// [`DiskFile::forget_cached`] of the file that has this name.
    fn forget_cached(&self, path: &Path, offset: u64, length: u64);

    /// What a file takes up, which is less than its length where it has holes.
    ///
    /// # Errors
    /// Where it is not there, or that cannot be told.
    fn allocated_bytes(&self, path: &Path) -> io::Result<u64>;

    /// What this process may still write to the file system on which a file is.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Makes an empty file for a database, which must not be there yet.
    ///
    /// # Errors
    /// Those of [`Self::create`].
    fn create_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Opens the file of a database.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    fn open_database(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Gives a file another name in the same directory, instead of the file that has it now.
    ///
    /// # Errors
    /// Where the file is not there, or cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away. Who has it open keeps it.
    ///
    /// # Errors
    /// Where there is no such file, or it cannot be removed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Where they may not be durable now.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. It stays readable when its name goes away.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// Those of [`Self::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads some bytes at an offset; none at the end.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes bytes at an offset, all of them.
    ///
    /// # Errors
    /// Where they cannot be written; some may have been.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable, though not the file's name.
    ///
    /// # Errors
    /// Where it may not be durable. A later sync that works does not make it so.
    fn sync(&self) -> io::Result<()>;

    /// Has the system read a range from the disk the next time, and not from its memory. What it has not
    /// written yet, it keeps. It may do nothing.
    fn forget_cached(&self, offset: u64, length: u64);

    /// Reads bytes at an offset, all of them.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before, and those of [`Self::read_at`].
    fn read_exact_at(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read_at(offset, bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    bytes = &mut bytes[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes a file from its start to its end.
#[derive(Debug)]
pub(crate) struct Appender {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl Appender {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl io::Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes a file, if it is there.
///
/// # Errors
/// Those of [`Disk::remove`], but for a missing file.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directory that a name stands in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
