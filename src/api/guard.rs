//! What stands around every handler: the token, the bounds, the figures, and answers where there is
//! no handler.

use std::any::Any;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::SemaphorePermit;

use super::error::{ApiError, OwnFault};
use super::request_id::{self, RequestId};
use super::{Shared, body};
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::types::KvError;

/// Paths that answer without a token: a probe says only that the node lives, or that it serves.
const OPEN_PATHS: [&str; 2] = ["/livez", "/readyz"];

/// Paths that answer when there is too much to do: the probes and figures of [`super::router`].
const UNCOUNTED_PATHS: [&str; 5] = ["/health", "/livez", "/readyz", "/metrics", "/iroh-metrics"];

/// Sees a request in and its answer out.
pub(super) async fn enter(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    // Never the path as sent: strangers would make up as many labels as they like.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let sent_id = RequestId::sent(request.headers());
    let mut response = match authorize(&shared, &request) {
        Ok(()) => answer_of_cluster(&shared, route, request, next).await,
        Err(refused) => refused.into_response(),
    };
    let (status, elapsed) = (response.status().as_u16(), start.elapsed());
    // Only what somebody will look for is given a name.
    let is_error = status >= StatusCode::BAD_REQUEST.as_u16();
    let request_id = sent_id.or_else(|| is_error.then(RequestId::new));
    let id = request_id.as_ref().map(RequestId::as_str);
    if let Some(OwnFault(reason)) = response.extensions_mut().remove() {
        tracing::error!(
            request_id = id,
            route,
            "an HTTP request failed for a reason that lies in this node: {reason}"
        );
    }
    tracing::debug!(
        request_id = id,
        route,
        status,
        elapsed_us = elapsed.as_micros(),
        "answered an HTTP request"
    );
    if let Some(request_id) = request_id {
        response.headers_mut().insert(request_id::HEADER, request_id.into());
    }
    shared.figures.count(route, status, elapsed);
    response
}

/// The answer to a request that may be answered, with the cluster that it is of. Probes tell strangers nothing.
async fn answer_of_cluster(shared: &Shared, route: Option<&str>, request: Request, next: Next) -> Response {
    let answered = answer(shared, route, request, next).await;
    let mut response = answered.unwrap_or_else(ApiError::into_response);
    // Asked for now: the request may have come before this node belonged to a cluster.
    if !is_open(route)
        && let Some(cluster_id) = shared.own_cluster.header(&*shared.api.cluster)
    {
        response.headers_mut().insert(ClusterHeader::NAME, cluster_id);
    }
    response
}

async fn answer(
    shared: &Shared,
    route: Option<&str>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let is_counted = route.is_some_and(|route| !UNCOUNTED_PATHS.contains(&route));
    let _permit = is_counted.then(|| let_in(shared)).transpose()?;
    // A request that takes too long, its body's arrival included, ends.
    let bound = shared.bounds.request_timeout;
    let run = async {
        let meant = shared.own_cluster.check(&*shared.api.cluster, request.headers());
        match meant {
            Err(refused) if !is_open(route) => {
                body::take_refused(request).await;
                refused.into_response()
            }
            _ => next.run(request).await,
        }
    };
    let run = AssertUnwindSafe(run).catch_unwind();
    match tokio::time::timeout(bound, run).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(_) => Err(ApiError::Timeout { waited_ms: u64::try_from(bound.as_millis()).unwrap_or(u64::MAX) }),
    }
}

fn is_open(route: Option<&str>) -> bool {
    route.is_some_and(|route| OPEN_PATHS.contains(&route))
}

/// Asks for the token, if there is one.
fn authorize(shared: &Shared, request: &Request) -> Result<(), ApiError> {
    let Some(token) = &shared.api.token else { return refuse_pages(request.headers()) };
    if OPEN_PATHS.contains(&request.uri().path()) {
        return Ok(());
    }
    let sent = bearer(request.headers()).ok_or(ApiError::Unauthorized {
        problem: "the request bears no token, and this node asks for one",
    })?;
    if token.matches(sent) {
        return Ok(());
    }
    Err(ApiError::Unauthorized { problem: "the request bears another token than this node's" })
}

/// Without a token whoever is on the machine is trusted, and a browser is, too: the pages that it shows must
/// not speak for it. They send where they come from, or name this machine by a name of their own.
fn refuse_pages(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(header::ORIGIN) {
        return Err(ApiError::FromPage {
            problem: "the request was sent by a page, as its header 'origin' says",
        });
    }
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    if host.to_str().is_ok_and(is_address) {
        return Ok(());
    }
    Err(ApiError::FromPage { problem: "the header 'host' names this node by a name" })
}

/// Whether the name is one that no page can have: an IP address or localhost, with a port or without.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok() || host.parse::<IpAddr>().is_ok()
}

/// Refuses at once when too many requests are in work, rather than let all of them wait.
fn let_in(shared: &Shared) -> Result<SemaphorePermit<'_>, ApiError> {
    let in_work = shared.bounds.requests_max_count;
    shared.requests.try_acquire().map_err(|_| KvError::Overloaded { in_work }.into())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The answer for a handler that panicked.
fn panicked(panic: &(dyn Any + Send)) -> ApiError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    tracing::error!(message, "an HTTP handler panicked");
    ApiError::Panicked
}

pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::UnknownPath { path: uri.path().to_owned() }
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::WrongMethod { path: uri.path().to_owned(), method }
}
