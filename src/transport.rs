//! The network of a node: one iroh endpoint, known by its key, with QUIC connections by purpose.
//!
//! It carries Raft's messages, snapshots, requests that followers forward, and those of clients. It must
//! never let a stranger's bytes past the handshake, and never let one stream's trouble become another's.
//!
//! # Tiger Style
//! - A connection is admitted by key and purpose in the handshake, and again by what it says at its
//!   hello.
//! - Until then it has two streams and a window of 64 KiB, and strangers use up their own share of
//!   handshakes.
//! - Every message has a size limit, checked before memory is taken, and every wait a bound.
//! - Bulk never shares a connection with heartbeats and votes.

pub mod actor;
pub mod admission;
mod chosen_path;
pub mod client;
mod failures;
mod forward;
pub mod founding;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gate;
mod heartbeat;
mod hello;
pub mod join;
pub mod join_ticket;
mod link;
mod mdns;
pub mod network;
mod numbered;
pub mod peers;
mod places;
mod protocol;
pub mod relay;
pub mod server;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod ticket;
pub mod tls;
pub mod vouching;
mod whereabouts;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iroh::address_lookup::MemoryLookup;
use iroh::endpoint::{Connection, QuicTransportConfig, QuicTransportConfigBuilder, ServerConfig, VarInt};
use iroh::{Endpoint, SecretKey, TransportAddr};
use iroh_metrics::Registry;
use iroh_relay::server::Metrics as RelayFigures;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use self::admission::{Admission, DoorLog, GuestList};
use self::forward::ForwardLines;
use self::gate::Gate;
use self::link::Links;
use self::network::Network;
use self::peers::PeerBook;
use self::relay::{Reach, Relay};
use crate::kv::types::{Founders, NodeId, NodeInfo, Peer, PublicKey};
use crate::limits;
use crate::storage::metadata::Metadata;
use crate::storage::state::StateReader;
use crate::storage::tables::StateError;

/// How long the transport waits, fit for the kind of link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimeouts {
    /// A connection without a sign of life for this long is dead.
    pub idle: Duration,
    /// Time between two signs of life.
    pub keep_alive: Duration,
    /// A path (one pair of addresses) without a sign of life for this long is given up.
    pub path_idle: Duration,
    /// Setting a connection up, hello included.
    pub connect: Duration,
    /// An answer to a heartbeat.
    pub rpc: Duration,
    /// The next answer on a stream of appends or the next piece of a snapshot; it includes an fsync.
    pub stall: Duration,
}

impl LinkTimeouts {
    /// For machines in one network.
    pub fn lan() -> Self {
        Self {
            idle: Duration::from_secs(3),
            keep_alive: Duration::from_secs(1),
            path_idle: Duration::from_secs(2),
            connect: Duration::from_secs(3),
            rpc: Duration::from_secs(1),
            stall: Duration::from_secs(5),
        }
    }

    /// For machines at several sites, and for links over relays.
    pub fn wan() -> Self {
        Self {
            idle: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
            path_idle: Duration::from_secs(6),
            connect: Duration::from_secs(10),
            rpc: Duration::from_secs(4),
            stall: Duration::from_secs(15),
        }
    }
}

/// What the endpoint is made of.
#[derive(Clone, Debug)]
pub struct TransportSettings {
    /// This node's key.
    pub secret_key: SecretKey,
    /// How to reach others.
    pub reach: Reach,
    /// Whether to announce this node on the local network, and to look for others there.
    pub mdns: bool,
    /// How long to wait.
    pub timeouts: LinkTimeouts,
    /// The keys of clients that may read and write.
    pub client_keys: BTreeSet<PublicKey>,
    /// Where this node's HTTP API listens, told to others as a hint for clients.
    pub http_addr: Option<SocketAddr>,
    /// The nodes that this one is to found a cluster with, if it is to.
    pub founders: Option<Founders>,
}

/// Why the endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket address cannot be used.
    #[error("the UDP address {addr} cannot be used for iroh: {reason}; is another process using it?")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// The error of the system.
        reason: String,
    },
}

/// This node's end of the network. Clones share it.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    metadata: Metadata,
    book: PeerBook,
    guests: GuestList,
    gate: Gate,
    /// What a connection may do before its caller is let in.
    unknown: Arc<ServerConfig>,
    links: Links,
    forward_lines: ForwardLines,
    timeouts: LinkTimeouts,
    reach: Reach,
    http_addr: Option<SocketAddr>,
    founders: Option<Founders>,
    /// The state, which tells the data directories that members are known by.
    reader: OnceLock<StateReader>,
    /// Strangers that may be served at a time.
    joins: Semaphore,
    door_log: DoorLog,
    /// Those of the relay that this node serves, if it serves one.
    relay_figures: OnceLock<Arc<RelayFigures>>,
    /// Tells this process from an earlier one of the same node.
    boot: u64,
    /// Runs for as long as there is the endpoint.
    _mdns: Option<AbortOnDropHandle<()>>,
}

