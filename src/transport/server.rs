//! What other nodes and clients ask of this one: a loop that accepts connections, a task for each
//! connection, and one for each stream.
//!
//! # Tiger Style
//! A stream that is malformed, slow or panics ends alone. Who may begin a handshake, `gate`
//! decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use iroh::endpoint::{ConnectingError, Connection, Incoming, IncomingAddr, RecvStream, SendStream, VarInt};
use irpc::WithChannels;
use irpc::channel::mpsc;
use irpc::rpc::RemoteService;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::actor::ActorDoor;
use super::admission::REFUSED;
use super::client::serve::ClientService;
use super::frame::{StreamError, read_first, read_request};
use super::gate::{Entry, Source};
use super::places::Place;
use super::protocol::{
    ALPN_ACTOR, ALPN_CLIENT, ALPN_JOIN, ALPN_SNAPSHOT, AppendStream, HelloMessage, HelloProtocol,
    RaftRpcMessage, RaftRpcProtocol, Refusal, SnapshotRpcMessage, SnapshotRpcProtocol,
};
use super::ticket::public_key;
use super::{Transport, forward, let_loose};
use crate::kv::forward::ForwardHandler;
use crate::kv::interface::KeyValueStore;
use crate::limits;
use crate::raft::freshness::Freshness;
use crate::raft::types::TypeConfig;
use crate::raft::{RaftHandle, observe};
use crate::storage::pressure::Pressure;
use crate::storage::snapshot::SnapshotInbox;
use crate::storage::state::StateReader;

/// Who answers.
#[derive(Clone)]
pub struct Handlers {
    /// Votes, appends, snapshots.
    pub raft: RaftHandle,
    /// Where snapshots are received.
    pub inbox: SnapshotInbox,
    /// Requests that others forward to this node.
    pub forward: Arc<dyn ForwardHandler>,
    /// Requests of clients.
    pub store: Arc<dyn KeyValueStore>,
    /// Told whenever the leader speaks.
    pub freshness: Arc<Freshness>,
    /// How far this node has applied.
    pub reader: StateReader,
    /// Whether its disk takes more entries.
    pub disk: Arc<Pressure>,
    /// Streams between actors.
    pub actors: ActorDoor,
}

/// The code that the connection of a client too many is closed with.
const BUSY: u32 = 503;

/// Why the transport stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// iroh closed the endpoint.
    #[error("the iroh endpoint closed by itself")]
    EndpointClosed,
}

