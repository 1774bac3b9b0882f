//! Coming into a cluster with a ticket: the one thing that a stranger may ask for, and both sides of it.
//!
//! # Tiger Style
//! - A stranger sends one message of at most [`limits::JOIN_REQUEST_MAX_BYTES`], in
//!   [`limits::WIRE_REQUEST_READ_TIMEOUT_MS`], and gets one answer.
//! - At most [`limits::JOIN_RUNNING_MAX_COUNT`] strangers are served at a time; a further one is turned away.
//! - Without a ticket that this cluster knows, nothing is written anywhere.

use std::net::SocketAddr;
use std::time::Duration;

use iroh::endpoint::{Connection, VarInt};
use iroh::{Endpoint, SecretKey};
use irpc::WithChannels;
use irpc::channel::oneshot;
use irpc::rpc_requests;
use irpc_iroh::IrohRemoteConnection;
use serde::{Deserialize, Serialize};

use super::Transport;
use super::frame::{StreamError, read_request_within};
use super::join_ticket::{JoinSecret, JoinTicket};
use super::protocol::ALPN_JOIN;
use super::relay::Reach;
use super::server::Handlers;
use super::ticket::{endpoint_addr, public_key};
use crate::kv::types::{
    ClusterError, ClusterId, JoinCall, JoinRefusal, Joiner, NodeId, NodeInfo, Peer, PublicKey,
};
use crate::limits;

/// The code that a stranger is turned away with while too many are served.
const BUSY: u32 = 503;

/// What a stranger may send.
#[rpc_requests(message = JoinMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum JoinProtocol {
    /// To be let in.
    #[rpc(tx = oneshot::Sender<Result<Welcomed, ClusterError>>)]
    Join(JoinRequest),
}

/// To be let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The ticket's cluster.
    pub cluster_id: ClusterId,
    /// The ticket's secret.
    pub secret: JoinSecret,
    /// Drawn when the new node's data directory was made.
    pub incarnation: u64,
    /// Whether it is to get a vote once it has caught up.
    pub wants_vote: bool,
    /// Where it is, once it can be reached: then it is made a member.
    pub info: Option<NodeInfo>,
}

/// The answer to a node that is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcomed {
    /// Its id from now on.
    pub node_id: NodeId,
    /// The members.
    pub members: Vec<Peer>,
}

/// Why a new node was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The cluster says no, and will.
    #[error("{refusal}; {}", refusal.action())]
    Refused {
        /// Its reason.
        refusal: JoinRefusal,
    },
    /// No member has let it in so far.
    #[error("{0}")]
    NotYet(String),
}

impl Transport {
    /// Serves one stranger; true if it had a ticket that this cluster took.
    pub(super) async fn serve_join(&self, connection: &Connection, handlers: &Handlers) -> bool {
        let Ok(_permit) = self.0.joins.try_acquire() else {
            connection.close(VarInt::from_u32(BUSY), b"too many new nodes at a time: try again");
            return false;
        };
        let came_in = match self.answer_join(connection, handlers).await {
            Ok(came_in) => {
                // The answer is on its way; the caller closes once it has read it.
                let limit = Duration::from_millis(limits::WIRE_CONNECT_TIMEOUT_MS);
                tokio::time::timeout(limit, connection.closed()).await.ok();
                came_in
            }
            Err(error) => {
                tracing::debug!(peer = %connection.remote_id().fmt_short(), "a stranger asked for nothing: {error}");
                false
            }
        };
        connection.close(VarInt::from_u32(0), b"answered");
        came_in
    }

    /// Answers a request to be let in, and says whether it was.
    async fn answer_join(&self, connection: &Connection, handlers: &Handlers) -> Result<bool, StreamError> {
        let limit = Duration::from_millis(limits::WIRE_REQUEST_READ_TIMEOUT_MS);
        let accepted = tokio::time::timeout(limit, connection.accept_bi()).await;
        let accepted = accepted.map_err(|_| StreamError::TooSlow(limits::WIRE_REQUEST_READ_TIMEOUT_MS))?;
        let (send, recv) = accepted.map_err(std::io::Error::from)?;
        let JoinMessage::Join(WithChannels { inner, tx, .. }) =
            read_request_within::<JoinProtocol>(send, recv, limits::JOIN_REQUEST_MAX_BYTES).await?;
        let key = public_key(&connection.remote_id());
        let answer = self.join(key, inner, handlers).await;
        match &answer {
            Ok(Welcomed { node_id, .. }) => {
                tracing::info!(%key, "a new node comes in with a ticket, as node {node_id}");
                // It calls before it is a member here, and comes again.
                self.0.door_log.expect_call_of(key);
            }
            Err(error) => {
                tracing::warn!(%key, "a new node was not let in: {error}");
            }
        }
        let came_in = answer.is_ok();
        tx.send(answer).await.map_err(|error| StreamError::Send(error.to_string()))?;
        Ok(came_in)
    }

