//! Building and installing a snapshot.

use std::time::{Duration, Instant};

use aspen::storage::state::StateMachine;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use crate::figures::Table;
use crate::fixture;

/// Enough for a snapshot of 200 MB.
pub const KEYS: u64 = 560_000;
const ROUNDS: u32 = 3;

pub fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (from_dir, to_dir) = (fixture::directory(), fixture::directory());
    let mut from = fixture::state(&from_dir, fixture::log_elsewhere());
    let mut to = fixture::state(&to_dir, fixture::log_elsewhere());
    runtime.block_on(async {
        fill(&mut from, KEYS).await;
        let (mut build, mut install, mut bytes) = (Duration::MAX, Duration::MAX, 0);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let built = from.get_snapshot_builder().await.build_snapshot().await.unwrap();
            build = build.min(started.elapsed());
            bytes = built.snapshot.len();
            let started = Instant::now();
            to.install_snapshot(&built.meta, built.snapshot).await.unwrap();
            install = install.min(started.elapsed());
        }
        let mb = bytes as f64 / 1e6;
        for (name, time) in [("snapshot build", build), ("snapshot install", install)] {
            table.tell(name, mb / time.as_secs_f64(), "MB/s", format!("{mb:.0} MB, the best of {ROUNDS}"));
        }
    });
}

/// Puts keys into an empty state.
pub async fn fill(state: &mut StateMachine, keys: u64) {
    const BATCH: u64 = 4_096;
    for from in (0..keys).step_by(4_096) {
        let entries = (from..keys.min(from + BATCH)).map(|index| fixture::entry(index, &fixture::put(index)));
        fixture::apply(state, entries.collect()).await;
    }
}
