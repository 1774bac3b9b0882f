//! The comparison as a table.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::cell::{Measured, Pair};

/// One row a cell.
pub fn table(pairs: &[Pair]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "load",
        "Aspen op/s",
        "etcd op/s",
        "ratio (spread)",
        "Aspen p99 ms",
        "etcd p99 ms",
        "ratio (spread)",
        "Aspen CPU µs/op",
        "etcd CPU µs/op",
    ]);
    for pair in pairs {
        let ops = |measured: &Measured| measured.ops_per_s;
        let p99 = |measured: &Measured| measured.p99_ms;
        let cpu = |measured: &Measured| measured.cpu_us_per_op;
        table.add_row([
            pair.cell.to_string(),
            format!("{:.0}", median(&pair.aspen, ops)),
            format!("{:.0}", median(&pair.etcd, ops)),
            ratio(pair, ops),
            format!("{:.2}", median(&pair.aspen, p99)),
            format!("{:.2}", median(&pair.etcd, p99)),
            ratio(pair, p99),
            format!("{:.0}", median(&pair.aspen, cpu)),
            format!("{:.0}", median(&pair.etcd, cpu)),
        ]);
    }
    table
}

fn ratio(pair: &Pair, of: impl Fn(&Measured) -> f64 + Copy) -> String {
    let of_medians = median(&pair.aspen, of) / median(&pair.etcd, of);
    let ratios = pair.aspen.iter().zip(&pair.etcd).map(|(aspen, etcd)| of(aspen) / of(etcd));
    let (least, greatest) = ratios
        .fold((f64::INFINITY, 0.0_f64), |(least, greatest), ratio| (least.min(ratio), greatest.max(ratio)));
    format!("{of_medians:.2} ({least:.2}-{greatest:.2})")
}

/// The median of a figure of some runs.
pub(crate) fn median(runs: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
