//! Clients over iroh: reads and writes of a process that is no node, known by a key of its own.
//!
//! [`ClientEndpoint`] and [`IrohClient`] are the client's end, `serve` is the node's. A node lets in the
//! keys that its operator admitted (`client_keys`). Any node takes any request; what only the leader can
//! do, it forwards. The client never sends a request a second time: whether that is harmless, its caller
//! knows, who may put a session into the command.
//!
//! # Tiger Style
//! - A connection is there within [`LinkTimeouts::connect`], a request is answered within
//!   [`limits::CLIENT_ATTEMPT_TIMEOUT_MS`], or fails.
//! - What a node would refuse for its size is not sent.

pub(super) mod protocol;
pub(super) mod serve;

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, ConnectionError, PortmapperConfig, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, RelayUrl, SecretKey};
use irpc_iroh::IrohRemoteConnection;
use tokio::time::Instant;

use self::protocol::{
    ClientAnswer, ClientHello, ClientHelloProtocol, ClientReply, ClientRequest, ClientRpcProtocol,
    ClientStream, ClientWelcome,
};
use super::link::RECONNECT_PAUSE;
use super::numbered::line::{Line, PIPELINE_DEPTH};
use super::protocol::{ALPN_CLIENT, Refusal};
use super::ticket::{NodeTicket, endpoint_addr};
use super::{LinkTimeouts, quic};
use crate::kv::forward::ForwardError;
use crate::kv::types::{ClusterId, Command, KvError, NodeId, ReadReply, ReadRequest, WriteReply};
use crate::limits;

/// The code that a client ends a connection with which it has no use for.
const DONE: u32 = 0;

/// Why a client's endpoint did not start.
#[derive(Debug, thiserror::Error)]
#[error("no UDP socket could be opened: {0}")]
pub struct OpenError(String);

/// Why there is no connection to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It does not answer where the ticket says.
    #[error(
        "node {node_id} could not be reached: {reason}; is its ticket current, and does UDP get through?"
    )]
    Unreachable {
        /// The node.
        node_id: NodeId,
        /// What failed.
        reason: String,
    },
    /// It answers and does not let the client in.
    #[error("node {node_id} refused the connection: {reason}")]
    Refused {
        /// The node.
        node_id: NodeId,
        /// What it said.
        reason: String,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The node refused it, or what the node tried failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// There was no answer from the node.
    #[error(transparent)]
    NotAnswered(#[from] ForwardError),
}

impl RequestError {
    /// Whether a write may have taken effect, or may still.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            // Of these the node itself cannot say.
            Self::Kv(error) => {
                matches!(
                    error,
                    KvError::OutcomeUnknown { .. } | KvError::Stopping { .. } | KvError::Storage { .. }
                )
            }
            Self::NotAnswered(ForwardError::NoAnswer { .. }) => true,
            Self::NotAnswered(ForwardError::Unreachable { .. }) => false,
        }
    }
}

/// A client's end of the network, from which it connects to any number of nodes. Clones share it.
///
/// A key is for one endpoint at a time: a node takes a second one for the first after a restart, and
/// closes the connections of the first.
#[derive(Clone, Debug)]
pub struct ClientEndpoint {
    endpoint: Endpoint,
    timeouts: LinkTimeouts,
    boot: u64,
}

