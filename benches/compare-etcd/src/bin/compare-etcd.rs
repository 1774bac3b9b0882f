//! Puts the same load on three nodes of Aspen and on three of etcd, in turn, on one machine, and prints how
//! they compare.
//!
//! Both write to the same disk with fsync on, both are asked through all three nodes, and the runs alternate,
//! so that a busy neighbour troubles both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use aspen::limits::HISTORY_DEFAULT_REVISIONS;
use clap::Parser;
use compare_etcd::cell::{self, Cell, Measured, Pair};
use compare_etcd::interrupt::unless_stopped;
use compare_etcd::machine::Figures;
use compare_etcd::store::aspen::AspenCluster;
use compare_etcd::store::etcd::EtcdCluster;
use compare_etcd::{goals, table};
use indicatif::{ProgressBar, ProgressStyle};

/// Compares Aspen with etcd.
#[derive(Parser)]
#[command(name = "compare-etcd.sh")]
struct Arguments {
    /// A smaller grid and shorter runs: less than five minutes.
    #[arg(long)]
    quick: bool,
    /// Only cells whose names contain this, such as "put, 64".
    #[arg(long)]
    only: Option<String>,
    /// How often each cell is measured on each store.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where both keep their data while this runs; on the disk that is meant.
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
    /// The directory with aspen-node and aspen.
    #[arg(long)]
    aspen: PathBuf,
    /// The commit that they were built from, for the reader of the table.
    #[arg(long, default_value = "of an unknown commit")]
    commit: String,
    /// The program etcd.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let cells = cells(&arguments)?;
    let dir = tempfile::Builder::new().prefix("compare-etcd.").tempdir_in(&arguments.data_dir);
    let dir = dir.with_context(|| format!("no directory in {}", arguments.data_dir.display()))?;
    let mut compared = Compared::default();
    let measured = unless_stopped(measure(&arguments, cells, dir.path(), &mut compared)).await;
    // Also where a later load failed: the others took their time.
    print(&arguments, &compared);
    measured
}

/// What there is so far.
#[derive(Default)]
struct Compared {
    machine: Option<Figures>,
    etcd_version: String,
    pairs: Vec<Pair>,
}

fn cells(arguments: &Arguments) -> anyhow::Result<Vec<Cell>> {
    let all = cell::grid(arguments.quick);
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    let is_meant = |cell: &Cell| arguments.only.as_ref().is_none_or(|only| cell.to_string().contains(only));
    let cells: Vec<Cell> = all.into_iter().filter(is_meant).collect();
    ensure!(!cells.is_empty(), "no cell is called like that. Cells: {}", names.join("; "));
    Ok(cells)
}

async fn measure(
    arguments: &Arguments,
    cells: Vec<Cell>,
    dir: &Path,
    compared: &mut Compared,
) -> anyhow::Result<()> {
    let machine = Figures::measure(dir)?;
    println!("{machine}");
    compared.machine = Some(machine);
    let aspen = AspenCluster::start(&arguments.aspen, &dir.join("aspen")).await?;
    let etcd = EtcdCluster::start(&arguments.etcd, &dir.join("etcd")).await?;
    compared.etcd_version = etcd.version().await?;
    let (rounds, seconds) = (arguments.rounds(), arguments.seconds());
    let bar = progress(cells.len() * rounds * 2);
    let mut filled = BTreeSet::new();
    for cell in cells {
        if cell.reads_what_is_there() && filled.insert((cell.keys, cell.value_bytes)) {
            bar.set_message(format!("{cell}, {} keys are set", cell.keys));
            cell.preload(&aspen.target().await?).await?;
            cell.preload(&etcd.target().await?).await?;
        }
        compared.pairs.push(Pair::new(cell));
        let pair = compared.pairs.last_mut().expect("one was put there");
        for _ in 0..rounds {
            bar.set_message(format!("{}, Aspen", pair.cell));
            let target = aspen.target().await?;
            pair.aspen.push(Measured::of(&pair.cell, &target, seconds, || aspen.cpu_s()).await?);
            bar.inc(1);
            bar.set_message(format!("{}, etcd", pair.cell));
            let target = etcd.target().await?;
            pair.etcd.push(Measured::of(&pair.cell, &target, seconds, || etcd.cpu_s()).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(arguments: &Arguments, compared: &Compared) {
    let pairs: Vec<Pair> = compared.pairs.iter().filter(|pair| pair.is_measured()).cloned().collect();
    let Some(machine) = compared.machine.as_ref().filter(|_| !pairs.is_empty()) else { return };
    println!("{}", table::table(&pairs));
    println!(
        "Aspen {}, etcd {}. {} runs of {} s on each store in turn; ratios are of medians, with the least and \
         greatest of the pairs. The first client is at the leader for both, the others are dealt out to all \
         nodes from there. Both keep {HISTORY_DEFAULT_REVISIONS} revisions; etcd drops older ones every five \
         minutes. The p99 of a mix is that of all its operations together.",
        arguments.commit,
        compared.etcd_version,
        arguments.rounds(),
        arguments.seconds(),
    );
    println!("\nWhat is aimed at, as ratios to etcd, and where it stands by this run; bold is met:\n");
    println!("{}\n", goals::table(&pairs));
    println!("{}", goals::lines(&pairs, machine.least_put()).join("\n"));
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 3 })
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 5 })
    }
}

fn progress(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar
}