impl Transport {
    /// Answers other nodes and clients until it is told to stop.
    ///
    /// # Errors
    /// [`ServeError`] if the endpoint dies.
    pub async fn serve(self, handlers: Handlers, stop: CancellationToken) -> Result<(), ServeError> {
        let service = Arc::new(ClientService::new(handlers.store.clone()));
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    log_panic(ended);
                    continue;
                }
                incoming = self.0.endpoint.accept() => incoming.ok_or(ServeError::EndpointClosed)?,
            };
            let source = Source::of(&incoming.remote_addr());
            let Some((incoming, held)) = self.let_enter(incoming, source) else { continue };
            let (transport, handlers, service) = (self.clone(), handlers.clone(), service.clone());
            connections.spawn(async move {
                let Some(connection) = transport.shake_hands(incoming, source).await else { return };
                if connection.alpn() == ALPN_JOIN {
                    drop(held);
                    if !transport.serve_join(&connection, &handlers).await {
                        metrics::counter!("aspen_joins_refused_total").increment(1);
                        transport.0.gate.note_stranger(source, Instant::now());
                    }
                    return;
                }
                let Some(connection) = transport.welcome(connection).await else { return };
                drop(held);
                transport.0.gate.note_guest(source);
                let_loose(&connection);
                if connection.alpn() == ALPN_CLIENT {
                    serve_client(&connection, &service).await;
                } else if connection.alpn() == ALPN_ACTOR {
                    transport.serve_actors(&connection, &handlers.actors).await;
                } else {
                    transport.serve_connection(&connection, &handlers).await;
                }
            });
        }
    }

    /// Does what the gate says about a connection; returns it if it may have its handshake.
    fn let_enter(&self, incoming: Incoming, source: Source) -> Option<(Incoming, Place)> {
        let (addr, is_proven) = (incoming.remote_addr(), incoming.remote_addr_validated());
        let now = Instant::now();
        match self.0.gate.knock(source, is_proven, now, || self.is_known_at(&addr)) {
            Entry::Granted(place) => return Some((incoming, place)),
            Entry::Unproven => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
            }
            Entry::Refused => {
                metrics::counter!("aspen_transport_strangers_refused_total").increment(1);
                if let Some(count) = self.0.gate.note_refusal(now) {
                    tracing::warn!(
                        "strangers keep calling: {count} more were refused unseen, the last one from {}",
                        place(&addr)
                    );
                }
                incoming.refuse();
            }
            Entry::Full => {
                metrics::counter!("aspen_transport_handshakes_dropped_total").increment(1);
                incoming.ignore();
            }
        }
        None
    }

    /// Whether a known node is at an address, or comes through a relay, which has checked its key.
    fn is_known_at(&self, addr: &IncomingAddr) -> bool {
        match addr {
            IncomingAddr::Ip(addr) => self.0.book.is_known_address(addr),
            IncomingAddr::Relay { endpoint_id, .. } => self.0.guests.knows(&public_key(endpoint_id)),
            _ => false,
        }
    }

    /// Sees a connection through its handshake.
    async fn shake_hands(&self, incoming: Incoming, source: Source) -> Option<Connection> {
        let limit = Duration::from_millis(limits::WIRE_CONNECT_TIMEOUT_MS);
        let (addr, is_proven) = (incoming.remote_addr(), incoming.remote_addr_validated());
        let shaken = async {
            let accepting = incoming.accept_with(self.0.unknown.clone())?;
            accepting.await
        };
        // Whoever is turned away is where it said, or the handshake would not have got as far. One that failed or was
        // left half done tells that only if it was known before: else it might be laid at anybody's door.
        let is_there = match tokio::time::timeout(limit, shaken).await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(ConnectingError::LocallyRejected { .. })) => true,
            Ok(Err(error)) => {
                tracing::debug!("a handshake failed: {error:#}");
                is_proven
            }
            Err(_) => {
                tracing::debug!("a handshake was left half done by {}", place(&addr));
                is_proven
            }
        };
        // A node that is known is no stranger, whatever it was turned away from.
        if is_there && !self.is_known_at(&addr) {
            self.0.gate.note_stranger(source, Instant::now());
        }
        None
    }

    /// Sees a connection through its hello.
    async fn welcome(&self, connection: Connection) -> Option<Connection> {
        let limit = Duration::from_millis(limits::WIRE_CONNECT_TIMEOUT_MS);
        let greeted = async {
            if connection.alpn() == ALPN_CLIENT {
                self.answer_client_hello(&connection).await
            } else {
                self.answer_hello(&connection).await
            }
        };
        match tokio::time::timeout(limit, greeted).await {
            Ok(Ok(true)) => return self.keep(&connection).then_some(connection),
            Ok(Ok(false)) => {
                // The refusal is on its way; the caller closes once it has read it.
                tokio::time::timeout(limit, connection.closed()).await.ok();
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = %connection.remote_id().fmt_short(), "no hello: {error}");
            }
            Err(_) => tracing::debug!(peer = %connection.remote_id().fmt_short(), "no hello in time"),
        }
        connection.close(VarInt::from_u32(REFUSED), b"no valid hello");
        None
    }

    async fn answer_hello(&self, connection: &Connection) -> Result<bool, StreamError> {
        let (send, recv) = connection.accept_bi().await.map_err(std::io::Error::from)?;
        let HelloMessage::Hello(WithChannels { inner, tx, .. }) =
            read_request::<HelloProtocol>(send, recv).await?;
        let (claimed, answer) = (inner.node_id, self.receive_hello(connection, inner));
        if let Err(refusal) = &answer
            && *refusal != Refusal::Restarted
        {
            metrics::counter!("aspen_transport_hellos_refused_total").increment(1);
            tracing::warn!(peer = %claimed, "a hello from node {claimed} was refused: {refusal}");
        }
        let said = answer.as_ref().ok().map(|welcome| welcome.info.clone());
        tx.send(answer).await.map_err(|error| StreamError::Send(error.to_string()))?;
        let accepted = said.is_some();
        if let Some(own) = said {
            self.0.links.note_told(public_key(&connection.remote_id()), own);
        }
        Ok(accepted)
    }
}

