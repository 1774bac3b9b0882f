//! Figures for Prometheus: the registry, what is in it, and the process's own.
//!
//! Any module counts with the macros of the crate `metrics`; here the names get their help texts and
//! units. It must never open a socket: the HTTP API serves what [`Metrics::render`] returns.
//!
//! # Tiger Style
//!
//! Samples of histograms pile up until [`Metrics::run_upkeep`] or [`Metrics::render`] folds them into
//! buckets, so one of them must run every
//! [`METRICS_UPKEEP_INTERVAL_MS`](crate::limits::METRICS_UPKEEP_INTERVAL_MS). Labels hold node ids,
//! operations and codes, never keys or addresses, so the number of series is bounded.

use std::fmt::Write;
use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::raft::traffic::{self, Traffic};

/// From a local read to the longest request. A write on a fast disk takes about a millisecond.
const SECONDS_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// From one entry to the longest batch.
const ENTRIES_BUCKETS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// What a figure is.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every figure of Aspen's, with its help text. The unit stands last in the name. Names and labels
/// must stay stable: dashboards and alerts are written against them.
const FIGURES: &[(&str, Kind, &str)] = &[
    ("aspen_http_requests_total", Kind::Counter, "HTTP requests answered, by path and status"),
    ("aspen_http_request_seconds", Kind::Histogram, "Time to answer an HTTP request, by path"),
    ("aspen_client_requests_total", Kind::Counter, "Requests of clients over iroh, by kind and result"),
    ("aspen_raft_term", Kind::Gauge, "Current term"),
    ("aspen_raft_leader", Kind::Gauge, "Id of the node that is followed, 0 if none is known"),
    ("aspen_raft_last_log_index", Kind::Gauge, "Last index of the log"),
    ("aspen_raft_committed_index", Kind::Gauge, "Last index known to be committed"),
    ("aspen_raft_applied_index", Kind::Gauge, "Last index applied to the state"),
    ("aspen_raft_snapshot_index", Kind::Gauge, "Last index in the newest snapshot"),
    ("aspen_log_entries_total", Kind::Counter, "Entries written to the log"),
    ("aspen_log_batch_entries", Kind::Histogram, "Entries that shared one fsync of the log"),
    ("aspen_storage_fsync_seconds", Kind::Histogram, "Time to make writes durable, by file"),
    ("aspen_storage_fsync_under_way_seconds", Kind::Gauge, "Time that the sync under way has taken, or 0"),
    ("aspen_storage_slow_fsyncs_total", Kind::Counter, "Syncs that took a second or more, by file"),
    ("aspen_storage_snapshots_put_off_total", Kind::Counter, "Snapshots not made for want of room"),
    ("aspen_disk_free_bytes", Kind::Gauge, "Bytes free on the data directory's file system"),
    ("aspen_disk_reserve_bytes", Kind::Gauge, "Bytes of it that are kept free of data"),
    ("aspen_disk_is_refusing", Kind::Gauge, "1 while writes that add data are refused for want of room"),
    ("aspen_disk_is_stalled", Kind::Gauge, "1 while a sync takes too long to lead, and for a while after"),
    ("aspen_disk_handovers_total", Kind::Counter, "Times that this node handed over because of its disk"),
    ("aspen_scrub_passes_total", Kind::Counter, "Complete searches of everything on disk for damage"),
    (
        "aspen_scrub_last_pass_timestamp_seconds",
        Kind::Gauge,
        "When the last complete search ended, since 1970",
    ),
    ("aspen_scrub_last_pass_seconds", Kind::Gauge, "How long the last complete search took"),
    ("aspen_scrub_records_total", Kind::Counter, "Log entries, rows and snapshot chunks searched for damage"),
    ("aspen_scrub_bytes_total", Kind::Counter, "Bytes searched for damage"),
    ("aspen_snapshot_damaged_total", Kind::Counter, "Damaged snapshots that were made anew"),
    ("aspen_storage_damage_total", Kind::Counter, "Pieces of damage found in the log or the state"),
    ("aspen_state_file_bytes", Kind::Gauge, "Length of the file of the state"),
    ("aspen_state_shrinks_total", Kind::Counter, "Times that the state was copied into a smaller file"),
    ("aspen_store_revision", Kind::Gauge, "Revision of the store on this node"),
    (traffic::DIALS_TOTAL, Kind::Counter, "Connections dialed, by result"),
    ("aspen_relay_connections", Kind::Gauge, "Connections to the relay that this node serves"),
    ("aspen_relay_rejected_total", Kind::Counter, "Connections of unknown keys that the relay turned away"),
    ("aspen_transport_handshakes_dropped_total", Kind::Counter, "Handshakes dropped for too many at a time"),
    ("aspen_joins_refused_total", Kind::Counter, "Callers without a ticket that was taken"),
    ("aspen_transport_strangers_refused_total", Kind::Counter, "Connections refused unseen, as strangers'"),
    ("aspen_transport_hellos_refused_total", Kind::Counter, "Hellos refused, for another node or cluster"),
    ("aspen_transport_panics_total", Kind::Counter, "Answers to peers that failed unexpectedly"),
    ("aspen_transport_rejected_total", Kind::Counter, "Connections of unknown keys turned away"),
    (traffic::RPCS_TOTAL, Kind::Counter, "Answers of peers to Raft's messages, by kind and result"),
];

/// What the names of the transport's figures begin with. Must stay stable.
const TRANSPORT: &str = "aspen_transport_";

/// Why figures cannot be collected.
#[derive(Debug, thiserror::Error)]
#[error("figures cannot be collected: {0}")]
pub struct MetricsError(#[from] BuildError);

/// The registry of figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: PrometheusHandle,
    started: Instant,
    started_at_s: f64,
}

