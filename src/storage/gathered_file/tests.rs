use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use redb::backends::InMemoryBackend;

use super::*;

/// A disk that says what was written to it, and may be full.
#[derive(Clone, Debug, Default)]
struct Disk {
    file: Arc<InMemoryBackend>,
    writes: Arc<Mutex<Vec<(u64, usize)>>>,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn of(bytes: u64) -> (Self, GatheredFile<Self>) {
        let disk = Self::default();
        disk.set_len(bytes).unwrap();
        (disk.clone(), GatheredFile::new(disk))
    }

    fn writes(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.writes.lock().unwrap())
    }

    fn content(&self) -> Vec<u8> {
        read(self, 0, usize::try_from(self.len().unwrap()).unwrap())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.writes.lock().unwrap().push((offset, data.len()));
        self.file.write(offset, data)
    }
}

fn read(file: &impl StorageBackend, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn pages_side_by_side_are_one_write_and_none_comes_before_the_sync() {
    let (disk, file) = Disk::of(10 * 4096);
    for (page, value) in [(7, 1), (3, 2), (2, 3), (4, 4), (7, 5)] {
        file.write(page * 4096, &[value; 4096]).unwrap();
    }
    assert_eq!(disk.writes(), []);
    assert_eq!(read(&file, 7 * 4096, 1), [5], "it is read before it is written");
    file.sync_data().unwrap();
    assert_eq!(disk.writes(), [(2 * 4096, 3 * 4096), (7 * 4096, 4096)]);
    let pages: Vec<u8> = disk.content().chunks(4096).map(|page| page[0]).collect();
    assert_eq!(pages, [0, 0, 3, 2, 4, 0, 0, 5, 0, 0]);
    file.sync_data().unwrap();
    assert_eq!(disk.writes(), []);
}

#[test]
fn more_than_the_bound_is_not_held_back() {
    let max = limits::LOG_GATHERED_MAX_BYTES;
    let (disk, file) = Disk::of(4 * max as u64);
    file.write(0, &vec![1; max]).unwrap();
    assert_eq!(disk.writes(), []);
    file.write(max as u64, &[2]).unwrap();
    assert_eq!(disk.writes(), [(0, max)]);
    file.write(2 * max as u64, &vec![3; max + 1]).unwrap();
    assert_eq!(disk.writes(), [(max as u64, 1), (2 * max as u64, max + 1)]);
}

#[test]
fn a_write_that_failed_fails_each_sync_until_it_is_done() {
    let (disk, file) = Disk::of(8192);
    file.write(0, &[1; 4096]).unwrap();
    disk.is_full.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&file, 0, 1), [1]);
    }
    disk.is_full.store(false, Ordering::Relaxed);
    file.sync_data().unwrap();
    assert_eq!(disk.content()[..4096], [1; 4096]);
}

#[test]
fn what_is_held_back_is_written_before_the_length_changes_and_never_without_a_sync() {
    let (disk, file) = Disk::of(4096);
    file.write(0, &[1; 4096]).unwrap();
    file.set_len(8192).unwrap();
    assert_eq!(disk.writes(), [(0, 4096)]);
    file.write(4096, &[2; 4096]).unwrap();
    file.close().unwrap();
    assert_eq!(disk.writes(), []);
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: usize, len: usize },
    Read { offset: usize, len: usize },
    Sync,
}

const FILE_BYTES: usize = 64;

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..FILE_BYTES).prop_flat_map(|offset| (Just(offset), 1..=FILE_BYTES - offset));
    prop_oneof![
        4 => place().prop_map(|(offset, len)| Step::Write { offset, len }),
        4 => place().prop_map(|(offset, len)| Step::Read { offset, len }),
        1 => Just(Step::Sync),
    ]
}

proptest! {
    #[test]
    fn a_gathered_file_reads_as_a_plain_one(steps in prop::collection::vec(step(), 1..60)) {
        let (disk, file) = Disk::of(FILE_BYTES as u64);
        let mut plain = vec![0; FILE_BYTES];
        for (value, step) in (1..).zip(steps) {
            match step {
                Step::Write { offset, len } => {
                    file.write(offset as u64, &vec![value; len]).unwrap();
                    plain[offset..][..len].fill(value);
                }
                Step::Read { offset, len } => {
                    prop_assert_eq!(&read(&file, offset as u64, len), &plain[offset..][..len]);
                }
                Step::Sync => {
                    file.sync_data().unwrap();
                    prop_assert_eq!(&disk.content(), &plain);
                }
            }
        }
        file.sync_data().unwrap();
        prop_assert_eq!(&disk.content(), &plain);
    }
}
