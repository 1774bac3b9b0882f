//! A database file of any disk, whose writes can be cut off for good.
//!
//! redb makes pending commits durable when a database is closed. That must not happen where the log
//! is not on disk as far as the state, nor is it of use for a database that was replaced: the fuse is
//! blown before the close, and the file stays at its last durable commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use super::backend_locks::locks_of;

/// Cuts a file's writes off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fuse(Arc<AtomicBool>);

impl Fuse {
    /// From here on, every write fails.
    pub(crate) fn blow(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) {
            return Err(io::Error::other("the database is being closed without its pending commits"));
        }
        Ok(())
    }
}

/// A file behind a fuse.
#[derive(Debug)]
pub(crate) struct FusedFile {
    file: Box<dyn StorageBackend>,
    fuse: Fuse,
}

impl FusedFile {
    pub(crate) fn new(file: Box<dyn StorageBackend>, fuse: Fuse) -> Self {
        Self { file, fuse }
    }
}

impl StorageBackend for FusedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fuse.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fuse.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fuse.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    locks_of!(self.file);
}
