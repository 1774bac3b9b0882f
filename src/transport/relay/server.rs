//! The relay that a node serves, for its own cluster.
//!
//! It speaks plain HTTP. Who connects proves that it has its key, and has to be somebody whom this node
//! would talk to: a member, a declared peer, a client, a node that has come in with a ticket and is no
//! member yet, or one that shows that it holds a ticket which can still be used.
//!
//! # Tiger Style
//! - At most [`limits::RELAY_GUESTS_MAX_COUNT`] connections of those who are let in; whoever comes beyond that
//!   is told so. Others are bounded by themselves (`arrivals`), so that strangers take no place of theirs.
//! - Who is let in no more is cut off as soon as this node learns of it, and at the latest
//!   [`limits::RELAY_CHECK_INTERVAL_MS`] afterwards.
//! - What a connection has been sent and does not take is dropped: for those who speak through a relay it
//!   is a network that may lose datagrams.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{HeaderMap, Method, StatusCode};
use iroh::EndpointId;
use iroh_relay::KeyCache;
use iroh_relay::http::RELAY_PROBE_PATH;
use iroh_relay::server::{Access, AccessControl, ClientRequest, ConnectionId, Handlers, RelayService};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{RelayPass, arrivals};
use crate::kv::clock::now_ms;
use crate::limits;
use crate::transport::Transport;
use crate::transport::ticket::public_key;

/// What a stranger is told.
const REFUSED: &str = "this relay serves a cluster's members, declared peers and clients alone";

/// What is told to those for whom there is no room.
const FULL: &str = "this relay has as many connections as it takes";

impl Transport {
    /// Serves a relay until `stop`. It ends with all connections to it.
    pub async fn serve_relay(&self, listener: TcpListener, stop: CancellationToken) {
        let door = Arc::new(Door { transport: self.clone(), guests: Mutex::default() });
        let figures = self.0.relay_figures.get_or_init(Arc::default).clone();
        let keys = KeyCache::new(limits::RELAY_GUESTS_MAX_COUNT);
        let service =
            RelayService::new(handlers(), HeaderMap::new(), None, keys, door.clone(), figures.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = arrivals::accept(listener, &service, &figures) => {}
            () = door.keep_watch(&service) => {}
        }
        let limit = Duration::from_millis(limits::RELAY_HANDSHAKE_TIMEOUT_MS);
        if tokio::time::timeout(limit, service.shutdown()).await.is_err() {
            tracing::debug!("the relay was ended without waiting for all connections");
        }
    }
}

/// What is answered beside the relay itself: what endpoints measure the way to it by.
fn handlers() -> Handlers {
    let mut handlers = Handlers::default();
    handlers.insert(
        (Method::GET, RELAY_PROBE_PATH),
        Box::new(|_, response| {
            let response = response.status(StatusCode::OK).body(Box::new(Empty::<Bytes>::new()) as _)?;
            Ok(response)
        }),
    );
    handlers
}

/// Lets those in who belong here, and knows who is in.
struct Door {
    transport: Transport,
    guests: Mutex<HashMap<ConnectionId, Guest>>,
}

/// Whoever has a connection to the relay.
#[derive(Clone, Debug)]
struct Guest {
    id: EndpointId,
    /// The pass that it showed.
    shown: Option<String>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("guests", &self.guests).finish_non_exhaustive()
    }
}

impl AccessControl for Door {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let guest = Guest { id: request.endpoint_id(), shown: request.auth_token() };
        let key = public_key(&guest.id);
        if self.admits(&guest) {
            if self.seat(request.connection_id(), guest) {
                return Access::Allow;
            }
            metrics::counter!("aspen_relay_rejected_total").increment(1);
            if self.transport.0.door_log.is_worth_a_line(key) {
                tracing::warn!(%key, "the relay turned a connection away that it would let in: it has {} already, the most that it takes", limits::RELAY_GUESTS_MAX_COUNT);
            }
            return Access::Deny { reason: Some(FULL.to_owned()) };
        }
        // It may belong to the cluster since an entry of the log that has not come here yet.
        self.transport.book().have_members_asked();
        metrics::counter!("aspen_relay_rejected_total").increment(1);
        if self.transport.0.door_log.is_worth_a_line(key) {
            tracing::warn!(%key, "the relay turned a connection away: the key is neither a member's, a declared peer's nor a client's, and shows no valid join ticket");
        }
        Access::Deny { reason: Some(REFUSED.to_owned()) }
    }

    fn on_disconnect(&self, _: EndpointId, connection_id: ConnectionId) {
        let mut guests = self.guests();
        guests.remove(&connection_id);
        count(&guests);
    }
}

impl Door {
    fn guests(&self) -> MutexGuard<'_, HashMap<ConnectionId, Guest>> {
        self.guests.lock().expect("no code panics while it holds this lock")
    }

    /// Gives a guest a place, if there is one left.
    fn seat(&self, connection_id: ConnectionId, guest: Guest) -> bool {
        let mut guests = self.guests();
        if guests.len() >= limits::RELAY_GUESTS_MAX_COUNT {
            return false;
        }
        guests.insert(connection_id, guest);
        count(&guests);
        true
    }

    /// Whether somebody is let in, and may stay.
    fn admits(&self, guest: &Guest) -> bool {
        let inner = &self.transport.0;
        let key = public_key(&guest.id);
        if guest.id == inner.endpoint.id() || inner.guests.knows(&key) {
            return true;
        }
        // Until Raft has started, only those are let in who were known at the last stop.
        let Some(reader) = inner.reader.get() else { return false };
        // Members are in the book, and those who were one must not come in by what is left of them here.
        let is_on_its_way = || {
            let nodes = reader.admitted();
            nodes.is_ok_and(|nodes| nodes.iter().any(|(_, node)| node.public_key == key && !node.is_member))
        };
        let holds_ticket = |shown: &String| {
            let tickets = reader.open_secrets(now_ms());
            tickets.is_ok_and(|tickets| RelayPass::is_good(shown, &key, &tickets))
        };
        guest.shown.as_ref().is_some_and(holds_ticket) || is_on_its_way()
    }

    /// Cuts off who is let in no more. It never ends.
    async fn keep_watch(&self, service: &RelayService) {
        let mut changes = self.transport.book().changes();
        let mut ticks = tokio::time::interval(Duration::from_millis(limits::RELAY_CHECK_INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = changes.changed() => changed.expect("the door holds the book"),
            }
            let guests = self.guests().clone();
            for (connection_id, guest) in guests.iter().filter(|(_, guest)| !self.admits(guest)) {
                let peer = guest.id.fmt_short();
                tracing::info!(%peer, "the relay cuts {peer} off, which is let in no more");
                service.clients().disconnect(guest.id, Some(*connection_id));
            }
        }
    }
}

fn count(guests: &HashMap<ConnectionId, Guest>) {
    metrics::gauge!("aspen_relay_connections").set(guests.len() as f64);
}
