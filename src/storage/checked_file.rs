//! A database file whose blocks must stay what they were.
//!
//! The database library looks at its page checksums when a file is opened, and not when a page is read
//! later. So the checksum of each block is kept in memory from the moment it was first read or last
//! written: a later read that gives other bytes is an error that names the offset, and never an answer.
//! The scrub reads the blocks again for no other purpose.
//!
//! After one failure the database library says only that there was one; which one is kept here.
//!
//! # Tiger Style
//! - Four bytes of memory for each block of [`BLOCK_BYTES`], 1 MiB for each GiB of file.
//! - A block is unknown, and not checked, until this process has read or written it whole. The check at
//!   open reads every page that is in use.
//! - A block that is being written is unknown until it is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use redb::StorageBackend;

use super::backend_locks::locks_of;
use super::damage::{Damage, DamageAlarm, Place};
use super::disk::Disk;
use crate::limits;

/// The unit of the checksums, which is the database library's smallest page.
pub(crate) const BLOCK_BYTES: usize = 4096;

const UNKNOWN: u32 = 0;

/// A storage backend that checks what it reads. Clones are the same file.
#[derive(Clone, Debug)]
pub(crate) struct CheckedFile(Arc<Checked>);

#[derive(Debug)]
struct Checked {
    inner: Box<dyn StorageBackend>,
    /// Where the file is, for telling the system not to answer from memory.
    disk: Option<Arc<dyn Disk>>,
    path: PathBuf,
    alarm: DamageAlarm,
    sums: RwLock<Vec<AtomicU32>>,
    /// The first call of the database that failed.
    failure: OnceLock<(io::ErrorKind, String)>,
}

/// What one step of a scrub looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScrubbedBlocks {
    /// The block to go on with; none at the end of the file.
    pub(crate) next: Option<u64>,
    /// Blocks compared with what they were.
    pub(crate) compared: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
}

impl CheckedFile {
    pub(crate) fn new(
        inner: impl StorageBackend,
        disk: Option<Arc<dyn Disk>>,
        path: &Path,
        alarm: DamageAlarm,
    ) -> Self {
        let (sums, failure) = (RwLock::default(), OnceLock::new());
        Self(Arc::new(Checked { inner: Box::new(inner), disk, path: path.to_owned(), alarm, sums, failure }))
    }

    /// Whether a call of the database has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.failure.get().is_some()
    }

    /// The failure that an error of the database only points back to, if that is what it does.
    pub(crate) fn cause_of(&self, error: redb::Error) -> redb::Error {
        match (error, self.0.failure.get()) {
            (redb::Error::PreviousIo, Some((kind, text))) => {
                redb::Error::Io(io::Error::new(*kind, text.as_str()))
            }
            (error, _) => error,
        }
    }

    /// Reads blocks from `from` on as the disk has them now, and compares those that are known.
    ///
    /// # Errors
    /// A block is not what it was, or cannot be read. The alarm is raised.
    pub(crate) fn scrub(&self, from: u64, max_bytes: usize) -> Result<ScrubbedBlocks, Damage> {
        let file = &self.0;
        let offset = from * BLOCK_BYTES as u64;
        let unreadable =
            |error: io::Error| file.raise(Damage::of_io(&file.path, Place::Offset(offset), &error));
        let length = file.inner.len().map_err(unreadable)?.saturating_sub(offset).min(max_bytes as u64);
        let length = usize::try_from(length).expect("it is at most the bytes of a step");
        let length = length - length % BLOCK_BYTES;
        let before = file.known(offset, length);
        let mut done = ScrubbedBlocks { next: None, compared: 0, bytes: 0 };
        if length == 0 {
            return Ok(done);
        }
        done.next = Some(from + (length / BLOCK_BYTES) as u64);
        if before.iter().all(|sum| *sum == UNKNOWN) {
            return Ok(done);
        }
        file.forget_cached(offset, length);
        let mut bytes = vec![0; length];
        if let Err(error) = file.inner.read(offset, &mut bytes) {
            // The file may have become shorter since; that is for the database to judge.
            return match error.kind() {
                io::ErrorKind::UnexpectedEof if !file.reaches(offset + length as u64) => Ok(done),
                _ => Err(unreadable(error)),
            };
        }
        done.bytes = length as u64;
        done.compared = before.iter().filter(|sum| **sum != UNKNOWN).count() as u64;
        file.compare(offset, &bytes, &before)?;
        Ok(done)
    }
}

