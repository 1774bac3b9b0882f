//! One node of Aspen: flags, then configuration, then logs, then the node until it is told to stop.

#![deny(missing_docs)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use aspen::config::flags::{Command, Flags};
use aspen::config::{Config, Loaded, Sources};
use aspen::node::{self, Banner, SettingsSource, Surroundings, arenas, care, identity, open_files};
use aspen::transport::ticket::NodeTicket;
use aspen::{limits, metrics, telemetry};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Flags or configuration were refused.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match &flags.command {
        Some(Command::Keygen { out }) => return keygen(out),
        Some(Command::Verify { data_dir, json }) => return finish(care::verify(data_dir, *json)),
        Some(Command::Repair { data_dir, dry_run }) => return finish(care::repair(data_dir, *dry_run)),
        Some(Command::Recover { data_dir, yes }) => return finish(care::recover(data_dir, *yes)),
        None => {}
    }
    let loaded = match load(&flags) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error);
            return ExitCode::from(REFUSED);
        }
    };
    if flags.print_config {
        return say(&loaded.render());
    }
    if flags.check_config {
        return say(&loaded.summary());
    }
    match run(flags, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error's sentence includes that of its cause.
            tracing::error!("the node ends: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(flags: &Flags) -> anyhow::Result<Loaded> {
    let validate_peer =
        |ticket: &str| ticket.parse::<NodeTicket>().map(drop).map_err(|error| error.to_string());
    Ok(Config::load(&Sources { flags, environment: std::env::vars_os().collect(), validate_peer })?)
}

fn keygen(out: &std::path::Path) -> ExitCode {
    match identity::keygen(out) {
        Ok(public_key) => say(&public_key.to_string()),
        Err(error) => {
            complain(&error.into());
            ExitCode::FAILURE
        }
    }
}

/// Prints what an operation on a stopped node's directory has to say.
fn finish(outcome: Result<care::Outcome, care::CareError>) -> ExitCode {
    match outcome {
        Ok(care::Outcome { text, is_well }) => match say(&text) {
            ExitCode::SUCCESS if !is_well => ExitCode::FAILURE,
            printed => printed,
        },
        Err(error) => {
            let code = if error.is_refusal() { ExitCode::from(REFUSED) } else { ExitCode::FAILURE };
            complain(&error.into());
            code
        }
    }
}

fn run(flags: Flags, settings: Loaded) -> anyhow::Result<()> {
    let config = &settings.config;
    let journal_stream = std::env::var("JOURNAL_STREAM").ok();
    let logs = telemetry::init(config.log_format, &config.log_filter, journal_stream.as_deref())?;
    arenas::bound();
    open_files::raise_limit();
    let figures = metrics::install()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < limits::RUNTIME_THREADS_MIN_COUNT)
    {
        runtime.worker_threads(limits::RUNTIME_THREADS_MIN_COUNT);
    }
    let runtime = runtime.enable_all().thread_name("aspen").build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let source = SettingsSource { load: Arc::new(move || load(&flags)), asked: reload_on_signal()? };
        let around = Surroundings { figures, logs, settings, source };
        // On the heap: it holds what a node starts with.
        Box::pin(node::run(around, stop, announce)).await?;
        tracing::info!("the node has stopped");
        anyhow::Ok(())
    });
    // Everything that matters has stopped; a task that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(limits::STOP_TIMEOUT_MS));
    result
}

/// The first signal stops the node in order, a second one at once.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.is_cancelled() {
                tracing::warn!("{name} again: the node ends at once");
                std::process::exit(1);
            }
            tracing::info!("{name}: the node stops");
            stop.cancel();
        }
    });
    Ok(())
}

/// SIGHUP asks for the settings to be read again.
fn reload_on_signal() -> anyhow::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            told.notify_one();
        }
    });
    Ok(asked)
}

fn announce(banner: &Banner) {
    // Whoever started the node may have closed its output; that is no reason to stop.
    write!(std::io::stdout().lock(), "{banner}").ok();
    tracing::info!(node_id = %banner.peer.node_id, http_addr = %banner.http_addr, "the node is up: {}", banner.status.detail);
}

fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(error: &anyhow::Error) {
    writeln!(std::io::stderr().lock(), "aspen-node: {error}").ok();
}