impl ClientEndpoint {
    /// Opens an endpoint. It calls nobody but nodes, and the relays by which the tickets of some are
    /// reached.
    ///
    /// # Errors
    /// [`OpenError`] if the system gives no socket.
    pub async fn open<'a>(
        secret_key: SecretKey,
        tickets: impl IntoIterator<Item = &'a NodeTicket>,
    ) -> Result<Self, OpenError> {
        super::tls::choose_provider();
        // A client may be far away; where it is not, the patience costs nothing.
        let timeouts = LinkTimeouts::wan();
        let urls = tickets.into_iter().filter_map(|NodeTicket(peer)| peer.info.relay_url.as_ref());
        let relays: Vec<RelayUrl> = urls.filter_map(|url| url.parse().ok()).collect();
        let relay_mode = if relays.is_empty() {
            RelayMode::Disabled
        } else {
            RelayMode::Custom(relays.into_iter().map(RelayConfig::from).collect::<RelayMap>())
        };
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(secret_key)
            .relay_mode(relay_mode)
            .portmapper_config(PortmapperConfig::Disabled)
            .transport_config(quic(&timeouts))
            .bind()
            .await
            .map_err(|error| OpenError(format!("{error:#}")))?;
        Ok(Self { endpoint, timeouts, boot: rand::random() })
    }

    /// Connects to a node, which has to belong to `cluster` if one is named.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        NodeTicket(node): &NodeTicket,
        cluster: Option<ClusterId>,
    ) -> Result<IrohClient, ConnectError> {
        let node_id = node.node_id;
        let unreachable = |reason: String| ConnectError::Unreachable { node_id, reason };
        let addr = endpoint_addr(&node.info).ok_or_else(|| unreachable("its key is no key".to_owned()))?;
        let limit = self.timeouts.connect;
        let dialed = async {
            match self.dial(node_id, addr.clone(), cluster).await? {
                Some(client) => Ok(client),
                None => {
                    // Both sides have to see the old connections closed first.
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    let again = self.dial(node_id, addr, cluster).await?;
                    again.ok_or_else(|| unreachable("it closes former connections of this key".to_owned()))
                }
            }
        };
        let dialed = tokio::time::timeout(limit, dialed).await;
        dialed.unwrap_or_else(|_| Err(unreachable(format!("no connection within {} ms", limit.as_millis()))))
    }

    /// Connects and says hello. None if the node had to close what a former endpoint left open.
    async fn dial(
        &self,
        node_id: NodeId,
        addr: EndpointAddr,
        cluster_id: Option<ClusterId>,
    ) -> Result<Option<IrohClient>, ConnectError> {
        let unreachable = |reason: String| ConnectError::Unreachable { node_id, reason };
        let refused = |reason: String| ConnectError::Refused { node_id, reason };
        let connected = self.endpoint.connect(addr, ALPN_CLIENT).await;
        let connection = connected.map_err(|error| unreachable(format!("{error:#}")))?;
        let client =
            irpc::Client::<ClientHelloProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
        let answer = client.rpc(ClientHello { cluster_id, boot: self.boot }).await;
        let welcome = match answer {
            Ok(Ok(welcome)) => welcome,
            Ok(Err(refusal)) => {
                connection.close(VarInt::from_u32(DONE), b"hello refused");
                return if refusal == Refusal::Restarted {
                    Ok(None)
                } else {
                    Err(refused(refusal.to_string()))
                };
            }
            // A stranger is let through the handshake on its own side and closed right after.
            Err(error) => {
                return Err(match connection.close_reason() {
                    Some(why @ ConnectionError::ApplicationClosed(_)) => refused(why.to_string()),
                    _ => unreachable(format!("{error:#}")),
                });
            }
        };
        let ClientWelcome { node_id, cluster_id } = welcome;
        let line = open_line(node_id, connection.clone(), self.timeouts.rpc);
        let _endpoint = self.endpoint.clone();
        Ok(Some(IrohClient(Arc::new(Inner { line, connection, node_id, cluster_id, _endpoint }))))
    }

    /// Says goodbye to all nodes and closes the endpoint, within a second.
    pub async fn close(&self) {
        if tokio::time::timeout(Duration::from_secs(1), self.endpoint.close()).await.is_err() {
            tracing::debug!("the iroh endpoint was closed without waiting for all nodes");
        }
    }
}

/// A client of one node, on one connection. Clones share it, and many requests may be under way.
#[derive(Clone, Debug)]
pub struct IrohClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    line: Line<ClientRequest, ClientAnswer>,
    connection: Connection,
    node_id: NodeId,
    cluster_id: Option<ClusterId>,
    /// Without it the connection would end.
    _endpoint: Endpoint,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(DONE), b"the client is done");
    }
}

impl IrohClient {
    /// The node, by its own word.
    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// The cluster that it belonged to when it let the client in.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.cluster_id
    }

    /// Whether it can still be asked. Once it cannot, only a new connection helps.
    pub fn is_open(&self) -> bool {
        self.0.connection.close_reason().is_none() && self.0.line.is_open()
    }

    /// Runs a read.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn read(&self, request: ReadRequest) -> Result<ReadReply, RequestError> {
        request.validate()?;
        match self.ask(ClientRequest::Read(request)).await? {
            ClientReply::Read(reply) => Ok(reply),
            ClientReply::Written(_) => Err(self.answered_otherwise().into()),
        }
    }

    /// Runs a write. It is sent once: see [`RequestError::is_outcome_unknown`].
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn write(&self, command: Command) -> Result<WriteReply, RequestError> {
        command.validate()?;
        let (bytes, max_bytes) = (command.payload_bytes(), limits::COMMAND_MAX_BYTES);
        if bytes > max_bytes {
            return Err(KvError::CommandTooLarge { bytes, max_bytes }.into());
        }
        match self.ask(ClientRequest::Write(command)).await? {
            ClientReply::Written(reply) => Ok(reply),
            ClientReply::Read(_) => Err(self.answered_otherwise().into()),
        }
    }

    async fn ask(&self, request: ClientRequest) -> Result<ClientReply, RequestError> {
        let until = Instant::now() + Duration::from_millis(limits::CLIENT_ATTEMPT_TIMEOUT_MS);
        Ok(self.0.line.ask(request, until).await??)
    }

    fn answered_otherwise(&self) -> ForwardError {
        let reason = "it answered another request than this one".to_owned();
        ForwardError::NoAnswer { node_id: self.0.node_id, reason }
    }
}

fn open_line(
    node_id: NodeId,
    connection: Connection,
    patience: Duration,
) -> Line<ClientRequest, ClientAnswer> {
    let opened = async move {
        let client = irpc::Client::<ClientRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
        client.bidi_streaming(ClientStream, PIPELINE_DEPTH, PIPELINE_DEPTH).await
    };
    Line::open(node_id, opened, patience)
}
