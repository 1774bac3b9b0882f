//! Building and installing a snapshot.

use std::time::{Duration, Instant};

use aspen::raft::types::TypeConfig;
use aspen::storage::snapshot::SnapshotData;
use aspen::storage::state::StateMachine;
use criterion::Criterion;
use openraft::alias::SnapshotOf;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::figures::{Table, percentile};
use crate::fixture;

/// Enough for a snapshot of 200 MB.
pub const KEYS: u64 = 600_000;

pub fn measure(criterion: &mut Criterion, table: &mut Table) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    let rounds: [(_, Round); 2] = [("build", Pair::build), ("install", Pair::install)];
    let mut pair = None;
    for (name, round) in rounds {
        let mut times = Vec::new();
        group.bench_function(name, |bencher| {
            let pair = pair.get_or_insert_with(Pair::new);
            bencher.iter_custom(|rounds| {
                let new: Vec<_> = (0..rounds).map(|_| round(pair)).collect();
                times.extend(&new);
                new.iter().sum()
            });
        });
        if let Some(pair) = &pair
            && !times.is_empty()
        {
            let mb = pair.built.snapshot.len() as f64 / 1e6;
            let speed = mb / percentile(&mut times, 50).as_secs_f64();
            table.tell(format!("snapshot {name}"), speed, "MB/s", format!("{mb:.0} MB, p50"));
        }
    }
    group.finish();
}

type Round = fn(&mut Pair) -> Duration;

/// A state, its snapshot, and a state that installs it.
struct Pair {
    runtime: Runtime,
    from: StateMachine,
    to: StateMachine,
    built: SnapshotOf<TypeConfig, SnapshotData>,
    _dirs: [TempDir; 2],
}

impl Pair {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let dirs = [fixture::directory(), fixture::directory()];
        let [mut from, to] = dirs.each_ref().map(|dir| fixture::state(dir, fixture::log_elsewhere()));
        let built = runtime.block_on(async {
            fill(&mut from, KEYS).await;
            from.get_snapshot_builder().await.build_snapshot().await.unwrap()
        });
        Self { runtime, from, to, built, _dirs: dirs }
    }

    fn build(&mut self) -> Duration {
        let started = Instant::now();
        self.built = self
            .runtime
            .block_on(async { self.from.get_snapshot_builder().await.build_snapshot().await })
            .unwrap();
        started.elapsed()
    }

    fn install(&mut self) -> Duration {
        let (meta, data) = (self.built.meta.clone(), self.built.snapshot.clone());
        let started = Instant::now();
        self.runtime.block_on(self.to.install_snapshot(&meta, data)).unwrap();
        started.elapsed()
    }
}

/// Puts keys into an empty state.
pub async fn fill(state: &mut StateMachine, keys: u64) {
    const BATCH: u64 = 4_000;
    for from in (0..keys).step_by(4_000) {
        let entries = (from..keys.min(from + BATCH)).map(|index| fixture::entry(index, &fixture::put(index)));
        fixture::apply(state, entries.collect()).await;
    }
}
