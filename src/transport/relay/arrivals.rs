//! Connections to the relay on which nobody has been let in yet.
//!
//! Once the relay's library has agreed to speak the relay's protocol it goes on by itself, and waits for the
//! proof of a key for as long as the socket is open. So a connection has its place here until the proof is
//! decided on, which shows by the end of the request that it came with; and if that takes too long, its
//! socket is shut down behind the library's back.
//!
//! # Tiger Style
//! - At most [`limits::RELAY_ARRIVALS_MAX_COUNT`] connections; further ones wait in the system's backlog.
//! - At most [`limits::RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT`] of them come from one source; further ones from
//!   there are closed.
//! - Each is let in, or ends, within [`limits::RELAY_HANDSHAKE_TIMEOUT_MS`], and at a stop.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use iroh_relay::server::http_server::RelayServiceWithNotify;
use iroh_relay::server::streams::MaybeTlsStream;
use iroh_relay::server::{Metrics as RelayFigures, RelayService};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::limits;
use crate::transport::gate::{SeldomLine, Source};
use crate::transport::places::{Place, Places};

/// Takes connections. It never ends.
pub(super) async fn accept(listener: TcpListener, service: &RelayService, figures: &Arc<RelayFigures>) {
    let places = Places::new(limits::RELAY_ARRIVALS_MAX_COUNT, limits::RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT);
    let mut closed = SeldomLine::default();
    let mut arrivals = JoinSet::new();
    loop {
        let room = places.room().await;
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the relay cannot accept a connection, trying again");
                tokio::time::sleep(Duration::from_millis(limits::ACCEPT_RETRY_MS)).await;
                continue;
            }
        };
        while arrivals.try_join_next().is_some() {}
        let Some(place) = places.take_in(room, Source::at(addr)) else {
            if let Some(count) = closed.note(Instant::now()) {
                tracing::warn!(
                    "one address has more connections to the relay on which no key was let in than the {} that it may have: {count} more were closed, the last one from {addr}",
                    limits::RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT
                );
            }
            continue;
        };
        arrivals.spawn(see_in(stream, service.clone(), figures.clone(), place));
    }
}

/// Sees a connection through until somebody is let in on it, or it has ended.
async fn see_in(stream: TcpStream, service: RelayService, figures: Arc<RelayFigures>, place: Place) {
    let tether = match Tether::to(&stream) {
        Ok(tether) => tether,
        Err(error) => {
            tracing::warn!(%error, "the relay gave a connection up that it could not have ended later");
            return;
        }
    };
    figures.http_connections.inc();
    let decided = CancellationToken::new();
    let spoken = speak(stream, service, decided.clone().drop_guard());
    let served = async {
        if let Err(error) = spoken.await {
            figures.http_connections_errored.inc();
            tracing::debug!("a connection to the relay ended: {error}");
        }
        decided.cancelled().await;
    };
    let limit = Duration::from_millis(limits::RELAY_HANDSHAKE_TIMEOUT_MS);
    if tokio::time::timeout(limit, served).await.is_ok() {
        tether.let_go();
    } else {
        drop(tether);
        // It follows from the socket's end. Until then the place is taken.
        decided.cancelled().await;
    }
    figures.http_connections_closed.inc();
    drop(place);
}

/// Answers HTTP until the connection ends or becomes one of the relay's protocol. Nothing is to be decided about it
/// any more once the guard is dropped: it goes with each request, which the library keeps until then.
fn speak(
    stream: TcpStream,
    service: RelayService,
    undecided: DropGuard,
) -> impl Future<Output = hyper::Result<()>> + Send {
    let undecided = Arc::new(undecided);
    let relay = RelayServiceWithNotify::new(service, Arc::default());
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(undecided.clone());
        relay.call(request)
    });
    // The library finds the socket again by this type.
    let io = TokioIo::new(MaybeTlsStream::Plain(stream));
    http1::Builder::new().serve_connection(io, answer).with_upgrades()
}

/// A second handle to a socket, which ends the connection when it is dropped.
struct Tether(Option<std::net::TcpStream>);

impl Tether {
    fn to(stream: &TcpStream) -> std::io::Result<Self> {
        let handle = stream.as_fd().try_clone_to_owned()?;
        Ok(Self(Some(handle.into())))
    }

    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        // An error says that it has ended already.
        if let Some(socket) = &self.0 {
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}
