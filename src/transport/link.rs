//! Connections to other nodes, one for each purpose, dialed when needed and again when lost.
//!
//! # Tiger Style
//! - One dial to a node and purpose is under way at a time, within the connect timeout; a caller that
//!   gives up does not stop it.
//! - A connection is used for requests only after its hello was accepted.
//! - A dial tries all addresses of a node at once, and new ones as soon as they are known, at most
//!   [`limits::DIAL_PLACES_MAX_COUNT`] times.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use iroh::endpoint::{Connection, ConnectionError, VarInt, WeakConnectionHandle};
use irpc_iroh::IrohRemoteConnection;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::Transport;
use super::admission::{REFUSED, STRANGER};
use super::failures::Failures;
pub(super) use super::failures::LinkError;
use super::protocol::{ALPN_ACTOR, ALPN_RAFT, ALPN_SNAPSHOT, HelloProtocol, Refusal};
use super::ticket::{endpoint_addr, public_key};
use crate::kv::types::{NodeId, NodeInfo, Peer, PublicKey};
use crate::limits;
use crate::raft::traffic::Traffic;

/// Pause before who was told to dial again does so.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The code that a connection is closed with which is to be opened again.
const DIAL_AGAIN: u32 = 409;

/// What the connections of a removed node are closed with.
const REMOVED: &[u8] = b"removed from the cluster";

/// What a connection is for. Each purpose has its own, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Log entries.
    Append,
    /// Votes and heartbeats.
    Control,
    /// Clients' requests.
    Forward,
    /// Snapshots.
    Snapshot,
    /// Calls between actors.
    Actor,
}

impl Lane {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Append | Self::Control | Self::Forward => ALPN_RAFT,
            Self::Snapshot => ALPN_SNAPSHOT,
            Self::Actor => ALPN_ACTOR,
        }
    }

    /// Whether the cluster's work depends on it. A node that does not answer for anything else, an older
    /// one for example, is none that cannot be reached.
    fn is_vital(self) -> bool {
        self != Self::Actor
    }
}

type Slot = Arc<AsyncMutex<Option<Connection>>>;

/// All connections of a node.
#[derive(Default)]
pub(super) struct Links {
    slots: Mutex<HashMap<(NodeId, Lane), Slot>>,
    failures: Failures,
    open: Mutex<HashMap<PublicKey, Vec<WeakConnectionHandle>>>,
    /// Nodes that do not know this one, by their own word.
    shut_out_by: Mutex<BTreeSet<NodeId>>,
    /// The process that a node last said hello from.
    boots: Mutex<HashMap<PublicKey, u64>>,
    /// What others know of this node by its own word.
    told: Mutex<HashMap<PublicKey, NodeInfo>>,
}

impl Links {
    fn slot(&self, target: NodeId, lane: Lane) -> Slot {
        lock(&self.slots).entry((target, lane)).or_default().clone()
    }

    /// Notes a connection, of either direction, whose hello was accepted.
    fn note(&self, connection: &Connection) {
        let mut open = lock(&self.open);
        let handles = open.entry(public_key(&connection.remote_id())).or_default();
        handles.retain(|handle| handle.upgrade().is_some_and(|other| other.close_reason().is_none()));
        handles.push(connection.weak_handle());
    }

    /// A node told this one, in closing a connection, that it does not belong any more.
    pub(super) fn note_end(&self, peer: NodeId, reason: Option<ConnectionError>) {
        let Some(ConnectionError::ApplicationClosed(close)) = reason else { return };
        let is_refusal = close.error_code == VarInt::from_u32(REFUSED);
        if is_refusal && (*close.reason == *REMOVED || *close.reason == *STRANGER.as_bytes()) {
            lock(&self.shut_out_by).insert(peer);
        }
    }

    pub(super) fn note_let_in(&self, peer: NodeId) {
        lock(&self.shut_out_by).remove(&peer);
        self.failures.note_met(peer);
    }

    pub(super) fn shut_out_by(&self) -> BTreeSet<NodeId> {
        lock(&self.shut_out_by).clone()
    }

    pub(super) fn failure_of(&self, target: NodeId) -> Option<String> {
        self.failures.of(target)
    }

    /// For how long a node has not been found; nothing if the last dial found it, even if it refused.
    pub(super) fn lost_for(&self, target: NodeId) -> Option<Duration> {
        self.failures.lost_for(target)
    }

    /// The owner of a key has heard from this node where it is.
    pub(super) fn note_told(&self, key: PublicKey, own: NodeInfo) {
        lock(&self.told).insert(key, own);
    }