    async fn join(
        &self,
        public_key: PublicKey,
        request: JoinRequest,
        handlers: &Handlers,
    ) -> Result<Welcomed, ClusterError> {
        let JoinRequest { cluster_id: given, secret, incarnation, wants_vote, info } = request;
        let own = self.0.metadata.cluster_id();
        if own != Some(given) {
            return Err(JoinRefusal::OtherCluster { given, own }.into());
        }
        let joiner = Joiner { public_key, incarnation, wants_vote };
        let info = info.map(|info| NodeInfo { public_key, ..info });
        let node_id = handlers.forward.join(JoinCall { hash: secret.hash(), joiner, info }).await?;
        Ok(Welcomed { node_id, members: self.some_members(limits::PEER_ADDRESSES_MAX_COUNT) })
    }

    /// This node, and other members, up to a number.
    pub fn some_members(&self, max_count: usize) -> Vec<Peer> {
        let others = self.book().members().into_iter().filter_map(|node_id| self.book().lookup(node_id));
        [self.own_peer()].into_iter().chain(others).take(max_count).collect()
    }

    /// Asks members, one after the other, to be made one of them.
    ///
    /// # Errors
    /// [`JoinError`], of the last one that was asked.
    pub async fn ask_to_join(&self, members: &[Peer], request: JoinRequest) -> Result<Welcomed, JoinError> {
        let request = JoinRequest { info: Some(self.own_peer().info), ..request };
        let own = self.node_id();
        let others: Vec<Peer> = members.iter().filter(|peer| peer.node_id != own).cloned().collect();
        ask_in_turn(&self.0.endpoint, &others, &request, self.0.timeouts.connect).await
    }
}

/// Takes a ticket to the members that it names, before the node has an id: from an endpoint of its own, at
/// any port.
///
/// # Errors
/// [`JoinError`], of the last one that was asked.
pub async fn redeem(
    secret_key: SecretKey,
    reach: &Reach,
    ticket: &JoinTicket,
    request: &JoinRequest,
) -> Result<Welcomed, JoinError> {
    let failed = |reason: String| JoinError::NotYet(format!("no iroh endpoint: {reason}"));
    let reach = Reach { bind_addr: SocketAddr::new(reach.bind_addr.ip(), 0), ..reach.clone() };
    let builder = reach.builder(secret_key).map_err(failed)?;
    let endpoint = builder.bind().await.map_err(|error| failed(format!("{error:#}")))?;
    let patience = Duration::from_millis(limits::WIRE_CONNECT_TIMEOUT_MS);
    let answer = ask_in_turn(&endpoint, &ticket.members, request, patience).await;
    // A second is enough to say goodbye: members must not send to this port once the node has another.
    tokio::time::timeout(Duration::from_secs(1), endpoint.close()).await.ok();
    answer
}

async fn ask_in_turn(
    endpoint: &Endpoint,
    members: &[Peer],
    request: &JoinRequest,
    connect_within: Duration,
) -> Result<Welcomed, JoinError> {
    let mut failure = JoinError::NotYet("no member is known to ask".to_owned());
    for Peer { node_id, info } in members {
        match ask(endpoint, info, request.clone(), connect_within).await {
            Ok(Ok(welcomed)) => return Ok(welcomed),
            Ok(Err(ClusterError::JoinRefused(refusal))) => return Err(JoinError::Refused { refusal }),
            Ok(Err(error)) => failure = JoinError::NotYet(format!("node {node_id} answers: {error}")),
            Err(reason) => failure = JoinError::NotYet(format!("node {node_id} gives no answer: {reason}")),
        }
    }
    Err(failure)
}

async fn ask(
    endpoint: &Endpoint,
    member: &NodeInfo,
    request: JoinRequest,
    connect_within: Duration,
) -> Result<Result<Welcomed, ClusterError>, String> {
    let addr = endpoint_addr(member).ok_or_else(|| "its key is not valid".to_owned())?;
    let connected = tokio::time::timeout(connect_within, endpoint.connect(addr, ALPN_JOIN)).await;
    let connected =
        connected.map_err(|_| format!("no connection within {} ms", connect_within.as_millis()))?;
    let connection = connected.map_err(|error| format!("no connection: {error:#}"))?;
    let client = irpc::Client::<JoinProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
    let limit = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
    let answer = match tokio::time::timeout(limit, client.rpc(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            Err(connection.close_reason().map_or_else(|| format!("{error:#}"), |why| why.to_string()))
        }
        Err(_) => Err(format!("nothing within {} ms", limit.as_millis())),
    };
    connection.close(VarInt::from_u32(0), b"answered");
    answer
}
