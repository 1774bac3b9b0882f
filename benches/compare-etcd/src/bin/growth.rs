//! How Aspen behaves as it grows: clusters of three and of five nodes with few and with millions of keys.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use compare_etcd::cell::{Cell, Measured};
use compare_etcd::interrupt::unless_stopped;
use compare_etcd::machine;
use compare_etcd::process::Process;
use compare_etcd::store::aspen::AspenCluster;

/// What the program that fills a data directory calls its keys, and `aspen bench` too.
const KEY_PREFIX: &str = "bench/";

/// Clients of every load.
const CLIENTS: usize = 64;

/// Measures clusters of several sizes.
#[derive(Parser)]
#[command(name = "growth.sh")]
struct Arguments {
    /// Numbers of keys.
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000,5000000")]
    keys: Vec<u64>,
    /// Numbers of nodes, in ascending order.
    #[arg(long, value_delimiter = ',', default_value = "3,5")]
    nodes: Vec<usize>,
    /// Seconds of each load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the nodes keep their data while this runs; each needs 1 kB a key.
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
    /// The directory with aspen-node, aspen and examples/fill.
    #[arg(long)]
    aspen: PathBuf,
}

/// What was measured of one size.
struct Row {
    keys: u64,
    nodes: usize,
    put: Measured,
    get: Measured,
    memory_max_bytes: u64,
    disk_bytes: u64,
    start: Duration,
    snapshot: String,
    caught_up: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.nodes.is_sorted() && !arguments.nodes.contains(&0),
        "--nodes must ascend from 1 or more"
    );
    let dir = tempfile::Builder::new().prefix("growth.").tempdir_in(&arguments.data_dir)?;
    let mut rows = Vec::new();
    let measured = unless_stopped(measure(&arguments, dir.path(), &mut rows)).await;
    // Also where a later size failed: the others took their time.
    println!("{}", table(&rows));
    println!(
        "{CLIENTS} clients at all nodes, values of 256 B, {} s a load. Start: kill -9 until a node serves. Catch \
         up: a new node, from its admission to its vote.",
        arguments.seconds
    );
    measured
}

async fn measure(arguments: &Arguments, dir: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    println!("{}", machine::Figures::measure(dir)?);
    for keys in &arguments.keys {
        let dir = dir.join(keys.to_string());
        eprintln!("{keys} keys: filling");
        let snapshot = fill(arguments, &dir, *keys).await?;
        let mut cluster = AspenCluster::alone(&arguments.aspen, &dir).await?;
        for nodes in &arguments.nodes {
            eprintln!("{keys} keys: {nodes} nodes");
            let caught_up = cluster.grow_to(*nodes).await?;
            let load = |mix| Cell {
                mix,
                clients: CLIENTS,
                value_bytes: 256,
                keys: *keys,
                key_prefix: Some(KEY_PREFIX),
            };
            let target = cluster.target().await?;
            let put = Measured::of(&load("put"), &target, arguments.seconds, || cluster.cpu_s()).await?;
            let get = Measured::of(&load("get"), &target, arguments.seconds, || cluster.cpu_s()).await?;
            let memory_max_bytes = cluster.memory_max_bytes()?;
            let disk_bytes = disk_bytes(&AspenCluster::data_dir(&dir, 1))?;
            let start = cluster.crash(*nodes).await?;
            rows.push(Row {
                keys: *keys,
                nodes: *nodes,
                put,
                get,
                memory_max_bytes,
                disk_bytes,
                start,
                snapshot: snapshot.clone(),
                caught_up,
            });
        }
        drop(cluster);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Fills the directory of the first node. Returns what its snapshot took.
async fn fill(arguments: &Arguments, dir: &Path, keys: u64) -> anyhow::Result<String> {
    AspenCluster::alone(&arguments.aspen, dir).await?.stop().await?;
    let fill = arguments.aspen.join("examples/fill");
    let its_arguments = [AspenCluster::data_dir(dir, 1).display().to_string(), keys.to_string()];
    let filled = Process::start(&fill, &its_arguments, dir.join("fill.log"))?.finish().await;
    let said = filled.context("the data directory could not be filled")?;
    let snapshot = said.lines().find_map(|line| line.strip_prefix("a snapshot of "));
    Ok(snapshot.context("it does not say what its snapshot took")?.to_owned())
}

/// What a node's files take.
fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let began = Instant::now();
    loop {
        let sizes = walk(dir);
        match sizes {
            Ok(bytes) => return Ok(bytes),
            // A snapshot that is replaced vanishes while its directory is read.
            Err(error) if began.elapsed() > Duration::from_secs(1) => return Err(error.into()),
            Err(_) => {}
        }
    }
}

fn walk(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { walk(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "keys",
        "nodes",
        "put/s",
        "put p99 ms",
        "get/s",
        "get p99 ms",
        "memory MB, at most",
        "disk B/key",
        "start s",
        "snapshot",
        "catch up s",
    ]);
    for row in rows {
        let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
        table.add_row([
            row.keys.to_string(),
            row.nodes.to_string(),
            format!("{:.0}", row.put.ops_per_s),
            format!("{:.2}", row.put.p99_ms),
            format!("{:.0}", row.get.ops_per_s),
            format!("{:.2}", row.get.p99_ms),
            format!("{}", row.memory_max_bytes / 1_000_000),
            format!("{}", row.disk_bytes / row.keys),
            seconds(row.start),
            row.snapshot.clone(),
            seconds(row.caught_up),
        ]);
    }
    table
}
