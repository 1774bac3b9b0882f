//! How many requests were answered, and how long that took.
//!
//! # Tiger Style
//! The series are the routes times the statuses that they answer with: a path as sent is never a label.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram};

const REQUESTS_TOTAL: &str = "aspen_http_requests_total";
const REQUEST_SECONDS: &str = "aspen_http_request_seconds";

/// What is counted where a request has no route.
const NO_ROUTE: &str = "other";

pub(super) fn describe() {
    metrics::describe_counter!(REQUESTS_TOTAL, "HTTP requests answered, by route and status.");
    metrics::describe_histogram!(
        REQUEST_SECONDS,
        metrics::Unit::Seconds,
        "Time from a request's head to its answer's head, by route and status."
    );
}

/// The figures by status and route. They are looked up here, because to find one in the registry by its
/// labels takes longer than to count.
#[derive(Default)]
pub(super) struct RequestFigures(RwLock<HashMap<u16, HashMap<String, Series>>>);

#[derive(Clone)]
struct Series {
    answered: Counter,
    seconds: Histogram,
}

impl RequestFigures {
    /// Counts a request that was answered after `elapsed`.
    pub(super) fn count(&self, route: Option<&str>, status: u16, elapsed: Duration) {
        let series = self.series(route.unwrap_or(NO_ROUTE), status);
        series.answered.increment(1);
        series.seconds.record(elapsed.as_secs_f64());
    }

    fn series(&self, route: &str, status: u16) -> Series {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&status).and_then(|routes| routes.get(route)) {
            return series.clone();
        }
        drop(known);
        let labels = [("route", route.to_owned()), ("status", status.to_string())];
        let series = Series {
            answered: metrics::counter!(REQUESTS_TOTAL, &labels),
            seconds: metrics::histogram!(REQUEST_SECONDS, &labels),
        };
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(status).or_default().insert(route.to_owned(), series.clone());
        series
    }
}
