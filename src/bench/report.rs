//! What a run gave, in numbers that can be compared.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::Serialize;

use super::load::{Measured, Outcome};
use super::plan::{Kind, Plan};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Clients, each with one request under way.
    pub clients: usize,
    /// Connections that they shared.
    pub connections: usize,
    /// Shares of the kinds.
    pub mix: String,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Number of different keys.
    pub keys: u64,
    /// Seconds that were measured.
    pub measured_s: f64,
    /// Of all kinds together, those that failed left out.
    pub ops_per_s: f64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations that the rate asked for and that were not sent before the end: more than a few say that
    /// the store fell behind.
    pub not_sent: u64,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Processor time of all nodes, per operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_op: Option<f64>,
    /// By kind.
    pub kinds: Vec<KindReport>,
}

/// One kind of operation.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// The kind.
    pub kind: Kind,
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations that were due and not sent before the end. Latencies have them with the time that they had
    /// waited.
    pub not_sent: u64,
    /// Operations a second: those that began in the measured time and succeeded.
    pub ops_per_s: f64,
    /// Latency that half of the operations stay below, in milliseconds.
    pub p50_ms: f64,
    /// That 99 % stay below.
    pub p99_ms: f64,
    /// That 99.9 % stay below.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Report {
    /// Makes a report. `server_cpu_s` is the processor time of the nodes while it was measured.
    pub fn new(plan: &Plan, outcome: &Outcome, server_cpu_s: Option<f64>) -> Self {
        let seconds = outcome.measured.as_secs_f64();
        let kinds: Vec<KindReport> =
            outcome.kinds.iter().map(|(kind, measured)| KindReport::new(*kind, measured, seconds)).collect();
        let operations: u64 = kinds.iter().map(|kind| kind.operations).sum();
        Self {
            clients: plan.clients,
            connections: plan.connections,
            mix: plan.mix.to_string(),
            value_bytes: plan.value_bytes,
            keys: plan.keys,
            measured_s: seconds,
            ops_per_s: operations as f64 / seconds,
            errors: kinds.iter().map(|kind| kind.errors).sum(),
            not_sent: kinds.iter().map(|kind| kind.not_sent).sum(),
            first_error: outcome.first_error.as_ref().map(ToString::to_string),
            server_cpu_us_per_op: server_cpu_s
                .filter(|_| operations > 0)
                .map(|cpu_s| cpu_s * 1e6 / operations as f64),
            kinds,
        }
    }
}

impl KindReport {
    fn new(kind: Kind, measured: &Measured, seconds: f64) -> Self {
        let ms = |us: u64| us as f64 / 1_000.0;
        let latency_us = &measured.latency_us;
        Self {
            kind,
            operations: measured.succeeded(),
            errors: measured.errors,
            not_sent: measured.not_sent,
            ops_per_s: measured.succeeded() as f64 / seconds,
            p50_ms: ms(latency_us.value_at_quantile(0.5)),
            p99_ms: ms(latency_us.value_at_quantile(0.99)),
            p999_ms: ms(latency_us.value_at_quantile(0.999)),
            max_ms: ms(latency_us.max()),
        }
    }
}

/// Writes the latencies as an HDR histogram log, in microseconds, one interval tagged by each kind.
///
/// # Errors
/// Those of the output.
pub fn write_histograms(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let mut serializer = V2Serializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("latencies in microseconds, by kind of operation")
        .begin_log_with(out, &mut serializer)
        .map_err(|error| io::Error::other(error.to_string()))?;
    for (kind, measured) in &outcome.kinds {
        let tag = hdrhistogram::serialization::interval_log::Tag::new(kind.name());
        log.write_histogram(&measured.latency_us, Duration::ZERO, outcome.measured, tag)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    Ok(())
}
