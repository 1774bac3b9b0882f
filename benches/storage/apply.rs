//! Applying commands: processor time for each put, history and checkpoints included.

use std::time::Duration;

use aspen::kv::types::{Command, Revision, SessionId, SessionTag};
use aspen::storage::state::StateMachine;
use criterion::Criterion;
use tokio::runtime::Runtime;

use crate::figures::{Table, us};
use crate::fixture::{self, cpu_time};

const BATCH: u64 = 256;
const KEYS: u64 = 100_000;
const TARGET_US: f64 = 12.0;

pub fn measure(criterion: &mut Criterion, table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("apply");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for (name, target, with_session) in
        [("apply of 256", Some(TARGET_US), false), ("apply of 256 with sessions", None, true)]
    {
        let mut work = None;
        group.bench_function(name, |bencher| {
            let work = work.get_or_insert_with(|| Work::new(&runtime, with_session));
            bencher.iter_custom(|rounds| (0..rounds).map(|_| work.round(&runtime)).sum());
        });
        let Some(work) = work else { continue };
        let figure = us(work.cpu) / work.puts as f64;
        let remark = format!("{} puts over {KEYS} keys of {} B", work.puts, fixture::VALUE_BYTES);
        match target {
            Some(target) => table.compare(format!("{name}, CPU a put"), figure, "us", target, remark),
            None => table.tell(format!("{name}, CPU a put"), figure, "us", remark),
        }
    }
    group.finish();
}

struct Work {
    state: StateMachine,
    session: Option<SessionId>,
    next: u64,
    puts: u64,
    cpu: Duration,
    _dir: tempfile::TempDir,
}

impl Work {
    fn new(runtime: &Runtime, with_session: bool) -> Self {
        let dir = fixture::directory();
        let state = fixture::state(&dir, fixture::log_elsewhere());
        let mut work = Self { state, session: None, next: 0, puts: 0, cpu: Duration::ZERO, _dir: dir };
        while work.next < KEYS {
            work.round(runtime);
        }
        work.session = with_session.then(SessionId::random);
        (work.puts, work.cpu) = (0, Duration::ZERO);
        work
    }

    /// Applies a batch of puts to keys that are there. Returns the processor time.
    fn round(&mut self, runtime: &Runtime) -> Duration {
        let entries = (self.next..self.next + BATCH).map(|index| fixture::entry(index, &self.command(index)));
        let entries = entries.collect();
        self.next += BATCH;
        let before = cpu_time();
        runtime.block_on(fixture::apply(&mut self.state, entries));
        let cpu = cpu_time() - before;
        self.puts += BATCH;
        self.cpu += cpu;
        cpu
    }

    fn command(&self, index: u64) -> Command {
        let session = self.session.map(|id| SessionTag { id, sequence: index, since: Revision(0) });
        Command { session, ..fixture::put(index % KEYS) }
    }
}
