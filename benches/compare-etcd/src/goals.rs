//! What is aimed at beside etcd, and how far a run is from it.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::cell::{Measured, Pair};
use crate::table::median;

/// Clients of the loads that have goals.
const CLIENTS: [usize; 4] = [1, 16, 64, 256];

/// Goals by load, each a ratio of Aspen's figure to etcd's.
const GOALS: [Goal; 4] = [
    Goal { name: "put, operations a second", mix: "put", bound: Bound::AtLeast([2.0, 2.0, 2.0, 2.0]) },
    Goal { name: "put, p99", mix: "put", bound: Bound::P99AtMost([0.7, 0.7, 0.6, 0.6]) },
    Goal { name: "linearizable get", mix: "get", bound: Bound::AtLeast([2.0, 2.0, 2.0, 2.0]) },
    Goal { name: "stale get", mix: "stale-get", bound: Bound::AtLeast([2.0, 2.0, 3.0, 3.0]) },
];

/// Processor time of a put of 256 clients on all nodes together.
const PUT_CPU_MAX_US: f64 = 70.0;

/// One client's put, as a multiple of one fsync and one round trip over loopback.
const PUT_MULTIPLE_MAX: f64 = 2.5;

struct Goal {
    name: &'static str,
    mix: &'static str,
    bound: Bound,
}

/// Ratios by number of clients.
enum Bound {
    /// Of operations a second.
    AtLeast([f64; 4]),
    /// Of the 99th percentile of latencies.
    P99AtMost([f64; 4]),
}

impl Goal {
    /// Its row: each ratio, bold where the goal is met.
    fn row(&self, pairs: &[Pair]) -> Vec<String> {
        let cells = CLIENTS.iter().enumerate().map(|(at, clients)| {
            let pair = pairs.iter().find(|pair| pair.cell.is_plain(self.mix, *clients))?;
            let (ratio, is_met) = self.bound.judge(pair, at);
            Some(shown(format!("{ratio:.2}"), is_met))
        });
        let cells = cells.map(|cell| cell.unwrap_or_else(|| "not measured".to_owned()));
        std::iter::once(format!("{}, {}", self.name, self.bound)).chain(cells).collect()
    }
}

