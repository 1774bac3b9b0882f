//! Many seeds on several threads, and what they come to.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aspen::planted::Bug;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::runner::{self, Report};
use crate::scenario::Scenario;
use crate::world::lock;

/// Which seeds to run, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed.
    pub from: u64,
    /// How many, at most.
    pub seeds: u64,
    /// When to stop, whatever is left.
    pub until: Option<Instant>,
    /// Threads at a time.
    pub jobs: usize,
    /// Whether the first failure ends it.
    pub stops_at_failure: bool,
}

/// What all runs of a plan come to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub seeds: u64,
    /// Virtual time of all.
    pub virtual_time: Duration,
    /// Events in all traces.
    pub events: u64,
    /// Answers that were checked.
    pub checked: u64,
    /// All figures.
    pub figures: BTreeMap<String, u64>,
    /// Seeds that failed, with their invariants.
    pub failures: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.virtual_time += report.virtual_time;
        self.events += report.events;
        self.checked += report.checked;
        for (name, count) in &report.figures {
            *self.figures.entry(name.clone()).or_default() += count;
        }
        if let Some(violation) = &report.violation {
            self.failures.push((report.seed, violation.invariant.clone()));
        }
    }

    /// The summary as a table.
    pub fn table(&self, wall: Duration) -> Table {
        let hours = self.virtual_time.as_secs_f64() / 3_600.0;
        let faults: u64 = self.faults().map(|(_, count)| count).sum();
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["", "in all"]);
        table.add_row(["seeds", &self.seeds.to_string()]);
        table.add_row(["seeds that failed", &self.failures.len().to_string()]);
        table.add_row(["virtual hours", &format!("{hours:.1}")]);
        table.add_row(["wall time", &format!("{} s", wall.as_secs())]);
        table.add_row(["events", &self.events.to_string()]);
        table.add_row(["answers checked", &self.checked.to_string()]);
        table.add_row(["faults injected", &faults.to_string()]);
        for (name, count) in &self.figures {
            let is_transport = name.starts_with("aspen_transport");
            if !is_transport {
                table.add_row([format!("  {name}"), count.to_string()]);
            }
        }
        table
    }

    fn faults(&self) -> impl Iterator<Item = (&str, u64)> {
        let faults =
            self.figures.iter().filter_map(|(name, count)| Some((name.strip_prefix("fault: ")?, *count)));
        faults.into_iter()
    }
}

/// Runs a plan. Every report is shown to `see`, in the order in which the runs end.
pub fn run(
    scenario: &'static Scenario,
    plan: Plan,
    bug: Option<Bug>,
    see: impl Fn(&Report) + Sync,
) -> Summary {
    let (next, stop) = (AtomicU64::new(plan.from), AtomicBool::new(false));
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_late = plan.until.is_some_and(|until| Instant::now() >= until);
                    if seed >= plan.from.saturating_add(plan.seeds) || is_late || stop.load(Ordering::Relaxed)
                    {
                        return;
                    }
                    let report = runner::run(scenario, seed, bug);
                    see(&report);
                    lock(&summary).add(&report);
                    if plan.stops_at_failure && report.violation.is_some() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.failures.sort_unstable();
    summary
}
