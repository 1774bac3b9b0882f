//! Appends to the log, each compared with a write and an fdatasync of the same bytes to a plain file.
//!
//! The log is kept as long as a node keeps it, so that it writes to pages that it has used before. One
//! that only grows would measure how the file system hands out blocks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen::kv::types::{Command, Key, Value};
use aspen::limits;
use aspen::raft::types::Entry;
use aspen::storage::codec;
use aspen::storage::log_redb::RedbLog;
use aspen::storage::progress::Progress;
use criterion::Criterion;
use openraft::storage::RaftLogStorage;
use tokio::runtime::Runtime;

use crate::figures::{Table, percentile, us};
use crate::fixture;

/// Entries in an append, and how much slower than the plain file it may be.
const BATCHES: [(u64, f64); 3] = [(1, 3.5), (64, 3.3), (256, 3.8)];

/// Rounds that are not counted: the log gets its length in them.
const FIRST_ENTRIES: u64 = 3 * LOG_MAX_ENTRIES;

/// Entries after which a node makes a snapshot and purges, and what it keeps behind the snapshot.
const LOG_MAX_ENTRIES: u64 = limits::SNAPSHOT_EVERY_ENTRIES + LOG_KEPT_ENTRIES;
const LOG_KEPT_ENTRIES: u64 = limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES;

/// What the plain file is filled with beforehand: a file that grows would be slower.
const PLAIN_FILE_BYTES: usize = 64 * 1024 * 1024;

pub fn measure(criterion: &mut Criterion, table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("append");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(6));
    for (entries, target) in BATCHES {
        let mut pair = None;
        group.bench_function(entries.to_string(), |bencher| {
            let pair = pair.get_or_insert_with(|| Pair::new(&runtime));
            bencher.iter_custom(|rounds| (0..rounds).map(|_| pair.round(&runtime, entries)).sum());
        });
        let Some(mut pair) = pair else { continue };
        let (log, plain) = (percentile(&mut pair.log_times, 50), percentile(&mut pair.plain_times, 50));
        table.compare(
            format!("append of {entries}, p50 to a plain file"),
            log.as_secs_f64() / plain.as_secs_f64(),
            "x",
            target,
            format!("{:.0} us to {:.0} us, {} rounds", us(log), us(plain), pair.log_times.len()),
        );
    }
    group.finish();
}

/// A log and a plain file that get the same bytes.
struct Pair {
    log: RedbLog,
    plain: PlainFile,
    first: u64,
    next: u64,
    log_times: Vec<Duration>,
    plain_times: Vec<Duration>,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(runtime: &Runtime) -> Self {
        let dir = fixture::directory();
        let progress = Arc::new(Progress::default());
        // The state is on disk as far as the log will ever be.
        progress.set_durable(Some(u64::MAX - 1));
        let mut pair = Self {
            log: fixture::log(&dir, progress),
            plain: PlainFile::new(&dir),
            first: 0,
            next: 0,
            log_times: Vec::new(),
            plain_times: Vec::new(),
            _dir: dir,
        };
        while pair.next < FIRST_ENTRIES {
            pair.round(runtime, LOG_KEPT_ENTRIES);
        }
        pair.log_times.clear();
        pair.plain_times.clear();
        pair
    }

    /// One append to each, in turns first. Returns the log's time.
    fn round(&mut self, runtime: &Runtime, count: u64) -> Duration {
        let entries: Vec<Entry> =
            (self.next..self.next + count).map(|index| fixture::entry(index, &command(index))).collect();
        self.next += count;
        let bytes: Vec<u8> = entries.iter().flat_map(codec::seal).collect();
        let plain_first = self.log_times.len().is_multiple_of(2);
        if plain_first {
            self.plain_times.push(self.plain.write(&bytes));
        }
        let started = Instant::now();
        runtime.block_on(fixture::append(&mut self.log, entries));
        let time = started.elapsed();
        self.log_times.push(time);
        if !plain_first {
            self.plain_times.push(self.plain.write(&bytes));
        }
        if self.next - self.first > LOG_MAX_ENTRIES {
            self.first = self.next - LOG_KEPT_ENTRIES;
            let to = fixture::log_id(self.first - 1);
            runtime.block_on(self.log.purge(to)).unwrap();
        }
        time
    }
}

/// A command of 256 bytes.
fn command(index: u64) -> Command {
    const VALUE_BYTES: usize = 225;
    let key = Key::new(format!("key-{index:016x}").into_bytes()).unwrap();
    Command::put(key, Value::new(vec![7; VALUE_BYTES]).unwrap())
}

struct PlainFile {
    file: File,
    offset: usize,
}

impl PlainFile {
    fn new(dir: &tempfile::TempDir) -> Self {
        let file = File::create(dir.path().join("plain")).unwrap();
        file.write_all_at(&vec![0; PLAIN_FILE_BYTES], 0).unwrap();
        file.sync_all().unwrap();
        Self { file, offset: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Duration {
        if self.offset + bytes.len() > PLAIN_FILE_BYTES {
            self.offset = 0;
        }
        let started = Instant::now();
        self.file.write_all_at(bytes, self.offset as u64).unwrap();
        self.file.sync_data().unwrap();
        self.offset += bytes.len();
        started.elapsed()
    }
}