    /// Whether it knows what this node would say now.
    pub(super) fn is_told(&self, key: PublicKey, own: &NodeInfo) -> bool {
        lock(&self.told).get(&key) == Some(own)
    }

    pub(super) fn connections_of(&self, key: PublicKey) -> Vec<Connection> {
        let open = lock(&self.open);
        let handles = open.get(&key).into_iter().flatten();
        handles
            .filter_map(WeakConnectionHandle::upgrade)
            .filter(|other| other.close_reason().is_none())
            .collect()
    }

    /// Notes the process that a node says hello from; true if it was another one before.
    pub(super) fn is_new_boot(&self, key: PublicKey, boot: u64) -> bool {
        lock(&self.boots).insert(key, boot).is_some_and(|before| before != boot)
    }

    /// Closes all connections of a node, for a reason that it is told. It may dial again.
    pub(super) fn close_all_of(&self, key: PublicKey, reason: &[u8]) {
        close(&self.connections_of(key), DIAL_AGAIN, reason);
        lock(&self.open).remove(&key);
    }

    /// Closes all connections of a node that was removed.
    pub(super) fn shut_out(&self, key: PublicKey) {
        close(&self.connections_of(key), REFUSED, REMOVED);
        lock(&self.open).remove(&key);
        // If it is let in again, it knows nothing.
        lock(&self.told).remove(&key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

fn close(connections: &[Connection], code: u32, reason: &[u8]) {
    for connection in connections {
        connection.close(VarInt::from_u32(code), reason);
    }
}

impl Transport {
    /// The connection to a node for a purpose; dials it if there is none.
    pub(super) async fn connection(&self, target: NodeId, lane: Lane) -> Result<Connection, LinkError> {
        let slot = self.0.links.slot(target, lane).lock_owned().await;
        if let Some(open) = slot.as_ref().filter(|open| open.close_reason().is_none()) {
            return Ok(open.clone());
        }
        self.dial_into(slot, target, lane).await
    }

    /// Says hello to a node on a new connection, unless it has been told meanwhile where this node is.
    pub(super) async fn say_hello(&self, peer: &Peer) -> Result<(), LinkError> {
        let slot = self.0.links.slot(peer.node_id, Lane::Control).lock_owned().await;
        if self.0.links.is_told(peer.info.public_key, &self.own_peer().info) {
            return Ok(());
        }
        self.dial_into(slot, peer.node_id, Lane::Control).await.map(drop)
    }

    async fn dial_into(
        &self,
        mut slot: OwnedMutexGuard<Option<Connection>>,
        target: NodeId,
        lane: Lane,
    ) -> Result<Connection, LinkError> {
        // In a task of its own: what a caller with little patience began serves the next one.
        let transport = self.clone();
        let dialed = tokio::spawn(async move {
            let dialed = transport.dial_within_bound(target, lane).await;
            Traffic::Dial.count(dialed.is_ok());
            if lane.is_vital() && !transport.0.endpoint.is_closed() {
                transport.0.links.failures.note(target, dialed.as_ref().err());
            }
            *slot = dialed.as_ref().ok().cloned();
            dialed
        });
        dialed.await.unwrap_or_else(|error| Err(LinkError::Connect(error.to_string())))
    }

    async fn dial_within_bound(&self, target: NodeId, lane: Lane) -> Result<Connection, LinkError> {
        let limit = self.0.timeouts.connect;
        let before = self.0.book.lookup(target).map(|peer| self.0.links.connections_of(peer.info.public_key));
        let before = before.unwrap_or_default();
        let dialed = async {
            match self.dial(target, lane).await {
                Err(LinkError::Restarted) => {
                    // The goodbye of the other side went to where this node was.
                    close(&before, DIAL_AGAIN, b"this node is elsewhere");
                    // Both sides have to see the old connections closed first.
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    self.dial(target, lane).await
                }
                dialed => dialed,
            }
        };
        let dialed = tokio::time::timeout(limit, dialed).await;
        let dialed = dialed.unwrap_or_else(|_| Err(LinkError::ConnectTimeout(limit.as_millis())));
        if lane.is_vital() && dialed.as_ref().is_err_and(LinkError::is_lost) {
            // A node that does not answer where its connections lead may answer elsewhere, but iroh
            // tries other addresses only when none of them is left.
            close(&before, DIAL_AGAIN, b"no answer to a new connection");
            self.0.book.have_members_asked();
        }
        dialed
    }

    async fn dial(&self, target: NodeId, lane: Lane) -> Result<Connection, LinkError> {
        let connection = self.connect(target, lane).await?;

        let client = irpc::Client::<HelloProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
        let hello = self.hello(target);
        let own = hello.info.clone();
        let answer = match client.rpc(hello).await {
            Ok(answer) => answer,
            Err(error) => {
                // A stranger is let through the handshake on its own side and closed right after.
                let closed = connection.close_reason();
                self.0.links.note_end(target, closed.clone());
                let reason = closed.as_ref().map_or_else(|| format!("{error:#}"), ToString::to_string);
                return Err(match closed {
                    Some(ConnectionError::ApplicationClosed(close))
                        if close.error_code == VarInt::from_u32(REFUSED) =>
                    {
                        self.refused(target, reason, *close.reason == *STRANGER.as_bytes())
                    }
                    _ => LinkError::Connect(reason),
                });
            }
        };
        let checked = answer.and_then(|welcome| self.receive_welcome(&connection, target, welcome));
        if checked == Err(Refusal::Restarted) {
            connection.close(VarInt::from_u32(DIAL_AGAIN), b"reconnecting");
            return Err(LinkError::Restarted);
        }
        if let Err(refusal) = checked {
            connection.close(VarInt::from_u32(REFUSED), b"hello refused");
            let is_astray = matches!(refusal, Refusal::OtherCluster { .. });
            return Err(self.refused(target, refusal.to_string(), is_astray));
        }
        if !self.keep(&connection) {
            return Err(LinkError::Unknown);
        }
        self.0.links.note_told(public_key(&connection.remote_id()), own);
        Ok(connection)
    }

    /// What it means that a node refused; one that does not know its fellow member has begun anew.
    fn refused(&self, target: NodeId, reason: String, is_estranged: bool) -> LinkError {
        let is_member = self.0.book.members().contains(&target);
        if is_member && is_estranged {
            return LinkError::TurnedAway { target, reason };
        }
        LinkError::Refused(reason)
    }

    /// Connects to a node wherever it is known to be, and where it is found while that takes.
    async fn connect(&self, target: NodeId, lane: Lane) -> Result<Connection, LinkError> {
        let mut places = 0;
        let mut path_given_up = false;
        loop {
            let Some(peer) = self.0.book.lookup(target) else {
                self.0.book.have_members_asked();
                return Err(LinkError::Unknown);
            };
            // With all addresses: iroh asks its lookup only about nodes that it does not know at all.
            let addr = endpoint_addr(&peer.info).ok_or(LinkError::Unknown)?;
            places += 1;
            tokio::select! {
                connected = self.0.endpoint.connect(addr, lane.alpn()) => {
                    return connected.map_err(|error| LinkError::of(target, &error));
                }
                () = self.found_elsewhere(&peer), if places < limits::DIAL_PLACES_MAX_COUNT => {}
                () = self.chosen_path_is_silent(peer.info.public_key), if !path_given_up => {
                    path_given_up = true;
                    self.0.links.close_all_of(peer.info.public_key, b"no answer where this leads");
                    // iroh has to see them closed before it tries other addresses.
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until a node is known to be where it was not looked for, and has the members asked for that if
    /// it does not answer soon.
    async fn found_elsewhere(&self, tried: &Peer) {
        let mut changes = self.0.book.changes();
        let is_elsewhere = || {
            let known = self.0.book.lookup(tried.node_id);
            known.is_some_and(|known| {
                known.info.addresses.iter().any(|addr| !tried.info.addresses.contains(addr))
            })
        };
        let mut asks = std::pin::pin!(tokio::time::sleep(Duration::from_millis(limits::DIAL_SLOW_MS)));
        let mut asked = false;
        while !is_elsewhere() {
            tokio::select! {
                _ = changes.changed() => {}
                () = &mut asks, if !asked => {
                    asked = true;
                    self.0.book.have_members_asked();
                }
            }
        }
    }

    /// Counts a connection whose hello was accepted among the open ones, unless its node was removed
    /// meanwhile. It is noted before the book is asked, and [`Transport::cut_off`] comes after the book
    /// was changed: one of the two closes it.
    pub(super) fn keep(&self, connection: &Connection) -> bool {
        self.0.links.note(connection);
        let key = public_key(&connection.remote_id());
        let is_admitted = self.0.guests.admits(&key, connection.alpn());
        if let Some(peer) = self.0.book.admitted(&key) {
            self.0.links.note_let_in(peer);
        }
        if !is_admitted {
            connection.close(VarInt::from_u32(REFUSED), REMOVED);
        }
        is_admitted
    }
}