/// Makes the registry that all macros of the process write to. It works once a process.
///
/// # Errors
/// [`MetricsError`], if the process has one already.
pub fn install() -> Result<Metrics, MetricsError> {
    let registry = builder()?.install_recorder()?;
    describe();
    Ok(Metrics::new(registry))
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_entries".to_owned()), ENTRIES_BUCKETS)
}

fn describe() {
    for &(name, kind, help) in FIGURES {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(name, help),
            Kind::Gauge => ::metrics::describe_gauge!(name, help),
            Kind::Histogram => ::metrics::describe_histogram!(name, help),
        }
    }
    Traffic::register_all();
}

impl Metrics {
    fn new(registry: PrometheusHandle) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { registry, started: Instant::now(), started_at_s: since_epoch.as_secs_f64() }
    }

    /// All figures in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = self.registry.render();
        let process = Process::read().unwrap_or_default();
        process.render(&mut text, self.started_at_s, self.started.elapsed().as_secs_f64());
        text
    }

    /// Those of the transport alone, as [`Self::render`] has them.
    pub fn render_transport(&self) -> String {
        let text = self.registry.render();
        let is_transports = |line: &&str| {
            let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
            name.starts_with(TRANSPORT)
        };
        text.lines().filter(is_transports).flat_map(|line| [line, "\n"]).collect()
    }

    /// Folds collected samples into buckets.
    pub fn run_upkeep(&self) {
        self.registry.run_upkeep();
    }
}

/// The process as the kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    resident_bytes: u64,
    cpu_s: f64,
    open_fds: usize,
}

impl Process {
    /// Reads `/proc`, which is memory. Nothing where there is none.
    fn read() -> Option<Self> {
        Some(Self {
            resident_bytes: resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)?,
            cpu_s: cpu_s(&fs::read_to_string("/proc/self/stat").ok()?)?,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count(),
        })
    }

    /// Appends the figures under the names that Prometheus' own libraries use.
    fn render(&self, text: &mut String, started_at_s: f64, uptime_s: f64) {
        let Self { resident_bytes, cpu_s, open_fds } = self;
        write!(
            text,
            "# HELP process_resident_memory_bytes Memory in use\n\
             # TYPE process_resident_memory_bytes gauge\n\
             process_resident_memory_bytes {resident_bytes}\n\
             # HELP process_cpu_seconds_total Time spent on processors\n\
             # TYPE process_cpu_seconds_total counter\n\
             process_cpu_seconds_total {cpu_s:.2}\n\
             # HELP process_open_fds Open files and sockets\n\
             # TYPE process_open_fds gauge\n\
             process_open_fds {open_fds}\n\
             # HELP process_start_time_seconds Start of the process since 1970\n\
             # TYPE process_start_time_seconds gauge\n\
             process_start_time_seconds {started_at_s:.3}\n\
             # HELP aspen_uptime_seconds Time since the start\n\
             # TYPE aspen_uptime_seconds gauge\n\
             aspen_uptime_seconds {uptime_s:.3}\n"
        )
        .expect("writing to a string succeeds");
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn cpu_s(stat: &str) -> Option<f64> {
    /// Fixed by the kernel's interface, whatever its own clock runs at.
    const TICKS_PER_SECOND: f64 = 100.0;
    /// Of user time, counted behind the program's name; that of system time follows.
    const USER_TIME_FIELD: usize = 11;
    // The name stands in parentheses and may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(USER_TIME_FIELD).map(str::parse::<f64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn histograms_have_the_buckets_of_their_unit() {
        let recorder = builder().unwrap().build_recorder();
        let metrics = Metrics::new(recorder.handle());
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            ::metrics::histogram!("aspen_storage_fsync_seconds").record(0.000_2);
            ::metrics::histogram!("aspen_log_batch_entries").record(3.0);
            ::metrics::counter!("aspen_http_requests_total", "path" => "/write").increment(2);
        });
        let text = metrics.render();
        for line in [
            "# HELP aspen_storage_fsync_seconds Time to make writes durable",
            "aspen_storage_fsync_seconds_bucket{le=\"0.00025\"} 1",
            "aspen_log_batch_entries_bucket{le=\"4\"} 1",
            "aspen_http_requests_total{path=\"/write\"} 2",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn series_of_the_traffic_are_exported_by_their_names_before_the_first_event() {
        let recorder = builder().unwrap().build_recorder();
        let metrics = Metrics::new(recorder.handle());
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            ::metrics::counter!("aspen_log_entries_total").increment(1);
            Traffic::Dial.count(false);
        });
        let text = metrics.render_transport();
        let exported: BTreeSet<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let count = |series: String| format!("{series} {}", u8::from(series == Traffic::Dial.series(false)));
        let expected: BTreeSet<String> = Traffic::all_series().map(count).collect();
        assert_eq!(exported, expected.iter().map(String::as_str).collect());
        assert!(text.contains("# TYPE aspen_transport_dials_total counter\n"), "{text}");
        assert!(text.lines().all(|line| line.contains("aspen_transport_")), "{text}");
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 0 && process.open_fds > 2, "{process:?}");
    }

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 9";
        assert_eq!(cpu_s(stat), Some(2.0));
        assert_eq!(cpu_s("42 (a"), None);
    }

    #[test]
    fn names_end_in_a_unit_that_fits_their_kind() {
        for &(name, kind, help) in FIGURES {
            assert!(name.starts_with("aspen_") && !help.ends_with('.'), "{name}: {help}");
            match kind {
                Kind::Counter => assert!(name.ends_with("_total"), "{name}"),
                Kind::Gauge => assert!(!name.ends_with("_total"), "{name}"),
                Kind::Histogram => {
                    assert!(name.ends_with("_seconds") || name.ends_with("_entries"), "{name}");
                }
            }
        }
    }
}
