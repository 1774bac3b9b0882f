//! Copying the state into a smaller file while writes go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspen::kv::types::{Command, KeyRange, Revision, WriteOp};
use aspen::limits;
use aspen::storage::state::{StateMachine, StateReader};
use aspen::storage::state_redb::Shrunk;
use criterion::Criterion;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::figures::{Table, percentile};
use crate::{fixture, snapshot};

/// Keys that are left of all.
const KEPT: u64 = 60_000;

/// Puts a second while the copy is made: more than three nodes on a machine of two processors get through.
/// A copy gives up behind a writer that takes all the time there is, which no node does.
const PUTS_PER_S: u32 = 20_000;

/// Puts that are applied together.
const BATCH: u32 = 10;

pub fn measure(criterion: &mut Criterion, table: &mut Table) {
    let mut group = criterion.benchmark_group("shrink");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    let mut copies: Vec<(Shrunk, Duration)> = Vec::new();
    let mut store = None;
    group.bench_function("while writing", |bencher| {
        let store = store.get_or_insert_with(Store::new);
        bencher.iter_custom(|rounds| {
            let new: Vec<_> = (0..rounds).map(|_| store.shrink()).collect();
            copies.extend(&new);
            new.iter().map(|(_, took)| took).sum()
        });
    });
    group.finish();
    let Some((first, _)) = copies.first() else { return };
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let remark = format!("from {:.0} MB", mb(first.before_bytes));
    table.tell("file after most keys are deleted", mb(first.after_bytes), "MB", remark);
    let mut took: Vec<_> = copies.iter().map(|(_, took)| *took).collect();
    let speed = mb(first.after_bytes) / percentile(&mut took, 50).as_secs_f64();
    table.tell("copy of the state while writing", speed, "MB/s", format!("{} copies", copies.len()));
    let mut waits: Vec<_> = copies.iter().map(|(shrunk, _)| shrunk.stalled).collect();
    let longest = percentile(&mut waits, 100).as_secs_f64() * 1e3;
    table.tell("writes waited for a copy, at most", longest, "ms", String::new());
}

/// A state most of whose keys were deleted, and forgotten.
struct Store {
    runtime: Runtime,
    state: StateMachine,
    reader: StateReader,
    next: u64,
    _dir: TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = fixture::directory();
        let state = fixture::state(&dir, fixture::log_elsewhere());
        let reader = state.reader();
        let mut store =
            Self { runtime: Runtime::new().unwrap(), state, reader, next: snapshot::KEYS, _dir: dir };
        store.runtime.block_on(snapshot::fill(&mut store.state, snapshot::KEYS));
        let all = KeyRange::Prefix(bytes::Bytes::new());
        let deletes = (snapshot::KEYS - KEPT) / limits::DELETE_PREFIX_MAX_KEYS as u64;
        for _ in 0..deletes {
            store.apply(vec![Command::delete(all.clone())]);
        }
        let forget = Command::new(WriteOp::Compact { revision: Revision(snapshot::KEYS + deletes) });
        let steps = 2 * snapshot::KEYS / limits::COMPACT_STEP_MAX_RECORDS as u64 + 1;
        for _ in 0..steps / 100 + 1 {
            store.apply(vec![forget.clone(); 100]);
        }
        store
    }

    fn apply(&mut self, commands: Vec<Command>) {
        let first = self.next;
        self.next += commands.len() as u64;
        let entries = (first..).zip(&commands).map(|(index, command)| fixture::entry(index, command));
        self.runtime.block_on(fixture::apply(&mut self.state, entries.collect()));
    }

    fn shrink(&mut self) -> (Shrunk, Duration) {
        let (reader, done) = (self.reader.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| {
                let (started, shrunk) = (Instant::now(), reader.shrink());
                done.store(true, Ordering::Relaxed);
                (shrunk.unwrap().unwrap(), started.elapsed())
            });
            let mut due = Instant::now();
            while !done.load(Ordering::Relaxed) {
                let batch = (0..u64::from(BATCH)).map(|number| fixture::put((self.next + number) % KEPT));
                self.apply(batch.collect());
                due += Duration::from_secs(1) * BATCH / PUTS_PER_S;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            copy.join().unwrap()
        })
    }
}
