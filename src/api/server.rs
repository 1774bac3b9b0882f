//! The accept loop: connections in, each with a bound on everything that it can wait for.
//!
//! # Tiger Style
//! What bounds a slow or a silent client, from the first byte to the last:
//! * connections: [`limits::HTTP_CONNECTIONS_MAX_COUNT`]; further ones wait in the system's backlog,
//! * a request's head, and idling between requests: [`limits::HTTP_HEADER_TIMEOUT_MS`],
//! * a request's body and the work on it: [`limits::HTTP_REQUEST_TIMEOUT_MS`],
//! * taking a reply: some of it each [`limits::HTTP_WRITE_TIMEOUT_MS`],
//! * stopping: [`limits::STOP_TIMEOUT_MS`] for what is in work, then the connection is cut.
//!
//! Bytes that are no HTTP are answered with a bare 400 and the end of the connection.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits;

/// Serves `router` on `listener` until `shutdown`; then finishes what is in work, within a bound. What
/// goes wrong on one connection ends that connection and nothing else.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX_COUNT));
    let connections = TaskTracker::new();
    while let Some(slot) = unless(&shutdown, slots.clone().acquire_owned()).await {
        let slot = slot.expect("the semaphore is never closed");
        let stream = match unless(&shutdown, listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                if !is_connection_error(&error) {
                    tracing::warn!(%error, "cannot accept an HTTP connection, trying again");
                    tokio::time::sleep(Duration::from_millis(limits::ACCEPT_RETRY_MS)).await;
                }
                continue;
            }
        };
        let connection = serve_connection(stream, router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// What `work` gives, or nothing once `shutdown` is asked for.
async fn unless<F: Future>(shutdown: &CancellationToken, work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        output = work => Some(output),
    }
}

/// Errors of the connection that was to be accepted, not of accepting.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an HTTP connection ended before its first byte");
        return;
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(Duration::from_millis(limits::HTTP_WRITE_TIMEOUT_MS)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::HTTP_HEADER_TIMEOUT_MS))
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = match unless(&shutdown, connection.as_mut()).await {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            let bound = Duration::from_millis(limits::STOP_TIMEOUT_MS);
            tokio::time::timeout(bound, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
