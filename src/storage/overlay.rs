//! A database file that is read and never changed: what the library writes stays in memory.
//!
//! The library recovers a file that was not closed cleanly by writing to it, so it cannot open every
//! file for reading alone. Here it writes to a copy of the blocks it touches. The offset read last is
//! remembered: where the library says that something is wrong and not where, that is where.
//!
//! # Tiger Style
//! Memory holds the blocks written: the header, and what recovery notes about free pages, which is less
//! than a thousandth of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, Builder, Database, StorageBackend};

use super::damage::{Damage, Place};
use super::database::guarded;

const BLOCK_BYTES: u64 = super::checked_file::BLOCK_BYTES as u64;

/// See the module.
#[derive(Clone, Debug)]
struct Overlay(Arc<Layers>);

#[derive(Debug)]
struct Layers {
    file: File,
    last_read: AtomicU64,
    above: Mutex<Above>,
}

/// What the library has changed.
#[derive(Debug)]
struct Above {
    length: u64,
    /// Up to here the file shows through: what was cut off once is zeros if it comes back.
    visible: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

/// Opens the database in a file without changing the file, and checks all of its pages.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn open(path: &Path) -> Result<Database, Damage> {
    let unreadable = |error: io::Error| Damage::of_io(path, Place::File, &error);
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        return Err(Damage::new(path, Place::File, "the file is empty"));
    }
    let above = Above { length, visible: length, blocks: BTreeMap::new() };
    let overlay = Overlay(Arc::new(Layers { file, last_read: AtomicU64::new(0), above: Mutex::new(above) }));
    let opened = guarded(path, || {
        let mut builder = Builder::new();
        // Without a cache the last read is the one that met the damage.
        builder.set_cache_size(0).set_check_integrity_on_open(true);
        Ok(builder.create_with_backend(overlay.clone())?)
    });
    opened.map_err(|error| {
        let place = Place::Offset(overlay.0.last_read.load(Ordering::Relaxed));
        Damage::of_opening(path, place, error)
    })
}

impl Layers {
    fn above(&self) -> MutexGuard<'_, Above> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the file, and zeros behind what shows through of it.
    fn read_below(&self, above: &Above, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = above.visible.saturating_sub(offset).min(out.len() as u64);
        let there = usize::try_from(there).expect("it is at most the length of a slice");
        let (below, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        self.file.read_exact_at(below, offset)
    }
}

/// The blocks that a range touches.
fn blocks(offset: u64, length: usize) -> std::ops::Range<u64> {
    offset / BLOCK_BYTES..(offset + length as u64).div_ceil(BLOCK_BYTES)
}

/// Where a block and a range overlap, in the block and in the range.
fn overlap(block: u64, offset: u64, length: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let start = (block * BLOCK_BYTES).max(offset);
    let end = ((block + 1) * BLOCK_BYTES).min(offset + length as u64);
    let within = |base: u64| {
        let at = |position: u64| usize::try_from(position - base).expect("it is within a block or a slice");
        at(start)..at(end)
    };
    (within(block * BLOCK_BYTES), within(offset))
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.above().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.last_read.store(offset, Ordering::Relaxed);
        let above = self.0.above();
        if offset + out.len() as u64 > above.length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends at {}, and {} bytes at {offset} are needed", above.length, out.len()),
            ));
        }
        self.0.read_below(&above, offset, out)?;
        let length = out.len();
        for (number, block) in above.blocks.range(blocks(offset, length)) {
            let (from, to) = overlap(*number, offset, length);
            out[to].copy_from_slice(&block[from]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.0.above();
        if len < above.length {
            let first_gone = len.div_ceil(BLOCK_BYTES);
            above.blocks.split_off(&first_gone);
            if let Some(cut) = above.blocks.get_mut(&(len / BLOCK_BYTES)) {
                cut[usize::try_from(len % BLOCK_BYTES).expect("it is within a block")..].fill(0);
            }
            above.visible = above.visible.min(len);
        }
        above.length = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.0.above();
        for number in blocks(offset, data.len()) {
            let (to, from) = overlap(number, offset, data.len());
            let mut block = match above.blocks.remove(&number) {
                Some(block) => block,
                None => {
                    let mut block = vec![0; super::checked_file::BLOCK_BYTES].into_boxed_slice();
                    self.0.read_below(&above, number * BLOCK_BYTES, &mut block)?;
                    block
                }
            };
            block[to].copy_from_slice(&data[from]);
            above.blocks.insert(number, block);
        }
        above.length = above.length.max(offset + data.len() as u64);
        Ok(())
    }

    // The data directory's lock keeps others away.

    fn try_lock_range(&self, _: std::ops::Bound<u64>, _: std::ops::Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..20_000_u64, prop::collection::vec(any::<u8>(), 1..9_000))
                .prop_map(|(offset, data)| Step::Write(offset, data)),
            1 => (0..30_000_u64).prop_map(Step::SetLen),
        ]
    }

    proptest! {
        #[test]
        fn it_reads_as_a_file_that_was_written_to_and_the_file_stays(
            steps in prop::collection::vec(step(), 1..12),
        ) {
            let original: Vec<u8> = (0..10_000_u32).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &original).unwrap();
            let above = Above { length: 10_000, visible: 10_000, blocks: BTreeMap::new() };
            let layers = Layers {
                file: File::open(file.path()).unwrap(),
                last_read: AtomicU64::new(0),
                above: Mutex::new(above),
            };
            let overlay = Overlay(Arc::new(layers));
            let mut model = original.clone();
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        overlay.write(offset, &data).unwrap();
                        let offset = usize::try_from(offset).unwrap();
                        let length = model.len().max(offset + data.len());
                        model.resize(length, 0);
                        model[offset..offset + data.len()].copy_from_slice(&data);
                    }
                    Step::SetLen(length) => {
                        overlay.set_len(length).unwrap();
                        model.resize(usize::try_from(length).unwrap(), 0);
                    }
                }
                let mut all = vec![1; model.len()];
                overlay.read(0, &mut all).unwrap();
                prop_assert!(all == model, "they differ");
                prop_assert!(overlay.read(1, &mut all).is_err(), "it ends");
            }
            prop_assert!(std::fs::read(file.path()).unwrap() == original, "the file was changed");
        }
    }
}
