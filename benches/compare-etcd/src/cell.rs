//! One cell of the grid: a load, and what both stores did with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use aspen::bench::load::{self, Done};
use aspen::bench::report::Report;
use aspen::bench::{Mix, Plan, Target};

/// Before each measurement, so that it begins in the middle of the load.
const WARMUP: Duration = Duration::from_millis(700);

/// A load.
#[derive(Clone, Debug)]
pub struct Cell {
    pub mix: &'static str,
    pub clients: usize,
    pub value_bytes: usize,
    pub keys: u64,
    /// What the keys begin with, if it matters.
    pub key_prefix: Option<&'static str>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} clients, {} B", self.mix, self.clients, self.value_bytes)?;
        if self.keys == FEW_KEYS { Ok(()) } else { write!(f, ", {} keys", self.keys) }
    }
}

const FEW_KEYS: u64 = 10_000;
const SMALL_VALUE_BYTES: usize = 256;

/// The cells of a whole run, or of a quick one.
pub fn grid(quick: bool) -> Vec<Cell> {
    let cell = |mix, clients| Cell {
        mix,
        clients,
        value_bytes: SMALL_VALUE_BYTES,
        keys: FEW_KEYS,
        key_prefix: None,
    };
    let mut cells: Vec<Cell> = ["put", "get", "stale-get"]
        .into_iter()
        .flat_map(|mix| [1, 16, 64, 256].map(|clients| cell(mix, clients)))
        .collect();
    cells.push(cell("put=10,get=90", 64));
    if !quick {
        cells.push(Cell { value_bytes: 4_096, ..cell("put", 64) });
        cells.extend(["put", "get"].map(|mix| Cell { keys: 1_000_000, ..cell(mix, 64) }));
    }
    cells
}

impl Cell {
    fn plan(&self, seconds: u64) -> Plan {
        Plan {
            clients: self.clients,
            connections: self.clients,
            mix: self.mix.parse::<Mix>().expect("the grid has mixes"),
            value_bytes: self.value_bytes,
            keys: self.keys,
            key_prefix: self
                .key_prefix
                .map_or_else(|| format!("compare/{}/{}/", self.keys, self.value_bytes), ToOwned::to_owned),
            warmup: WARMUP,
            duration: Duration::from_secs(seconds),
            rate: None,
            seed: 1,
        }
    }

    /// Whether it is this load with small values and few keys, as most of the grid is.
    pub fn is_plain(&self, mix: &str, clients: usize) -> bool {
        (self.mix, self.clients, self.value_bytes, self.keys) == (mix, clients, SMALL_VALUE_BYTES, FEW_KEYS)
    }

    /// Whether its keys are to be there before it runs.
    pub fn reads_what_is_there(&self) -> bool {
        self.plan(0).mix.reads() || self.keys != FEW_KEYS
    }

    /// Sets every key that the load may read.
    pub async fn preload<T: Target>(&self, target: &Arc<T>) -> anyhow::Result<()> {
        let plan = self.plan(0);
        let preloaded = load::preload(target.clone(), &Plan { clients: 64, ..plan }, Arc::default()).await;
        preloaded.with_context(|| format!("{self}: {} keys to be set", self.keys))?;
        Ok(())
    }
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub ops_per_s: f64,
    pub p99_ms: f64,
    pub cpu_us_per_op: f64,
}

impl Measured {
    /// Puts the load on a store.
    pub async fn of<T: Target>(
        cell: &Cell,
        target: &Arc<T>,
        seconds: u64,
        cpu_s: impl Fn() -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        let plan = cell.plan(seconds);
        let (mut from, mut to) = (None, None);
        let done = Arc::new(Done::default());
        let run = load::run(
            target.clone(),
            &plan,
            done,
            async || from = Some(cpu_s()),
            async || {
                to = Some(cpu_s());
            },
        );
        let outcome = run.await?;
        let (from, to) = (from.ok_or_else(unmeasured)??, to.ok_or_else(unmeasured)??);
        let report = Report::new(&plan, &outcome, Some(to - from));
        if let Some(error) = report.first_error {
            return Err(anyhow!("{cell}: {} operations failed; the first: {error}", report.errors));
        }
        let p99_ms = outcome.latency_us().value_at_quantile(0.99) as f64 / 1_000.0;
        let cpu_us_per_op = report.server_cpu_us_per_op.unwrap_or(0.0);
        Ok(Self { ops_per_s: report.ops_per_s, p99_ms, cpu_us_per_op })
    }
}

fn unmeasured() -> anyhow::Error {
    anyhow!("the run ended without measuring")
}

/// A cell with the runs on both stores.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cell: Cell,
    pub aspen: Vec<Measured>,
    pub etcd: Vec<Measured>,
}

impl Pair {
    pub fn new(cell: Cell) -> Self {
        Self { cell, aspen: Vec::new(), etcd: Vec::new() }
    }

    /// Whether it has a run on each store.
    pub fn is_measured(&self) -> bool {
        !self.aspen.is_empty() && !self.etcd.is_empty()
    }
}
