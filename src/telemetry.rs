//! Logs: to the journal under systemd, as text or JSON on stderr elsewhere.
//!
//! It must never write to stdout, which belongs to `--print-config` and its like, and never make an
//! idle node talk: libraries are at `warn` by default.

pub mod recent;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Deserialize;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use self::recent::RecentProblems;

/// What is logged unless settings say otherwise: everything of Aspen's that an operator should know,
/// and of libraries what is wrong. openraft and ractor_cluster warn of each lost connection again and again,
/// which the transport has said once already. The server of relays has an error of each connection that brings
/// nonsense.
pub const DEFAULT_FILTER: &str = "warn,aspen=info,aspen_node=info,openraft=error,ractor_cluster=error,iroh=error,iroh::socket=off,iroh_relay::server=off,noq_proto=error";

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To the journal with fields where stderr leads to it, else as text.
    Auto,
    /// As text on stderr.
    Text,
    /// As JSON on stderr, one object a line.
    Json,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error("the log filter '{filter}' is refused: {source}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process has a log already.
    #[error("logs are set up already: {0}")]
    AlreadyInstalled(#[from] TryInitError),
    /// The log that the filter belonged to is gone.
    #[error("the log filter cannot be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Changes what is logged while the node runs, and remembers what went wrong.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: Arc<str>,
    in_force: Arc<Mutex<String>>,
    problems: RecentProblems,
}

impl LogControl {
    /// The control of a log that begins with a filter.
    fn new(handle: reload::Handle<EnvFilter, Registry>, configured: &str, problems: RecentProblems) -> Self {
        let in_force = Arc::new(Mutex::new(configured.to_owned()));
        Self { handle, configured: configured.into(), in_force, problems }
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.in_force().clone()
    }

    /// Logs by another filter from here on, or by the configured one if none is given. Returns the one in
    /// force now, and the one before.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if it makes no sense. The one before then stays.
    pub fn set_filter(&self, filter: Option<&str>) -> Result<(String, String), TelemetryError> {
        let filter = filter.unwrap_or(&self.configured);
        let parsed = filter_of(filter)?;
        let mut in_force = self.in_force();
        self.handle.reload(parsed)?;
        let before = std::mem::replace(&mut *in_force, filter.to_owned());
        Ok((filter.to_owned(), before))
    }

    /// The newest warnings and errors.
    pub fn problems(&self) -> &RecentProblems {
        &self.problems
    }

    fn in_force(&self) -> MutexGuard<'_, String> {
        self.in_force.lock().expect("no code panics while it holds this lock")
    }
}

/// Reads a filter, such as `info,aspen::transport=debug`.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}

fn filter_of(filter: &str) -> Result<EnvFilter, TelemetryError> {
    parse_filter(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

/// Sets the process's logs up. `journal_stream` is `$JOURNAL_STREAM`, by which systemd says where it
/// led stderr.
pub fn init(
    format: LogFormat,
    filter: &str,
    journal_stream: Option<&str>,
) -> Result<LogControl, TelemetryError> {
    let (layer, handle) = reload::Layer::new(filter_of(filter)?);
    let problems = RecentProblems::default();
    let outputs = output(format, journal_stream).and_then(problems.clone());
    tracing_subscriber::registry().with(layer.and_then(outputs)).try_init()?;
    Ok(LogControl::new(handle, filter, problems))
}

fn output(format: LogFormat, journal_stream: Option<&str>) -> Box<dyn Layer<Registry> + Send + Sync> {
    let text = || {
        let stderr = io::stderr();
        tracing_subscriber::fmt::layer().with_ansi(stderr.is_terminal()).with_writer(io::stderr).boxed()
    };
    match format {
        LogFormat::Text => text(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(io::stderr).boxed(),
        LogFormat::Auto if journal_stream.is_some_and(leads_to_stderr) => match tracing_journald::layer() {
            Ok(journal) => journal.boxed(),
            // A sandbox may hide the journal's socket; its stream still takes text.
            Err(_) => text(),
        },
        LogFormat::Auto => text(),
    }
}

/// Whether stderr still is the stream that systemd opened, and was not led elsewhere since.
fn leads_to_stderr(journal_stream: &str) -> bool {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    File::from(stderr).metadata().is_ok_and(|metadata| names(journal_stream, metadata.dev(), metadata.ino()))
}

/// Whether `device:inode` names that file.
fn names(journal_stream: &str, device: u64, inode: u64) -> bool {
    journal_stream
        .split_once(':')
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_one() {
        assert!(parse_filter(DEFAULT_FILTER).is_ok());
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused_with_its_text() {
        let error = filter_of("aspen=loud").unwrap_err();
        assert!(error.to_string().contains("aspen=loud"), "{error}");
    }

    #[test]
    fn the_journal_is_used_only_for_the_stream_that_systemd_named() {
        assert!(names("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", "8:1234:5", "x:y"] {
            assert!(!names(other, 8, 1234), "{other}");
        }
    }

    #[test]
    fn the_filter_can_be_changed_while_it_runs() {
        let (filter, handle) = reload::Layer::new(parse_filter("error").unwrap());
        let _guard = tracing_subscriber::registry().with(filter).set_default();
        let control = LogControl::new(handle, "error", RecentProblems::default());
        assert!(!tracing::enabled!(tracing::Level::INFO));
        assert_eq!(control.set_filter(Some("info")).unwrap(), ("info".to_owned(), "error".to_owned()));
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(control.set_filter(Some("aspen=loud")).is_err());
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert_eq!(control.filter(), "info");
        assert_eq!(control.set_filter(None).unwrap(), ("error".to_owned(), "info".to_owned()));
        assert!(!tracing::enabled!(tracing::Level::INFO));
    }
}