impl Transport {
    /// Opens the endpoint. Connections are accepted once [`Transport::serve`] runs.
    ///
    /// # Errors
    /// [`BindError`] if the address is taken or not this machine's.
    pub async fn bind(
        settings: TransportSettings,
        metadata: Metadata,
        book: PeerBook,
    ) -> Result<Self, BindError> {
        tls::choose_provider();
        let lookup = MemoryLookup::new();
        book.publish_to(lookup.clone());
        let guests = GuestList::new(book.clone(), settings.client_keys);
        let reach = settings.reach;
        let refused = |reason: String| BindError::Socket { addr: reach.bind_addr, reason };
        let door_log = DoorLog::default();
        let endpoint = reach
            .builder(settings.secret_key)
            .map_err(refused)?
            .alpns(protocol::ALPNS.iter().map(|alpn| alpn.to_vec()).collect())
            .address_lookup(lookup)
            .hooks(Admission::new(guests.clone(), door_log.clone(), metadata.clone()))
            .transport_config(quic(&settings.timeouts))
            .bind()
            .await
            .map_err(|error| refused(format!("{error:#}")))?;
        let alpns = protocol::ALPNS.iter().map(|alpn| alpn.to_vec()).collect();
        let unknown = endpoint.create_server_config_builder(alpns);
        let unknown = unknown.set_transport_config(quic_of_unknown(&settings.timeouts)).build();
        let mdns = settings.mdns.then(|| mdns::start(&endpoint, book.clone()));
        Ok(Self(Arc::new(Inner {
            gate: Gate::new(),
            unknown: Arc::new(unknown),
            links: Links::default(),
            forward_lines: ForwardLines::default(),
            endpoint,
            metadata,
            book,
            guests,
            timeouts: settings.timeouts,
            reach,
            http_addr: settings.http_addr,
            founders: settings.founders,
            reader: OnceLock::new(),
            joins: Semaphore::new(limits::JOIN_RUNNING_MAX_COUNT),
            door_log,
            relay_figures: OnceLock::new(),
            boot: rand::random(),
            _mdns: mdns,
        })))
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.0.metadata.node_id()
    }

    /// The number of this process among those of the same node, drawn when it started.
    pub fn boot(&self) -> u64 {
        self.0.boot
    }

    /// The nodes that this one knows.
    pub fn book(&self) -> &PeerBook {
        &self.0.book
    }

    /// The nodes that this one is to found a cluster with, if it is to.
    pub fn founders(&self) -> Option<&Founders> {
        self.0.founders.as_ref()
    }

    /// From now on, members are told from those that lost their disk, and from those that were removed, by what
    /// this state knows of them.
    pub fn trust(&self, reader: StateReader) {
        // A second one would read the same.
        self.0.reader.set(reader).ok();
        if let Err(error) = self.shut_out_former_members() {
            tracing::warn!("who was removed from the cluster cannot be read yet: {error}");
        }
    }