impl Bound {
    fn judge(&self, pair: &Pair, at: usize) -> (f64, bool) {
        let ratio = |of: fn(&Measured) -> f64| median(&pair.aspen, of) / median(&pair.etcd, of);
        match self {
            Self::AtLeast(bounds) => {
                let ratio = ratio(|measured| measured.ops_per_s);
                (ratio, ratio >= bounds[at])
            }
            Self::P99AtMost(bounds) => {
                let ratio = ratio(|measured| measured.p99_ms);
                (ratio, ratio <= bounds[at])
            }
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (words, bounds) = match self {
            Self::AtLeast(bounds) => ("at least", bounds),
            Self::P99AtMost(bounds) => ("at most", bounds),
        };
        let mut texts: Vec<String> = bounds.iter().map(|bound| format!("{bound:.1}")).collect();
        texts.dedup();
        // All of them, unless they are one.
        if texts.len() > 1 {
            texts = bounds.iter().map(|bound| format!("{bound:.1}")).collect();
        }
        write!(f, "{words} {}", texts.join(", "))
    }
}

/// Where a run stands, one row a goal.
pub fn table(pairs: &[Pair]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(std::iter::once("clients".to_owned()).chain(CLIENTS.map(|clients| clients.to_string())));
    for goal in &GOALS {
        table.add_row(goal.row(pairs));
    }
    table
}

/// Goals that etcd has no part in, a line each. `least_put` is one fsync and one round trip of this machine.
pub fn lines(pairs: &[Pair], least_put: Duration) -> [String; 2] {
    let put = |clients, of: fn(&Measured) -> f64| {
        let pair = pairs.iter().find(|pair| pair.cell.is_plain("put", clients))?;
        Some(median(&pair.aspen, of))
    };
    let judged = |figure: Option<f64>, digits: usize, unit: &str, most: f64| {
        let Some(figure) = figure else { return "not measured".to_owned() };
        shown(format!("{figure:.digits$}{unit}"), figure <= most)
    };
    let cpu_us = put(256, |measured| measured.cpu_us_per_op);
    // One client has one put under way.
    let multiple = put(1, |measured| 1.0 / measured.ops_per_s).map(|put_s| put_s / least_put.as_secs_f64());
    [
        format!(
            "Processor time of a put of 256 clients, on all nodes together, at most {PUT_CPU_MAX_US:.0} us: {}.",
            judged(cpu_us, 0, " us", PUT_CPU_MAX_US)
        ),
        format!(
            "One client's put, as a multiple of one fsync and one round trip over loopback, at most {PUT_MULTIPLE_MAX:.1}: {}.",
            judged(multiple, 1, "", PUT_MULTIPLE_MAX)
        ),
    ]
}

fn shown(figure: String, is_met: bool) -> String {
    if is_met { format!("**{figure}**") } else { figure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell;

    fn pair(mix: &str, clients: usize, aspen: [(f64, f64, f64); 3], etcd: (f64, f64)) -> Pair {
        let cell = cell::grid(true).into_iter().find(|cell| cell.is_plain(mix, clients));
        let mut pair = Pair::new(cell.expect("the grid has every load that has a goal"));
        let measured = |(ops_per_s, p99_ms, cpu_us_per_op)| Measured { ops_per_s, p99_ms, cpu_us_per_op };
        pair.aspen = aspen.map(measured).into();
        pair.etcd = vec![measured((etcd.0, etcd.1, 0.0))];
        pair
    }

    fn rows(pairs: &[Pair]) -> Vec<Vec<String>> {
        GOALS.iter().map(|goal| goal.row(pairs)).collect()
    }

    #[test]
    fn a_ratio_is_of_medians_and_bold_from_its_goal_on() {
        let runs = |ops, p99| [(ops, p99, 60.0), (ops * 9.0, p99 * 9.0, 80.0), (1.0, 0.1, 71.0)];
        let pairs = [
            pair("put", 1, runs(2_000.0, 0.7), (1_000.0, 1.0)),
            pair("put", 64, runs(1_999.0, 0.61), (1_000.0, 1.0)),
            pair("stale-get", 64, runs(2_500.0, 1.0), (1_000.0, 1.0)),
            pair("stale-get", 256, runs(3_000.0, 1.0), (1_000.0, 1.0)),
        ];
        let none = "not measured";
        assert_eq!(
            rows(&pairs),
            [
                ["put, operations a second, at least 2.0", "**2.00**", none, "2.00", none],
                ["put, p99, at most 0.7, 0.7, 0.6, 0.6", "**0.70**", none, "0.61", none],
                ["linearizable get, at least 2.0", none, none, none, none],
                ["stale get, at least 2.0, 2.0, 3.0, 3.0", none, none, "2.50", "**3.00**"],
            ]
        );
    }

    #[test]
    fn what_a_put_takes_is_related_to_the_machine() {
        let runs = |ops_per_s, cpu_us| [(ops_per_s, 1.0, cpu_us); 3];
        let pairs = [
            pair("put", 1, runs(2_000.0, 900.0), (1.0, 1.0)),
            pair("put", 256, runs(9_000.0, 168.4), (1.0, 1.0)),
        ];
        // 500 us each, of which the machine needs 200.
        let [cpu, multiple] = lines(&pairs, Duration::from_micros(200));
        assert!(cpu.ends_with("at most 70 us: 168 us."), "{cpu}");
        assert!(multiple.ends_with("at most 2.5: **2.5**."), "{multiple}");
        let [_, multiple] = lines(&pairs, Duration::from_micros(100));
        assert!(multiple.ends_with("at most 2.5: 5.0."), "{multiple}");
        assert!(lines(&[], Duration::from_micros(1)).iter().all(|line| line.ends_with(": not measured.")));
    }

    #[test]
    fn every_load_with_a_goal_is_in_both_grids() {
        for quick in [true, false] {
            let grid = cell::grid(quick);
            for (goal, clients) in GOALS.iter().flat_map(|goal| CLIENTS.map(|clients| (goal, clients))) {
                let found = grid.iter().filter(|cell| cell.is_plain(goal.mix, clients)).count();
                assert_eq!(found, 1, "{}, {clients} clients", goal.name);
            }
        }
    }
}
