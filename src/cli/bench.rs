//! `aspen bench`: puts a cluster under load and says what it did.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use super::args::BenchArgs;
use super::error::{CliError, Exit};
use super::output::Terminal;
use crate::bench::http::{HttpNodes, HttpTarget};
use crate::bench::iroh::IrohTarget;
use crate::bench::load::{self, Done};
use crate::bench::report::{Report, write_histograms};
use crate::bench::{Kind, Plan, Target, cpu};
use crate::config::secret_file;
use crate::limits;
use crate::transport::client::ClientEndpoint;

/// Time between two looks at the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Puts nodes under load over their HTTP API.
pub(super) async fn over_http(
    nodes: HttpNodes,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: BenchArgs,
) -> Result<Exit, CliError> {
    let plan = plan(&args, args.clients);
    let target = HttpTarget::new(nodes.clone(), plan.connections);
    run(target, plan, Some(&nodes), terminal, json, args).await
}

/// Puts nodes under load over iroh. `measured` are the nodes whose processor time counts.
pub(super) async fn over_iroh(
    measured: Option<HttpNodes>,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: BenchArgs,
) -> Result<Exit, CliError> {
    let path = args.key_file.clone().expect("clap asks for --key-file with --iroh");
    let secret_key = secret_file::read(&path, None)?.to_key().ok_or(CliError::NotAKey { path })?;
    let endpoint = ClientEndpoint::open(secret_key, &args.iroh).await?;
    let plan = plan(&args, args.clients.min(limits::BENCH_IROH_CONNECTIONS_COUNT));
    let target = IrohTarget::new(&endpoint, &args.iroh, plan.connections);
    let ended = run(target, plan, measured.as_ref(), terminal, json, args).await;
    // The next process with this key is not to find this one's connections.
    endpoint.close().await;
    ended
}

async fn run<T: Target>(
    target: T,
    plan: Plan,
    measured: Option<&HttpNodes>,
    terminal: &mut Terminal<'_>,
    json: bool,
    args: BenchArgs,
) -> Result<Exit, CliError> {
    let histogram = args.histogram.as_ref().map(|path| File::create(path).map(BufWriter::new));
    let histogram = histogram.transpose().map_err(|source| CliError::OutputFile {
        path: args.histogram.clone().unwrap_or_default(),
        source,
    })?;
    let (target, done) = (Arc::new(target), Arc::new(Done::default()));
    if args.preload || plan.mix.reads() && !args.no_preload {
        let bar = follow("preload", plan.keys, &done, |done| done);
        let set = load::preload(target.clone(), &plan, done.clone()).await;
        drop(bar);
        set.map_err(CliError::Bench)?;
    }

    let done = Arc::new(Done::default());
    let whole = plan.warmup + plan.duration;
    let began = tokio::time::Instant::now();
    let bar = follow("load", u64::try_from(whole.as_millis()).unwrap_or(u64::MAX), &done, move |_| {
        u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
    });
    let (mut cpu_from, mut cpu_to) = (None, None);
    let outcome = load::run(
        target,
        &plan,
        done,
        async || cpu_from = used_s(measured).await,
        async || cpu_to = used_s(measured).await,
    );
    let outcome = outcome.await.map_err(CliError::Bench)?;
    drop(bar);

    let server_cpu_s = cpu_from.zip(cpu_to).map(|(from, to)| to - from);
    let report = Report::new(&plan, &outcome, server_cpu_s);
    if let Some(mut file) = histogram {
        write_histograms(&outcome, &mut file)?;
        file.flush()?;
    }
    if json {
        terminal.json(&report)?;
    } else {
        print(terminal, &report)?;
    }
    Ok(if report.errors > 0 { Exit::Unavailable } else { Exit::Done })
}

/// Processor time of nodes, if they say.
async fn used_s(nodes: Option<&HttpNodes>) -> Option<f64> {
    cpu::used_s(nodes?).await.ok()
}

fn plan(args: &BenchArgs, default_connections: usize) -> Plan {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Plan {
        clients: args.clients,
        connections: args.connections.unwrap_or(default_connections).min(args.clients),
        mix: args.mix.clone(),
        value_bytes: args.value_size,
        keys: args.keys,
        key_prefix: args.key_prefix.clone(),
        warmup: args.warmup,
        duration: args.duration,
        rate: args.rate,
        seed: args.seed.unwrap_or(since_epoch.as_secs()),
    }
}

/// A bar on the standard error, if a person looks at it, until the handle is dropped.
fn follow(
    what: &'static str,
    length: u64,
    done: &Arc<Done>,
    position: impl Fn(u64) -> u64 + Send + 'static,
) -> Option<AbortOnDropHandle<()>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{prefix:8} {bar:40} {percent:>3} %  {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar.set_prefix(what);
    let done = done.clone();
    let task = async move {
        let began = tokio::time::Instant::now();
        let _clear = ClearOnDrop(bar.clone());
        loop {
            let count = done.count();
            bar.set_position(position(count));
            let per_s = count as f64 / began.elapsed().as_secs_f64().max(0.001);
            bar.set_message(format!("{count} operations, {per_s:.0}/s"));
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
    };
    Some(AbortOnDropHandle::new(tokio::spawn(task)))
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn print(terminal: &mut Terminal<'_>, report: &Report) -> Result<(), CliError> {
    terminal.line(&format!(
        "{} clients on {} connections, {}, values of {} B, {} keys, {:.1} s",
        report.clients, report.connections, report.mix, report.value_bytes, report.keys, report.measured_s
    ))?;
    let header = ["OPERATION", "OPS/S", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS", "ERRORS"];
    let rows = report.kinds.iter().map(|kind| {
        let ms = |ms: f64| format!("{ms:.2}");
        vec![
            Kind::name(kind.kind).to_owned(),
            format!("{:.0}", kind.ops_per_s),
            ms(kind.p50_ms),
            ms(kind.p99_ms),
            ms(kind.p999_ms),
            ms(kind.max_ms),
            kind.errors.to_string(),
        ]
    });
    terminal.table(&header, rows)?;
    if report.not_sent > 0 {
        let count = report.not_sent;
        terminal.line(&format!(
            "{count} operations were due and not sent before the end; the latencies have their waits"
        ))?;
    }
    if let Some(cpu_us) = report.server_cpu_us_per_op {
        terminal.line(&format!("{cpu_us:.1} µs of processor time an operation, of the nodes at --addr"))?;
    }
    if let Some(error) = &report.first_error {
        terminal.line(&format!("the first error: {error}"))?;
    }
    Ok(())
}
