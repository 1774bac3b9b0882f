//! Logs: to the journal under systemd, as text or JSON on stderr elsewhere.
//!
//! It must never write to stdout, which belongs to `--print-config` and its like, and never make an
//! idle node talk: libraries are at `warn` by default.

mod journal;
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

use self::journal::Journal;
use self::recent::RecentProblems;

/// What is logged unless settings say otherwise: everything of Aspen's that an operator should know,
/// and of libraries what is wrong. openraft and ractor_cluster warn of each lost connection again and again,
/// which the transport has said once already. The server of relays has an error of each connection that brings
/// nonsense.
pub const DEFAULT_FILTER: &str = "warn,aspen=info,aspen_node=info,openraft=error,ractor_cluster=error,iroh=error,iroh::socket=off,iroh_relay::server=off,noq_proto=error,hiqlite=error,hiqlite::init=off";

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
    filters: Arc<Mutex<Filters>>,
    journal: Option<Journal>,
    problems: RecentProblems,
}

#[derive(Debug)]
struct Filters {
    configured: String,
    in_force: String,
}

impl LogControl {
    /// The control of a log that begins with a filter.
    fn new(
        handle: reload::Handle<EnvFilter, Registry>,
        configured: &str,
        journal: Option<Journal>,
        problems: RecentProblems,
    ) -> Self {
        let filters = Filters { configured: configured.to_owned(), in_force: configured.to_owned() };
        Self { handle, filters: Arc::new(Mutex::new(filters)), journal, problems }
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.filters().in_force.clone()
    }

    /// Logs by another filter from here on, or by the configured one if none is given. Returns the one in
    /// force now, and the one before.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if it makes no sense. The one before then stays.
    pub fn set_filter(&self, filter: Option<&str>) -> Result<(String, String), TelemetryError> {
        let mut filters = self.filters();
        let filter = filter.unwrap_or(&filters.configured).to_owned();
        self.handle.reload(filter_of(&filter)?)?;
        let before = std::mem::replace(&mut filters.in_force, filter.clone());
        Ok((filter, before))
    }

    /// Logs by the filter that is configured from here on. Returns the one before.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if it makes no sense. The one before then stays.
    pub fn configure(&self, filter: &str) -> Result<String, TelemetryError> {
        let (_, before) = self.set_filter(Some(filter))?;
        filter.clone_into(&mut self.filters().configured);
        Ok(before)
    }

    /// Has every line in the journal say which node it is of, and in which term.
    pub fn name_node(&self, node_id: u64, term: u64) {
        if let Some(journal) = &self.journal {
            journal.name_node(node_id, term);
        }
    }

    /// The newest warnings and errors.
    pub fn problems(&self) -> &RecentProblems {
        &self.problems
    }

    fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().expect("no code panics while it holds this lock")
    }
}

/// Reads a filter, such as `info,aspen::transport=debug`.
///
/// # Errors
/// [`ParseError`], which says what makes no sense.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}

fn filter_of(filter: &str) -> Result<EnvFilter, TelemetryError> {
    parse_filter(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

/// Sets the process's logs up. `journal_stream` is `$JOURNAL_STREAM`, by which systemd says where it
/// led stderr.
///
/// # Errors
/// [`TelemetryError`], if the filter makes no sense, or the process logs already.
pub fn init(
    format: LogFormat,
    filter: &str,
    journal_stream: Option<&str>,
) -> Result<LogControl, TelemetryError> {
    let (layer, handle) = reload::Layer::new(filter_of(filter)?);
    let problems = RecentProblems::default();
    let (output, journal) = output(format, journal_stream);
    let outputs = output.and_then(problems.clone());
    tracing_subscriber::registry().with(layer.and_then(outputs)).try_init()?;
    Ok(LogControl::new(handle, filter, journal, problems))
}

type Output = Box<dyn Layer<Registry> + Send + Sync>;

fn output(format: LogFormat, journal_stream: Option<&str>) -> (Output, Option<Journal>) {
    let text = || {
        let stderr = io::stderr();
        tracing_subscriber::fmt::layer().with_ansi(stderr.is_terminal()).with_writer(io::stderr).boxed()
    };
    match format {
        LogFormat::Json => (tracing_subscriber::fmt::layer().json().with_writer(io::stderr).boxed(), None),
        LogFormat::Auto if journal_stream.is_some_and(leads_to_stderr) => match journal::open() {
            Ok((layer, journal)) => (layer.boxed(), Some(journal)),
            // A sandbox may hide the journal's socket; its stream still takes text.
            Err(_) => (text(), None),
        },
        LogFormat::Text | LogFormat::Auto => (text(), None),
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
        let control = LogControl::new(handle, "error", None, RecentProblems::default());
        assert!(!tracing::enabled!(tracing::Level::INFO));
        assert_eq!(control.set_filter(Some("info")).unwrap(), ("info".to_owned(), "error".to_owned()));
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert!(control.set_filter(Some("aspen=loud")).is_err());
        assert!(tracing::enabled!(tracing::Level::INFO));
        assert_eq!(control.filter(), "info");
        assert_eq!(control.set_filter(None).unwrap(), ("error".to_owned(), "info".to_owned()));
        assert!(!tracing::enabled!(tracing::Level::INFO));
        assert!(control.configure("aspen=loud").is_err());
        assert_eq!(control.configure("warn").unwrap(), "error");
        control.set_filter(Some("info")).unwrap();
        assert_eq!(control.set_filter(None).unwrap(), ("warn".to_owned(), "info".to_owned()));
    }
}
