//! Puts load on three nodes of Aspen and says where the processor's microseconds of one operation go.
//!
//! Each load runs twice: once to measure it, and once under `perf`, whose samples are sorted by component.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use compare_etcd::cell::{Cell, Measured};
use compare_etcd::components::{self, Profile};
use compare_etcd::interrupt::unless_stopped;
use compare_etcd::machine;
use compare_etcd::store::aspen::AspenCluster;
use tokio::process::{Child, Command};

/// Samples a second of each processor.
const SAMPLE_HZ: u32 = 999;

/// Bytes of the stack that are kept with a sample, to find the callers in.
const STACK_BYTES: u32 = 16_384;

/// Says where the microseconds of an operation go.
#[derive(Parser)]
#[command(name = "profile.sh")]
struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the nodes keep their data while this runs.
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
    /// The directory with aspen-node and aspen.
    #[arg(long)]
    aspen: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::Builder::new().prefix("profile.").tempdir_in(&arguments.data_dir)?;
    unless_stopped(profile(&arguments, dir.path())).await
}

async fn profile(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    println!("{}", machine::Figures::measure(dir)?);
    let aspen = AspenCluster::start(&arguments.aspen, &dir.join("aspen")).await?;
    let cell = |mix, clients| Cell { mix, clients, value_bytes: 256, keys: 10_000, key_prefix: None };
    let cells = [cell("put", 1), cell("put", 256), cell("get", 64), cell("stale-get", 64)];
    let mut columns = Vec::new();
    for cell in cells {
        if cell.reads_what_is_there() {
            cell.preload(&aspen.target().await?).await?;
        }
        let target = aspen.target().await?;
        let measured = Measured::of(&cell, &target, arguments.seconds, || aspen.cpu_s()).await?;
        let recording = Recording::start(&aspen.pids()?, &dir.join("perf.data"), arguments.seconds)?;
        Measured::of(&cell, &target, arguments.seconds, || aspen.cpu_s()).await?;
        columns.push((cell, measured, recording.finish().await?));
    }
    println!("{}", table(&columns));
    println!("Microseconds of processor time an operation, of all three nodes together.");
    Ok(())
}

/// `perf` at work. It stops by itself, and at the latest with this.
struct Recording {
    perf: Child,
    data: PathBuf,
}

impl Recording {
    fn start(pids: &[u32], data: &Path, seconds: u64) -> anyhow::Result<Self> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["record", "--quiet", "-e", "cpu-clock", "-F", &SAMPLE_HZ.to_string()])
            .args(["--call-graph", &format!("dwarf,{STACK_BYTES}"), "-p", &pids.join(","), "-o"])
            .arg(data)
            .args(["--", "sleep", &seconds.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("perf does not start; Debian has it in linux-perf")?;
        Ok(Self { perf, data: data.to_owned() })
    }

    async fn finish(mut self) -> anyhow::Result<Profile> {
        let recorded = self.perf.wait().await?;
        ensure!(
            recorded.success(),
            "perf record failed: {recorded}. It needs root, or kernel.perf_event_paranoid=1"
        );
        let mut script = Command::new("perf")
            .args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"])
            .arg(&self.data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let text = script.stdout.take().context("its output is a pipe")?.into_owned_fd()?;
        // On a thread of its own, so that a signal is heard meanwhile: it ends perf, and that the text.
        let text = BufReader::new(File::from(text));
        let profile = tokio::task::spawn_blocking(move || Profile::read(text)).await??;
        let read = script.wait().await?;
        ensure!(
            read.success() && profile.samples() > 0,
            "perf script gave {} samples: {read}",
            profile.samples()
        );
        Ok(profile)
    }
}

fn table(columns: &[(Cell, Measured, Profile)]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let names = columns.iter().map(|(cell, ..)| format!("{}, {} clients", cell.mix, cell.clients));
    table.set_header(std::iter::once("component".to_owned()).chain(names));
    for component in components::all() {
        let figures = columns.iter().map(|(_, measured, profile)| {
            format!("{:.1}", measured.cpu_us_per_op * profile.share(component))
        });
        table.add_row(std::iter::once(component.to_owned()).chain(figures));
    }
    let all = columns.iter().map(|(_, measured, _)| format!("{:.1}", measured.cpu_us_per_op));
    table.add_row(std::iter::once("in all".to_owned()).chain(all));
    let ops = columns.iter().map(|(_, measured, _)| format!("{:.0}", measured.ops_per_s));
    table.add_row(std::iter::once("operations a second".to_owned()).chain(ops));
    table
}