    /// Waits until the state has an entry of the log, which may come in a snapshot, and shuts out whom it tells to
    /// be a member no more.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub async fn learn_of_former_members(&self, index: u64) -> Result<(), StateError> {
        let Some(reader) = self.0.reader.get() else { return Ok(()) };
        reader.applied(index).await;
        self.shut_out_former_members()
    }

    fn shut_out_former_members(&self) -> Result<(), StateError> {
        // An empty state tells of nobody, as it knows of no cluster.
        let Some(reader) = self.0.reader.get().filter(|reader| reader.applied_index().is_some()) else {
            return Ok(());
        };
        self.cut_off(&self.0.book.set_former_members(&reader.former_members()?));
        Ok(())
    }

    /// The state, once it is open.
    fn reader(&self) -> Option<&StateReader> {
        self.0.reader.get()
    }

    /// The network that Raft sends through.
    pub fn network(&self) -> Network {
        Network::new(self.clone())
    }

    /// What others need to know to reach this node, at this moment.
    pub fn own_peer(&self) -> Peer {
        let addr = self.0.endpoint.addr();
        let mut addresses: Vec<SocketAddr> = if self.0.reach.bind_addr.ip().is_unspecified() {
            addr.ip_addrs().copied().collect()
        } else {
            self.0.endpoint.bound_sockets()
        };
        // Others take no more of them.
        addresses.truncate(limits::PEER_ADDRESSES_MAX_COUNT);
        // Before it has got there, it is on its way to its own relay.
        let own = match &self.0.reach.relay {
            Relay::Url(url) => Some(url),
            Relay::Disabled | Relay::N0 => None,
        };
        let relay_url = addr.relay_urls().next().or(own).map(ToString::to_string);
        let public_key = PublicKey(*self.0.endpoint.id().as_bytes());
        let info = NodeInfo { public_key, addresses, relay_url, http_addr: self.0.http_addr };
        Peer { node_id: self.node_id(), info }
    }

    /// Drops the connections of a node that is no longer let in.
    pub fn cut_off(&self, keys: &[PublicKey]) {
        for key in keys {
            self.0.links.shut_out(*key);
        }
    }

    /// The open connections to and from a node.
    pub fn connections_of(&self, key: PublicKey) -> Vec<PeerConnection> {
        self.0.links.connections_of(key).iter().map(PeerConnection::of).collect()
    }

    /// Why the last attempt to reach a node failed, unless one has succeeded since.
    pub fn last_error(&self, node_id: NodeId) -> Option<String> {
        self.0.links.failure_of(node_id)
    }

    /// iroh's own figures, as OpenMetrics text.
    ///
    /// # Errors
    /// If a figure cannot be formatted.
    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        let sub_registry = registry.sub_registry_with_prefix("aspen_iroh");
        sub_registry.register_all(self.0.endpoint.metrics());
        if let Some(figures) = self.0.relay_figures.get() {
            sub_registry.register(figures.clone());
        }
        let mut text = String::new();
        registry.encode_openmetrics_to_writer(&mut text).map_err(|_| std::fmt::Error)?;
        Ok(text)
    }

    /// Says goodbye to all peers and closes the endpoint, within a second.
    pub async fn close(&self) {
        // With dead peers the orderly way takes seconds, and they cannot hear it.
        if tokio::time::timeout(Duration::from_secs(1), self.0.endpoint.close()).await.is_err() {
            tracing::debug!("the iroh endpoint was closed without waiting for all peers");
        }
    }
}

fn quic(timeouts: &LinkTimeouts) -> QuicTransportConfig {
    let streams = VarInt::from_u32(limits::WIRE_STREAMS_MAX_COUNT);
    quic_builder(timeouts).max_concurrent_bidi_streams(streams).build()
}

/// The same for callers, of whom nothing is known yet. They get the rest with [`let_loose`].
fn quic_of_unknown(timeouts: &LinkTimeouts) -> QuicTransportConfig {
    quic_builder(timeouts)
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::WIRE_UNKNOWN_STREAMS_MAX_COUNT))
        .receive_window(VarInt::from_u32(limits::WIRE_UNKNOWN_WINDOW_BYTES))
        .build()
}

/// Gives a caller that was let in what a connection may have.
fn let_loose(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(limits::WIRE_WINDOW_BYTES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits::WIRE_STREAMS_MAX_COUNT));
}

fn quic_builder(timeouts: &LinkTimeouts) -> QuicTransportConfigBuilder {
    let idle = timeouts.idle.try_into().expect("the idle timeout is some seconds");
    // The stream receive window keeps its default: larger ones have killed connections.
    QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(timeouts.keep_alive)
        .default_path_max_idle_timeout(timeouts.path_idle)
        .default_path_keep_alive_interval(timeouts.keep_alive)
        .receive_window(VarInt::from_u32(limits::WIRE_WINDOW_BYTES))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
}

/// One open connection, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConnection {
    /// What it is for.
    pub alpn: String,
    /// Round trip on the path in use.
    pub rtt: Option<Duration>,
    /// The path in use: an address, or a relay.
    pub path: Option<String>,
    /// Whether that is a relay.
    pub is_relayed: bool,
}

impl PeerConnection {
    fn of(connection: &Connection) -> Self {
        let paths = connection.paths();
        let selected = paths.iter().find(|path| path.is_selected());
        Self {
            alpn: String::from_utf8_lossy(connection.alpn()).into_owned(),
            rtt: selected.as_ref().map(|path| path.rtt()),
            is_relayed: selected.as_ref().is_some_and(|path| path.is_relay()),
            path: selected.map(|path| match path.remote_addr() {
                TransportAddr::Ip(addr) => addr.to_string(),
                TransportAddr::Relay(url) => url.to_string(),
                other => format!("{other:?}"),
            }),
        }
    }
}
