//! The speed of the storage: `cargo bench --bench storage`, about five minutes.
//!
//! Disks and neighbours differ, so what has a target is a ratio within this run, or time on the
//! processor. The table at the end has the figures; files are made under `target/tmp`, because a
//! temporary directory in memory would make every sync free.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends where it cannot go on"
)]

mod append;
mod apply;
mod during_snapshot;
mod figures;
mod fixture;
mod shrink;
mod snapshot;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    let mut table = figures::Table::default();
    append::measure(&mut criterion, &mut table);
    apply::measure(&mut criterion, &mut table);
    snapshot::measure(&mut criterion, &mut table);
    during_snapshot::measure(&mut criterion, &mut table);
    shrink::measure(&mut criterion, &mut table);
    criterion.final_summary();
    table.print();
}
