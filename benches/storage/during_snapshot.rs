//! What a client's writes notice of snapshots that are built meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aspen::storage::log_redb::RedbLog;
use aspen::storage::progress::Progress;
use aspen::storage::state::{SnapshotBuilder, StateMachine};
use criterion::Criterion;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::figures::{Table, percentile, us};
use crate::{fixture, snapshot};

const TARGET: f64 = 2.0;
/// Turns of quiet and of snapshots, so that a busy neighbour troubles both.
const TURNS: usize = 3;
/// Writes are made for a time, not by number: how many it is says how much they are held up.
const SAMPLE: Duration = Duration::from_millis(500);

pub fn measure(criterion: &mut Criterion, table: &mut Table) {
    let mut group = criterion.benchmark_group("write");
    group.sample_size(10).sampling_mode(criterion::SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(100));
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let mut client = None;
    let snapshots = Arc::new(AtomicU64::new(0));
    for turn in 1..=TURNS {
        group.bench_function(format!("quiet, turn {turn}"), |bencher| {
            let client = client.get_or_insert_with(Client::new);
            bencher.iter_custom(|writes| client.write_for(SAMPLE, &mut quiet) * count(writes));
        });
        group.bench_function(format!("during snapshots, turn {turn}"), |bencher| {
            let client = client.get_or_insert_with(Client::new);
            let builder = client.snapshot_builder();
            let stop = CancellationToken::new();
            let build = build_until(stop.clone(), builder, snapshots.clone());
            let building = client.runtime.spawn(build);
            bencher.iter_custom(|writes| client.write_for(SAMPLE, &mut busy) * count(writes));
            stop.cancel();
            client.runtime.block_on(building).unwrap();
        });
    }
    group.finish();
    if quiet.is_empty() || busy.is_empty() {
        return;
    }
    for (percent, target) in [(50, None), (99, Some(TARGET))] {
        let (quiet_q, busy_q) = (percentile(&mut quiet, percent), percentile(&mut busy, percent));
        let name = format!("write during snapshots, p{percent}");
        let ratio = busy_q.as_secs_f64() / quiet_q.as_secs_f64();
        let remark = format!(
            "{:.0} us to {:.0} us; {} snapshots, {} and {} writes",
            us(busy_q),
            us(quiet_q),
            snapshots.load(Ordering::Relaxed),
            busy.len(),
            quiet.len(),
        );
        match target {
            Some(target) => table.compare(name, ratio, "x", target, remark),
            None => table.tell(name, ratio, "x", remark),
        }
    }
}

fn count(writes: u64) -> u32 {
    writes.try_into().unwrap()
}

/// Builds one after the other; the last one is built to its end.
async fn build_until(stop: CancellationToken, mut builder: SnapshotBuilder, count: Arc<AtomicU64>) {
    while !stop.is_cancelled() {
        builder.build_snapshot().await.unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client of a cluster of one, without the network.
struct Client {
    runtime: Runtime,
    log: RedbLog,
    state: StateMachine,
    next: u64,
    _dir: TempDir,
}

impl Client {
    fn new() -> Self {
        let dir = fixture::directory();
        let progress = Arc::new(Progress::default());
        let log = fixture::log(&dir, progress.clone());
        let state = fixture::state(&dir, progress);
        let mut client = Self { runtime: Runtime::new().unwrap(), log, state, next: 0, _dir: dir };
        client.fill();
        client
    }

    fn fill(&mut self) {
        const BATCH: u64 = 1_000;
        while self.next < snapshot::KEYS {
            self.write_together(BATCH);
        }
        // The log is as short as it is kept in a node.
        assert!(self.state.reader().checkpoint().unwrap());
        self.runtime.block_on(async {
            let last = self.log.get_log_state().await.unwrap().last_log_id.unwrap();
            self.log.purge(last).await.unwrap();
        });
    }

    fn snapshot_builder(&mut self) -> SnapshotBuilder {
        self.runtime.block_on(self.state.get_snapshot_builder())
    }

    /// Writes one after the other for a time. Returns the mean of what one took.
    fn write_for(&mut self, time: Duration, times: &mut Vec<Duration>) -> Duration {
        let (all, before) = (Instant::now(), times.len());
        while all.elapsed() < time {
            let started = Instant::now();
            self.write_together(1);
            times.push(started.elapsed());
        }
        all.elapsed() / count((times.len() - before) as u64)
    }

    fn write_together(&mut self, count: u64) {
        let entries: Vec<_> = (self.next..self.next + count)
            .map(|index| fixture::entry(index, &fixture::put(index % snapshot::KEYS)))
            .collect();
        self.next += count;
        self.runtime.block_on(async {
            fixture::append(&mut self.log, entries.clone()).await;
            fixture::apply(&mut self.state, entries).await;
        });
    }
}
