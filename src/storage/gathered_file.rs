//! A database file whose writes go out together, when it is synced.
//!
//! A commit writes a page at a time, wherever one is free, and many of them stand side by side. Held back until
//! the sync, those are one write for the system, and one request for the disk.
//!
//! # Tiger Style
//! At most [`limits::LOG_GATHERED_MAX_BYTES`] are held back. What is held back is read as if it were written. Writes
//! that fail stay held back, and every sync fails until they are done.

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::backend_locks::locks_of;
use crate::limits;

/// A file that writes in few pieces.
#[derive(Debug)]
pub(super) struct GatheredFile<F> {
    file: F,
    held: Mutex<Held>,
}

/// Writes that are held back, no two of the same byte.
#[derive(Debug, Default)]
struct Held {
    writes: Vec<Write>,
    /// Theirs, one after the other.
    bytes: Vec<u8>,
    /// A buffer for what goes out as one.
    joined: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    offset: u64,
    /// Where its bytes stand among those held.
    start: usize,
    len: usize,
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.len as u64
    }

    fn held(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

impl<F: StorageBackend> GatheredFile<F> {
    pub(super) fn new(file: F) -> Self {
        Self { file, held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes a write, if it fits: into the place of one of the same bytes, or beside all others.
    fn take(&mut self, offset: u64, data: &[u8]) -> bool {
        let end = offset + data.len() as u64;
        if let Some(other) = self.writes.iter().find(|other| other.offset < end && offset < other.end()) {
            let is_same = (other.offset, other.len) == (offset, data.len());
            if is_same {
                self.bytes[other.held()].copy_from_slice(data);
            }
            return is_same;
        }
        if self.bytes.len() + data.len() > limits::LOG_GATHERED_MAX_BYTES {
            return false;
        }
        self.writes.push(Write { offset, start: self.bytes.len(), len: data.len() });
        self.bytes.extend_from_slice(data);
        true
    }

    /// Writes all that is held back, what stands side by side at once.
    fn flush(&mut self, file: &impl StorageBackend) -> io::Result<()> {
        self.writes.sort_unstable_by_key(|write| write.offset);
        for run in self.writes.chunk_by(|left, right| left.end() == right.offset) {
            if let [write] = run {
                file.write(write.offset, &self.bytes[write.held()])?;
                continue;
            }
            self.joined.clear();
            for write in run {
                self.joined.extend_from_slice(&self.bytes[write.held()]);
            }
            file.write(run[0].offset, &self.joined)?;
        }
        self.writes.clear();
        self.bytes.clear();
        Ok(())
    }

    /// Puts what is held back over what was read.
    fn lay_over(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        let index = |at: u64, from: u64| usize::try_from(at - from).expect("it is within a slice");
        for write in &self.writes {
            let (first, last) = (write.offset.max(offset), write.end().min(end));
            if first < last {
                let bytes = &self.bytes[write.held()][index(first, write.offset)..index(last, write.offset)];
                out[index(first, offset)..index(last, offset)].copy_from_slice(bytes);
            }
        }
    }
}

impl<F: StorageBackend> StorageBackend for GatheredFile<F> {
    /// The database makes a file longer before it writes there.
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let held = self.lock();
        if held.writes.is_empty() {
            drop(held);
            return self.file.read(offset, out);
        }
        self.file.read(offset, out)?;
        held.lay_over(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().flush(&self.file)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lock().flush(&self.file)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut held = self.lock();
        if held.take(offset, data) {
            return Ok(());
        }
        held.flush(&self.file)?;
        if held.take(offset, data) { Ok(()) } else { self.file.write(offset, data) }
    }

    /// Writes nothing: what was not synced is part of no commit, and after a write failed none may follow.
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    locks_of!(self.file);
}
