//! Tickets and known peers: what a node exchanges with others at runtime, so that a new address
//! needs no restart.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::extract::State;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use crate::kv::json::{AddPeersForm, KnownPeer, PeersForm};
use crate::kv::types::{Peer, SecretHash};

/// What the API needs of the transport.
#[async_trait]
pub trait PeerExchange: Send + Sync + 'static {
    /// This node's own ticket, with the addresses that it has now.
    fn ticket(&self) -> String;

    /// The nodes that this one knows of, without itself, and how it is connected to them.
    fn known_peers(&self) -> Vec<KnownPeer>;

    /// The node that a ticket stands for.
    ///
    /// # Errors
    /// [`PeerError::BadTicket`].
    fn parse_ticket(&self, ticket: &str) -> Result<Peer, PeerError>;

    /// A new ticket for nodes that shall come into the cluster, with the hash of its secret. None while this
    /// node belongs to no cluster.
    fn draw_join_ticket(&self) -> Option<(String, SecretHash)>;

    /// Gets to know nodes, or newer addresses of them, for as long as the data directory lives.
    ///
    /// # Errors
    /// [`PeerError::NotSaved`].
    async fn add_peers(&self, peers: Vec<Peer>) -> Result<(), PeerError>;
}

/// Why tickets were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A string that is no ticket, or one of a node that cannot be a peer here.
    #[error("'{ticket}' cannot be used as a ticket: {reason}")]
    BadTicket {
        /// The string.
        ticket: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The peers could not be written down.
    #[error("the peers could not be saved: {reason}")]
    NotSaved {
        /// What failed.
        reason: String,
    },
    /// The chosen control backend knows no peers beside its members.
    #[error("the control backend '{backend}' has no peers beside its members")]
    UnsupportedByBackend {
        /// The backend.
        backend: String,
    },
}

impl PeerError {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BadTicket { .. } => "bad_ticket",
            Self::NotSaved { .. } => "peers_not_saved",
            Self::UnsupportedByBackend { .. } => "unsupported_by_backend",
        }
    }

    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::BadTicket { .. } => {
                "copy the other node's ticket anew: `aspen ticket` there, or the file 'endpoint' in its data directory"
            }
            Self::NotSaved { .. } => "look at the node's log and its disk",
            Self::UnsupportedByBackend { .. } => "add it as a learner, or use the control backend 'raft'",
        }
    }
}

/// The own ticket and all known peers.
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<PeersForm> {
    Json(known(&shared))
}

/// Adds peers; all of them, or none if one ticket is bad.
pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<AddPeersForm>,
) -> Result<Json<PeersForm>, ApiError> {
    let tickets = &body.value.peers;
    let peers =
        tickets.iter().map(|ticket| shared.api.peers.parse_ticket(ticket)).collect::<Result<_, _>>()?;
    shared.api.peers.add_peers(peers).await?;
    Ok(Json(known(&shared)))
}

fn known(shared: &Shared) -> PeersForm {
    PeersForm { ticket: shared.api.peers.ticket(), peers: shared.api.peers.known_peers() }
}
