//! Tickets and known peers for the HTTP API, over the transport.

use async_trait::async_trait;

use crate::api::{PeerError, PeerExchange};
use crate::kv::json::{Connection, KnownPeer};
use crate::kv::types::{Peer, SecretHash};
use crate::limits;
use crate::storage::metadata::Metadata;
use crate::transport::Transport;
use crate::transport::join_ticket::{JoinSecret, JoinTicket};
use crate::transport::ticket::NodeTicket;

/// Exchanges tickets at runtime.
pub(super) struct Exchange {
    transport: Transport,
    metadata: Metadata,
}

impl Exchange {
    pub(super) fn new(transport: Transport, metadata: Metadata) -> Self {
        Self { transport, metadata }
    }
}

#[async_trait]
impl PeerExchange for Exchange {
    fn ticket(&self) -> String {
        NodeTicket(self.transport.own_peer()).to_string()
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        let known = |Peer { node_id, info }: Peer| {
            let is_connected = !self.transport.connections_of(info.public_key).is_empty();
            KnownPeer {
                node_id,
                public_key: info.public_key,
                addresses: info.addresses,
                relay_url: info.relay_url,
                http_addr: info.http_addr,
                connection: if is_connected { Connection::Connected } else { Connection::None },
                last_error: self.transport.last_error(node_id),
            }
        };
        self.transport.book().all().into_iter().map(known).collect()
    }

    fn parse_ticket(&self, ticket: &str) -> Result<Peer, PeerError> {
        let refuse = |reason: String| PeerError::BadTicket { ticket: ticket.to_owned(), reason };
        let peer: Peer = ticket.parse::<NodeTicket>().map_err(|error| refuse(error.to_string()))?.into();
        self.transport.book().check(&peer).map_err(|error| refuse(error.to_string()))?;
        Ok(peer)
    }

    fn draw_join_ticket(&self) -> Option<(String, SecretHash)> {
        let secret = JoinSecret::random();
        let (hash, members) =
            (secret.hash(), self.transport.some_members(limits::JOIN_TICKET_MEMBERS_MAX_COUNT));
        let ticket = JoinTicket { cluster_id: self.metadata.cluster_id()?, members, secret };
        Some((ticket.to_string(), hash))
    }

    async fn add_peers(&self, peers: Vec<Peer>) -> Result<(), PeerError> {
        let not_saved = |reason: String| PeerError::NotSaved { reason };
        let book = self.transport.book();
        for peer in peers {
            book.declare(peer).map_err(|error| not_saved(error.to_string()))?;
        }
        let (metadata, peers, once_members) = (self.metadata.clone(), book.to_keep(), book.once_members());
        let saved = tokio::task::spawn_blocking(move || metadata.save_peers(&peers, &once_members)).await;
        saved.map_err(|error| not_saved(error.to_string()))?.map_err(|error| not_saved(error.to_string()))
    }
}
