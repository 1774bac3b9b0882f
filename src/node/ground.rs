//! What stands before anything of a node runs: its configuration is resolved, its data directory is its own,
//! and its ports are open.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, HIQLITE_DIR};
use super::error::NodeError;
use super::identity::Identity;
use super::join::{ComeIn, ComeInError};
use crate::config::{Bootstrap, Config, NetworkProfile, Paths, PeerSetting, Relay, Storage};
use crate::kv::token::HttpToken;
use crate::kv::types::{Founders, NodeId, Peer};
use crate::storage::log_redb::LOG_FILE;
use crate::storage::metadata::{METADATA_FILE, Metadata};
use crate::storage::state_redb::STATE_FILE;
use crate::transport::peers::{DeclareError, PeerBook};
use crate::transport::relay::{self, Reach};
use crate::transport::ticket::NodeTicket;
use crate::transport::{LinkTimeouts, Transport, TransportSettings};

/// See the module.
pub(super) struct Ground {
    pub(super) config: Config,
    pub(super) data_dir: DataDir,
    pub(super) metadata: Metadata,
    pub(super) transport: Transport,
    pub(super) token: Option<HttpToken>,
    /// The ticket to join a cluster with, if the node was given one.
    pub(super) come_in: Option<ComeIn>,
    pub(super) listener: TcpListener,
    pub(super) http_addr: SocketAddr,
    /// Where the relay that this node serves listens, if it serves one.
    pub(super) relay: Option<TcpListener>,
}

impl Ground {
    /// Prepares it, unless the node is asked to stop while it waits to be let into a cluster.
    pub(super) async fn prepare(
        config: Config,
        asked_to_stop: &CancellationToken,
    ) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        if data_dir.path().join(HIQLITE_DIR).exists() {
            let (dir, backend) = (data_dir.path().to_owned(), "hiqlite");
            return Err(NodeError::OtherBackend { dir, holds: HIQLITE_DIR, backend });
        }
        let identity = Identity::resolve(
            data_dir.path(),
            config.secret_key_file.as_deref(),
            config.credentials_dir.as_deref(),
        )?;
        let come_in = config.read_join_ticket()?;
        let come_in = come_in.map(|ticket| ComeIn::new(ticket.expose(), &config)).transpose()?;
        let pass = come_in.as_ref().map(|come_in| come_in.relay_pass(&identity));
        let reach = Reach { pass, ..reach(&config) };
        if let Some(come_in) = &come_in {
            // On the heap: it holds a whole endpoint, and is run once in a node's life.
            let settled = Box::pin(come_in.settle(&config, data_dir.path(), &identity, &reach));
            asked_to_stop.run_until_cancelled(settled).await.ok_or(ComeInError::Stopped)??;
        }
        let metadata = metadata(&config, &data_dir, &identity)?;
        let book = book(&config, &metadata)?;
        let token = config.read_http_token()?.map(|secret| HttpToken::new(secret.expose())).transpose()?;

        let listener = TcpListener::bind(config.http_addr).await;
        let listener = listener.map_err(|source| NodeError::Http { addr: config.http_addr, source })?;
        let http_addr =
            listener.local_addr().map_err(|source| NodeError::Http { addr: config.http_addr, source })?;
        let relay = match config.serve_relay {
            Some(addr) => Some(listen_for_relay(addr).await?),
            None => None,
        };
        let founders = founders(&config, &metadata)?;
        let settings = transport_settings(&config, &identity, reach, http_addr, founders);
        let transport = Box::pin(Transport::bind(settings, metadata.clone(), book)).await?;

        Ok(Self { config, data_dir, metadata, transport, token, come_in, listener, http_addr, relay })
    }
}

fn metadata(config: &Config, data_dir: &DataDir, identity: &Identity) -> Result<Metadata, NodeError> {
    match config.storage {
        Storage::Redb => {
            let path = data_dir.path().join(METADATA_FILE);
            // The metadata is made first. To make it anew beside a log would give that log another owner.
            let mut others = [LOG_FILE, STATE_FILE].into_iter();
            let left = others.find(|name| data_dir.path().join(name).exists());
            if let Some(holds) = left.filter(|_| !path.exists()) {
                return Err(NodeError::MetadataMissing { path, holds });
            }
            let metadata = Metadata::open(data_dir.path(), config.node_id, identity.public_key())?;
            if metadata.recovery().is_some() {
                return Err(NodeError::RecoveryUnfinished { dir: data_dir.path().to_owned() });
            }
            Ok(metadata)
        }
        // A memory that forgets its votes must not remember that it has a cluster.
        Storage::Memory => {
            Ok(Metadata::in_memory(config.node_id.unwrap_or(NodeId(1)), identity.public_key()))
        }
    }
}

/// The peers that the configuration names, and those that were known at the last stop.
fn book(config: &Config, metadata: &Metadata) -> Result<PeerBook, NodeError> {
    let book = PeerBook::new(metadata.node_id(), metadata.public_key());
    for peer in metadata.peers() {
        if let Err(error) = book.declare(peer) {
            tracing::warn!("a peer that was known at the last stop is left out: {error}");
        }
    }
    for setting in &config.peers {
        match book.declare_configured(peer(setting)?) {
            // One list of peers for all nodes names each of them as well.
            Ok(()) | Err(DeclareError::Own(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    book.recall_members(&metadata.once_members());
    Ok(book)
}

/// The node that a setting names.
pub(super) fn peer(setting: &PeerSetting) -> Result<Peer, NodeError> {
    match setting {
        PeerSetting::Ticket(ticket) => Ok(ticket.parse::<NodeTicket>()?.into()),
        PeerSetting::Node(peer) => Ok(peer.clone()),
    }
}

/// The nodes that this one is to found a cluster with: those that the configuration names, and no others.
fn founders(config: &Config, metadata: &Metadata) -> Result<Option<Founders>, NodeError> {
    if config.bootstrap != Bootstrap::Static {
        return Ok(None);
    }
    let own = (metadata.node_id(), metadata.public_key());
    let mut named = Vec::new();
    for setting in &config.peers {
        let Peer { node_id, info } = peer(setting)?;
        named.push((node_id, info.public_key));
    }
    Ok(Some(Founders::new(own, named)))
}

fn transport_settings(
    config: &Config,
    identity: &Identity,
    reach: Reach,
    http_addr: SocketAddr,
    founders: Option<Founders>,
) -> TransportSettings {
    TransportSettings {
        secret_key: identity.secret_key().clone(),
        reach,
        mdns: config.iroh_mdns,
        timeouts: match config.network_profile {
            NetworkProfile::Lan => LinkTimeouts::lan(),
            NetworkProfile::Wan => LinkTimeouts::wan(),
        },
        client_keys: config.client_keys.iter().copied().collect(),
        http_addr: Some(http_addr),
        founders,
    }
}

async fn listen_for_relay(addr: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(addr).await.map_err(|source| NodeError::Relay { addr, source })
}

fn reach(config: &Config) -> Reach {
    Reach {
        bind_addr: config.iroh_addr,
        relay: match config.relay() {
            Relay::Disabled => relay::Relay::Disabled,
            Relay::N0 => relay::Relay::N0,
            Relay::Url(url) => relay::Relay::Url(url),
        },
        paths: match config.iroh_paths {
            Paths::All => relay::Paths::All,
            Paths::Relay => relay::Paths::RelayOnly,
        },
        pass: None,
    }
}