impl Checked {
    fn sums(&self) -> RwLockReadGuard<'_, Vec<AtomicU32>> {
        self.sums.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The checksums of the blocks of a range that begins and ends with a block, as far as the range is
    /// one.
    fn known(&self, offset: u64, length: usize) -> Vec<u32> {
        let Some(first) = block_of(offset) else { return Vec::new() };
        let sums = self.sums();
        (first..first + length / BLOCK_BYTES)
            .map(|block| sums.get(block).map_or(UNKNOWN, |sum| sum.load(Ordering::Acquire)))
            .collect()
    }

    /// Sets blocks, making room for them.
    fn set(&self, offset: u64, new: impl ExactSizeIterator<Item = u32>) {
        // A block of which only a part is written is unknown from then on.
        let first =
            usize::try_from(offset / BLOCK_BYTES as u64).expect("a file has fewer blocks than memory bytes");
        self.make_room(first + new.len());
        let sums = self.sums();
        for (block, sum) in (first..).zip(new) {
            // The file may have become shorter meanwhile.
            if let Some(slot) = sums.get(block) {
                slot.store(sum, Ordering::Release);
            }
        }
    }

    fn make_room(&self, blocks: usize) {
        if self.sums().len() < blocks {
            let mut sums = self.sums.write().unwrap_or_else(PoisonError::into_inner);
            let blocks = sums.len().max(blocks);
            sums.resize_with(blocks, || AtomicU32::new(UNKNOWN));
        }
    }

    /// Remembers blocks that were read and had not been known. Only the database's own reads may be
    /// learnt from: it reads no page while it writes it, as the scrub may.
    fn learn(&self, offset: u64, bytes: &[u8], before: &[u32]) {
        let Some(first) = block_of(offset).filter(|_| before.contains(&UNKNOWN)) else { return };
        self.make_room(first + before.len());
        let sums = self.sums();
        for ((block, data), before) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)).zip(before) {
            if let Some(slot) = sums.get(block).filter(|_| *before == UNKNOWN) {
                slot.compare_exchange(UNKNOWN, sum(data), Ordering::AcqRel, Ordering::Relaxed).ok();
            }
        }
    }

    /// Holds what was read against what was known before the read. A block whose checksum has changed
    /// meanwhile was being written, and says nothing.
    fn compare(&self, offset: u64, bytes: &[u8], before: &[u32]) -> Result<(), Damage> {
        let Some(first) = block_of(offset) else { return Ok(()) };
        let sums = self.sums();
        for ((block, data), before) in (first..).zip(bytes.chunks_exact(BLOCK_BYTES)).zip(before) {
            if *before == UNKNOWN {
                continue;
            }
            let found = sum(data);
            let is_settled = || sums.get(block).is_some_and(|slot| slot.load(Ordering::Acquire) == *before);
            if found != *before && is_settled() {
                let place = Place::Offset((block * BLOCK_BYTES) as u64);
                let problem = format!(
                    "the disk gives other bytes than were read or written there before (checksum {found:#010x}, not {before:#010x})"
                );
                return Err(self.raise(Damage::new(&self.path, place, problem)));
            }
        }
        Ok(())
    }

    fn raise(&self, damage: Damage) -> Damage {
        self.alarm.raise(damage.clone());
        damage
    }

    /// Keeps the first failure.
    fn noted<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| {
            self.failure.get_or_init(|| (error.kind(), error.to_string()));
        })
    }

    fn reaches(&self, end: u64) -> bool {
        self.inner.len().is_ok_and(|length| length >= end)
    }

    /// Has the system read a range from the disk rather than from its memory. What it holds there and
    /// has not written yet, it keeps.
    fn forget_cached(&self, offset: u64, length: usize) {
        if let Some(disk) = &self.disk {
            disk.forget_cached(&self.path, offset, length as u64);
        }
    }
}

/// The number of the block that begins at an offset; none if none does.
fn block_of(offset: u64) -> Option<usize> {
    let block = usize::try_from(offset / BLOCK_BYTES as u64).ok()?;
    offset.is_multiple_of(BLOCK_BYTES as u64).then_some(block)
}

fn sum(block: &[u8]) -> u32 {
    // One value in four billion stands for two, so that 0 is free.
    crc32c::crc32c(block).max(UNKNOWN + 1)
}