impl Transport {
    async fn serve_connection(&self, connection: &Connection, handlers: &Handlers) {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = streams.join_next(), if !streams.is_empty() => log_panic(ended),
                accepted = connection.accept_bi() => {
                    let Ok((send, recv)) = accepted else {
                    if let Some(peer) = self.0.book.admitted(&public_key(&connection.remote_id())) {
                        self.0.links.note_end(peer, connection.close_reason());
                    }
                    return;
                };
                    let (transport, connection, handlers) = (self.clone(), connection.clone(), handlers.clone());
                    let peer = connection.remote_id().fmt_short().to_string();
                    let is_snapshot = connection.alpn() == ALPN_SNAPSHOT;
                    streams.spawn(async move {
                        let served = if is_snapshot {
                            serve_snapshot_stream(send, recv, handlers).await
                        } else {
                            transport.serve_raft_stream(&connection, send, recv, handlers).await
                        };
                        if let Err(error) = served {
                            tracing::debug!(%peer, "a stream ended: {error}");
                        }
                    });
                }
            }
        }
    }

    async fn serve_raft_stream(
        &self,
        connection: &Connection,
        send: SendStream,
        mut recv: RecvStream,
        handlers: Handlers,
    ) -> Result<(), StreamError> {
        let raft = &handlers.raft;
        let request: RaftRpcProtocol = read_first(&mut recv).await?;
        if let RaftRpcProtocol::ForwardMany(_) = request {
            return forward::serve(send, recv, &*handlers.forward).await;
        }
        let sent = match request.with_remote_channels(recv, send) {
            RaftRpcMessage::Append(request) => return append(request, handlers).await,
            RaftRpcMessage::ForwardMany(_) => unreachable!("its messages are read one by one"),
            RaftRpcMessage::Vote(WithChannels { inner, tx, .. }) => {
                let vote = async {
                    self.ensure_may_vote(raft)?;
                    raft.vote(inner.0).await.map_err(|error| error.to_string())
                };
                tx.send(vote.await).await
            }
            RaftRpcMessage::PreVote(WithChannels { inner, tx, .. }) => {
                let vote = async {
                    self.ensure_may_vote(raft)?;
                    raft.pre_vote(inner.0).await.map_err(|error| error.to_string())
                };
                tx.send(vote.await).await
            }
            RaftRpcMessage::TransferLeader(WithChannels { inner, tx, .. }) => {
                tx.send(raft.handle_transfer_leader(inner.0).await.map_err(|error| error.to_string())).await
            }
            RaftRpcMessage::Forward(WithChannels { inner, tx, .. }) => {
                tx.send(handlers.forward.handle(inner.0).await).await
            }
            RaftRpcMessage::Members(WithChannels { tx, .. }) => {
                tx.send(self.members_where_they_are(&observe::metrics(raft).membership_config)).await
            }
            RaftRpcMessage::AskFounding(WithChannels { tx, .. }) => {
                tx.send(self.founding_view(raft).await).await
            }
            RaftRpcMessage::AgreeToFounding(WithChannels { inner, tx, .. }) => {
                tx.send(self.agree_to_founding(connection, raft, inner.0).await).await
            }
        };
        sent.map_err(|error| StreamError::Send(error.to_string()))
    }
}

