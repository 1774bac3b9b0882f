//! Puts the same load on three nodes of Aspen and on three of etcd, in turn, on one machine, and prints how
//! they compare.
//!
//! Both write to the same disk with fsync on, both are asked through all three nodes, and the runs alternate,
//! so that a busy neighbour troubles both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use compare_etcd::cell::{self, Cell, Measured, Pair};
use compare_etcd::store::aspen::AspenCluster;
use compare_etcd::store::etcd::EtcdCluster;
use compare_etcd::{machine, table};
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
    /// The program etcd.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::select! {
        done = compare(&arguments) => done,
        // What was started is stopped when it is dropped.
        _ = tokio::signal::ctrl_c() => bail!("interrupted; all servers are stopped"),
    }
}

async fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("compare-etcd.").tempdir_in(&arguments.data_dir);
    let dir = dir.with_context(|| format!("no directory in {}", arguments.data_dir.display()))?;
    println!("{}", machine::Figures::measure(dir.path())?);

    let cells: Vec<Cell> = cell::grid(arguments.quick)
        .into_iter()
        .filter(|cell| arguments.only.as_ref().is_none_or(|only| cell.to_string().contains(only)))
        .collect();
    if cells.is_empty() {
        let names: Vec<String> = cell::grid(arguments.quick).iter().map(ToString::to_string).collect();
        bail!("no cell is called like that. Cells: {}", names.join("; "));
    }
    let (rounds, seconds) = if arguments.quick { (2, 2) } else { (3, 5) };
    let (rounds, seconds) = (arguments.rounds.unwrap_or(rounds), arguments.seconds.unwrap_or(seconds));
    let (aspen, etcd) = start(arguments, dir.path()).await?;
    let bar = progress(cells.len() * rounds * 2);
    let (mut pairs, mut filled) = (Vec::new(), BTreeSet::new());
    for cell in cells {
        let mut pair = Pair::new(cell);
        if pair.cell.reads_what_is_there() && filled.insert((pair.cell.keys, pair.cell.value_bytes)) {
            bar.set_message(format!("{}, {} keys are set", pair.cell, pair.cell.keys));
            pair.cell.preload(&aspen.target().await?).await?;
            pair.cell.preload(&etcd.target().await?).await?;
        }
        for _ in 0..rounds {
            bar.set_message(format!("{}, Aspen", pair.cell));
            pair.aspen
                .push(Measured::of(&pair.cell, &aspen.target().await?, seconds, || aspen.cpu_s()).await?);
            bar.inc(1);
            bar.set_message(format!("{}, etcd", pair.cell));
            pair.etcd.push(Measured::of(&pair.cell, &etcd.target().await?, seconds, || etcd.cpu_s()).await?);
            bar.inc(1);
        }
        pairs.push(pair);
    }
    bar.finish_and_clear();
    println!("{}", table::table(&pairs));
    println!(
        "{rounds} runs of {seconds} s on each store in turn; ratios are of medians, with the least and greatest of the pairs."
    );
    Ok(())
}

async fn start(arguments: &Arguments, dir: &Path) -> anyhow::Result<(AspenCluster, EtcdCluster)> {
    let aspen = AspenCluster::start(&arguments.aspen, &dir.join("aspen")).await?;
    let etcd = EtcdCluster::start(&arguments.etcd, &dir.join("etcd")).await?;
    Ok((aspen, etcd))
}

fn progress(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar
}
