//! What stands around every handler: the token, the bounds, the figures, and answers where there is
//! no handler.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::error::ApiError;
use crate::kv::types::KvError;

const REQUESTS_TOTAL: &str = "aspen_http_requests_total";
const REQUEST_SECONDS: &str = "aspen_http_request_seconds";

/// Paths that answer without a token: a probe says only that the node lives, or that it serves.
const OPEN_PATHS: [&str; 2] = ["/livez", "/readyz"];

pub(super) fn describe_metrics() {
    metrics::describe_counter!(REQUESTS_TOTAL, "HTTP requests answered, by route and status.");
    metrics::describe_histogram!(
        REQUEST_SECONDS,
        metrics::Unit::Seconds,
        "Time from a request's head to its answer's head, by route and status."
    );
}

/// Counts and times every request.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let start = Instant::now();
    // Never the path as sent: strangers would make up as many labels as they like.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    let elapsed = start.elapsed();
    tracing::debug!(route, status, elapsed_us = elapsed.as_micros(), "answered an HTTP request");
    metrics::counter!(REQUESTS_TOTAL, "route" => route.clone(), "status" => status.clone()).increment(1);
    metrics::histogram!(REQUEST_SECONDS, "route" => route, "status" => status).record(elapsed.as_secs_f64());
    response
}

/// Asks for the token, if there is one.
pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(token) = &shared.api.token
        && !OPEN_PATHS.contains(&request.uri().path())
    {
        let sent = bearer(request.headers()).ok_or(ApiError::Unauthorized {
            problem: "the request bears no token, and this node asks for one",
        })?;
        if !token.matches(sent) {
            return Err(ApiError::Unauthorized {
                problem: "the request bears another token than this node's",
            });
        }
    }
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Answers at once when too many requests are in work, rather than let all of them wait.
pub(super) async fn refuse_overload(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let in_work = shared.bounds.requests_max_count;
    let _permit = shared.requests.try_acquire().map_err(|_| KvError::Overloaded { in_work })?;
    Ok(next.run(request).await)
}

/// Ends a request that takes too long, its body's arrival included.
pub(super) async fn bound_time(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let bound = shared.bounds.request_timeout;
    tokio::time::timeout(bound, next.run(request))
        .await
        .map_err(|_| ApiError::Timeout { waited_ms: u64::try_from(bound.as_millis()).unwrap_or(u64::MAX) })
}

/// Answers for a handler that panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    tracing::error!(message, "an HTTP handler panicked");
    ApiError::Panicked.into_response()
}

pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::UnknownPath { path: uri.path().to_owned() }
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::WrongMethod { path: uri.path().to_owned(), method }
}