async fn serve_client(connection: &Connection, service: &Arc<ClientService>) {
    let Some(_place) = service.place() else {
        let reason =
            format!("{} clients are connected, the most that a node takes", limits::WIRE_CLIENTS_MAX_COUNT);
        connection.close(VarInt::from_u32(BUSY), reason.as_bytes());
        return;
    };
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = streams.join_next(), if !streams.is_empty() => log_panic(ended),
            accepted = connection.accept_bi() => {
                let Ok((send, recv)) = accepted else { return };
                // Dropped, which ends it: left alone it would hold what the client sends on it.
                if streams.len() == limits::WIRE_CLIENT_STREAMS_MAX_COUNT {
                    continue;
                }
                let service = service.clone();
                let client = connection.remote_id().fmt_short().to_string();
                streams.spawn(async move {
                    if let Err(error) = service.serve(send, recv).await {
                        tracing::debug!(%client, "a client's stream ended: {error}");
                    }
                });
            }
        }
    }
}

/// Where somebody is, for a log line.
fn place(addr: &IncomingAddr) -> String {
    match addr {
        IncomingAddr::Ip(addr) => addr.to_string(),
        IncomingAddr::Relay { url, endpoint_id } => format!("{} through {url}", endpoint_id.fmt_short()),
        other => format!("{other:?}"),
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::counter!("aspen_transport_panics_total").increment(1);
        tracing::error!("answering a peer failed unexpectedly: {error}");
    }
}

type Requests = mpsc::Receiver<AppendEntriesRequest<TypeConfig>>;

/// Feeds a stream of append-entries to Raft, and its results back, in order.
async fn append(
    request: WithChannels<AppendStream, RaftRpcProtocol>,
    handlers: Handlers,
) -> Result<(), StreamError> {
    let WithChannels { tx, rx, .. } = request;
    let disk = handlers.disk;
    let requests = futures::stream::unfold(rx, move |mut rx: Requests| {
        let disk = disk.clone();
        async move {
            // The leader ends a stream that has nothing to do. What is left then is half a message.
            let abandoned = Duration::from_millis(limits::STREAM_ABANDONED_MS);
            let request = match tokio::time::timeout(abandoned, rx.recv()).await {
                Ok(Ok(request)) => request?,
                Ok(Err(error)) => {
                    tracing::debug!("a stream of appends broke off: {error}");
                    return None;
                }
                Err(_) => {
                    tracing::debug!("a stream of appends was abandoned");
                    return None;
                }
            };
            // Heartbeats pass, so that the leader is not lost; it sends the entries again later.
            if !request.entries.is_empty() && !disk.room_for_entries(payload_bytes(&request)).await {
                return None;
            }
            Some((request, rx))
        }
    });
    let requests = handlers.freshness.listen(&handlers.raft, handlers.reader, requests);
    let mut results = std::pin::pin!(handlers.raft.stream_append(requests));
    while let Some(result) = results.next().await {
        let result = result.map_err(|fatal| StreamError::Send(fatal.to_string()))?;
        tx.send(result).await.map_err(|error| StreamError::Send(error.to_string()))?;
    }
    Ok(())
}

fn payload_bytes(request: &AppendEntriesRequest<TypeConfig>) -> u64 {
    let payloads = request.entries.iter().map(|entry| match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len() as u64,
        // So small that the last reserve holds any number of them.
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    });
    payloads.sum()
}

async fn serve_snapshot_stream(
    send: SendStream,
    recv: RecvStream,
    handlers: Handlers,
) -> Result<(), StreamError> {
    let SnapshotRpcMessage::Install(WithChannels { inner, tx, mut rx, .. }) =
        read_request::<SnapshotRpcProtocol>(send, recv).await?;
    let installed = super::snapshot::receive(&handlers, inner, &mut rx).await;
    if let Err(reason) = &installed {
        tracing::warn!("a snapshot from the leader was not installed: {reason}");
    }
    tx.send(installed).await.map_err(|error| StreamError::Send(error.to_string()))
}
