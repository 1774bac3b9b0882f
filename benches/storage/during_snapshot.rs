//! What a client's writes notice of a snapshot that is built meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen::storage::log_redb::RedbLog;
use aspen::storage::progress::Progress;
use aspen::storage::state::StateMachine;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};

use crate::figures::{Table, quantile, us};
use crate::{fixture, snapshot};

/// Quiet time between snapshots.
const QUIET: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
const TARGET: f64 = 2.0;

pub fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = fixture::directory();
    let progress = Arc::new(Progress::default());
    let log = fixture::log(&dir, progress.clone());
    let state = fixture::state(&dir, progress);
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let mut writer = Writer { log, state, next: 0 };
    let mut built_for = Duration::ZERO;
    runtime.block_on(async {
        writer.fill().await;
        for _ in 0..ROUNDS {
            let until = Instant::now() + QUIET;
            writer.write_while(&mut quiet, || Instant::now() < until).await;
            let mut builder = writer.state.get_snapshot_builder().await;
            let started = Instant::now();
            let build = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
            writer.write_while(&mut busy, || !build.is_finished()).await;
            built_for += started.elapsed();
            build.await.unwrap();
        }
    });
    for share in [0.5, 0.99] {
        let (quiet_q, busy_q) = (quantile(&mut quiet, share), quantile(&mut busy, share));
        let name = format!("writes during a snapshot, p{:.0}", share * 100.0);
        let ratio = busy_q.as_secs_f64() / quiet_q.as_secs_f64();
        let remark = format!(
            "{:.0} us to {:.0} us; {} and {} writes, {:.1} s a snapshot",
            us(busy_q),
            us(quiet_q),
            busy.len(),
            quiet.len(),
            built_for.as_secs_f64() / ROUNDS as f64,
        );
        match share {
            0.99 => table.compare(name, ratio, "x", TARGET, remark),
            _ => table.tell(name, ratio, "x", remark),
        }
    }
}

/// A client of a cluster of one, without the network.
struct Writer {
    log: RedbLog,
    state: StateMachine,
    next: u64,
}

impl Writer {
    async fn fill(&mut self) {
        const BATCH: u64 = 1_024;
        while self.next < snapshot::KEYS {
            self.write(BATCH).await;
        }
        // The log is as short as it is kept in a node.
        assert!(tokio::task::block_in_place(|| self.state.reader().checkpoint()).unwrap());
        let last = self.log.get_log_state().await.unwrap().last_log_id.unwrap();
        self.log.purge(last).await.unwrap();
    }

    async fn write_while(&mut self, times: &mut Vec<Duration>, go_on: impl Fn() -> bool) {
        while go_on() {
            let started = Instant::now();
            self.write(1).await;
            times.push(started.elapsed());
        }
    }

    async fn write(&mut self, count: u64) {
        let entries: Vec<_> = (self.next..self.next + count)
            .map(|index| fixture::entry(index, &fixture::put(index % snapshot::KEYS)))
            .collect();
        self.next += count;
        fixture::append(&mut self.log, entries.clone()).await;
        fixture::apply(&mut self.state, entries).await;
    }
}