impl StorageBackend for CheckedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.noted(self.0.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let before = self.0.known(offset, out.len());
        self.0.noted(self.0.inner.read(offset, out))?;
        self.0.learn(offset, out, &before);
        let compared = self.0.compare(offset, out, &before);
        self.0.noted(compared.map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage)))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let blocks = usize::try_from(len / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        self.0.sums.write().unwrap_or_else(PoisonError::into_inner).truncate(blocks);
        self.0.noted(self.0.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.noted(self.0.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset % BLOCK_BYTES as u64;
        let touched =
            (usize::try_from(start).expect("it is less than a block") + data.len()).div_ceil(BLOCK_BYTES);
        self.0.set(offset, std::iter::repeat_n(UNKNOWN, touched));
        self.0.noted(self.0.inner.write(offset, data))?;
        if start == 0 {
            self.0.set(offset, data.chunks_exact(BLOCK_BYTES).map(sum));
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.inner.close()
    }

    locks_of!(self.0.inner);
}

const _: () = assert!(limits::SCRUB_STEP_MAX_BYTES.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use redb::backends::InMemoryBackend;

    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    /// A disk that both the checked file and the test write to.
    #[derive(Clone, Debug)]
    struct Disk {
        bytes: Arc<InMemoryBackend>,
        /// Whether reads fail.
        fails: Arc<AtomicBool>,
    }

    impl Disk {
        fn new(blocks: u64) -> (Self, CheckedFile, DamageAlarm) {
            let disk = Self { bytes: Arc::new(InMemoryBackend::new()), fails: Arc::default() };
            disk.set_len(blocks * BLOCK).unwrap();
            let alarm = DamageAlarm::default();
            (disk.clone(), CheckedFile::new(disk, None, Path::new("x.redb"), alarm.clone()), alarm)
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.bytes.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            self.bytes.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.bytes.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.bytes.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.bytes.write(offset, data)
        }
    }

    #[test]
    fn a_block_that_changes_on_disk_after_it_was_read_is_an_error_with_its_offset() {
        let (disk, file, alarm) = Disk::new(4);
        let mut two = [0; 2 * BLOCK_BYTES];
        file.read(BLOCK, &mut two).unwrap();
        disk.write(2 * BLOCK + 17, &[1]).unwrap();
        let error = file.read(BLOCK, &mut two).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("x.redb, offset 8192, is damaged"), "{error}");
        assert_eq!(alarm.get().unwrap().place, Place::Offset(8192));
        disk.write(2 * BLOCK + 17, &[0]).unwrap();
        file.read(BLOCK, &mut two).unwrap();
    }

    #[test]
    fn a_block_that_changes_on_disk_after_it_was_written_is_found_by_the_scrub() {
        let (disk, file, _) = Disk::new(4);
        file.write(3 * BLOCK, &[7; BLOCK_BYTES]).unwrap();
        let all = file.scrub(0, 16 * BLOCK_BYTES).unwrap();
        assert_eq!(all, ScrubbedBlocks { next: Some(4), compared: 1, bytes: 4 * BLOCK });
        assert_eq!(file.scrub(4, 16 * BLOCK_BYTES).unwrap().next, None);
        disk.write(4 * BLOCK - 1, &[8]).unwrap();
        assert_eq!(file.scrub(0, 16 * BLOCK_BYTES).unwrap_err().place, Place::Offset(3 * BLOCK));
    }

    #[test]
    fn a_disk_that_gives_nothing_to_the_scrub_fails_and_is_not_called_damaged() {
        let (disk, file, alarm) = Disk::new(4);
        file.write(3 * BLOCK, &[7; BLOCK_BYTES]).unwrap();
        disk.fails.store(true, Ordering::Relaxed);
        let failure = file.scrub(0, 16 * BLOCK_BYTES).unwrap_err();
        assert!(!failure.is_damage() && failure.place == Place::Offset(0), "{failure:?}");
        let sentence = "x.redb, offset 0, cannot be read or written: Input/output error (os error 5)";
        assert_eq!(failure.to_string(), sentence);
        assert_eq!(alarm.get(), Some(&failure));
    }

    #[test]
    fn what_is_written_through_the_file_is_no_damage() {
        let (_, file, alarm) = Disk::new(4);
        let mut block = [0; BLOCK_BYTES];
        for value in 1..10 {
            file.write(BLOCK, &[value; BLOCK_BYTES]).unwrap();
            file.read(BLOCK, &mut block).unwrap();
            file.scrub(0, BLOCK_BYTES * 4).unwrap();
            // A part of a block, as of the header.
            file.write(BLOCK + 5, &[value + 1; 100]).unwrap();
            file.read(BLOCK, &mut block).unwrap();
            file.set_len(BLOCK).unwrap();
            file.set_len(4 * BLOCK).unwrap();
            file.read(BLOCK, &mut block).unwrap();
            assert_eq!(block, [0; BLOCK_BYTES]);
        }
        assert_eq!(alarm.get(), None);
    }

    #[test]
    fn writes_beside_a_scrub_are_no_damage() {
        let (_, file, alarm) = Disk::new(64);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..200_u8 {
                    for block in 0..64 {
                        file.write(block * BLOCK, &[round; BLOCK_BYTES]).unwrap();
                    }
                }
            });
            while !writer.is_finished() {
                file.scrub(0, 64 * BLOCK_BYTES).unwrap();
            }
        });
        assert_eq!(alarm.get(), None);
    }
}
