//! Nodes on loopback that keep everything in memory, and callers that can misbehave.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use iroh::endpoint::{ConnectError, Connection, ConnectionError, PortmapperConfig, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use irpc_iroh::IrohRemoteConnection;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::kv::backup::BackupStream;
use crate::kv::forward::{ForwardHandler, ForwardReply, ForwardRequest};
use crate::kv::interface::KeyValueStore;
use crate::kv::types::{
    BackupOrigin, ClusterError, ClusterId, Command, Founders, Founding, JoinCall, JoinRefusal, Key, KeyRange,
    KeyValue, KvError, NodeId, NodeInfo, Peer, RangeReply, ReadReply, ReadRequest, Revision, Txn, TxnOp,
    Value, WriteOp, WriteReply,
};
use crate::limits;
use crate::raft::construct::{RaftSettings, RaftTimings, start};
use crate::raft::freshness::Freshness;
use crate::raft::observe::Metrics;
use crate::raft::types::Proposal;
use crate::raft::{RaftHandle, observe};
use crate::storage::log_mem::MemoryLog;
use crate::storage::metadata::Metadata;
use crate::storage::pressure::Pressure;
use crate::storage::space::Space;
use crate::storage::state::StateReader;
use crate::storage::state_mem;
use crate::transport::actor::ActorStream;
use crate::transport::peers::PeerBook;
use crate::transport::protocol::{ALPN_RAFT, Hello, HelloProtocol, Refusal, Welcome};
use crate::transport::relay::Reach;
use crate::transport::server::Handlers;
use crate::transport::ticket::{endpoint_id, public_key};
use crate::transport::vouching::Members;
use crate::transport::{LinkTimeouts, Transport, TransportSettings};

/// Far more than anything here takes: a test that waits as long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the stub of the service answers to a question for the read index.
pub(super) const READ_INDEX: u64 = 7;

/// A key that the stub of the service never answers a request for.
pub(super) const UNANSWERED: &str = "never";

/// A key that it panics on.
pub(super) const FATAL: &str = "fatal";

/// Stands in for the service: answers, refuses, keeps silent or panics, as it is asked to.
#[derive(Default)]
pub(super) struct Service {
    asked: AtomicU64,
    values: Mutex<BTreeMap<Key, Value>>,
}

impl Service {
    /// Requests that reached it.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A request that the stub never answers.
pub(super) fn unanswered(len: usize) -> ForwardRequest {
    ForwardRequest::Propose(Proposal(Bytes::from(vec![7; len])))
}

/// A request that the stub refuses.
pub(super) fn refused() -> ForwardRequest {
    ForwardRequest::AddLearner(Peer { node_id: NodeId(9), info: NodeInfo::default() })
}

/// A request that the stub panics on.
pub(super) fn fatal() -> ForwardRequest {
    ForwardRequest::ChangeMembership(crate::kv::types::MembershipChange::default())
}

#[async_trait]
impl ForwardHandler for Service {
    async fn handle(&self, request: ForwardRequest) -> Result<ForwardReply, ClusterError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match request {
            ForwardRequest::ReadIndex => Ok(ForwardReply::ReadIndex(READ_INDEX)),
            ForwardRequest::IssueTicket { .. } => Ok(ForwardReply::TicketIssued { expires_at_ms: 1 }),
            ForwardRequest::RevokeTicket { .. } => Ok(ForwardReply::TicketRevoked),
            ForwardRequest::TransferLeader(_) => Ok(ForwardReply::Leads { node_id: NodeId(9) }),
            ForwardRequest::Join(_) => Ok(ForwardReply::Joined { node_id: NodeId(9) }),
            ForwardRequest::AddLearner(peer) => Err(ClusterError::NodeIdTaken { node_id: peer.node_id }),
            ForwardRequest::ReportDisk { .. } => Ok(ForwardReply::Noted),
            ForwardRequest::Propose(_) => std::future::pending().await,
            ForwardRequest::ChangeMembership(_) => panic!("the handler was told to panic"),
        }
    }

    async fn join(&self, call: JoinCall) -> Result<NodeId, ClusterError> {
        Err(if call.info.is_some() { KvError::NotInitialized.into() } else { JoinRefusal::UsedUp.into() })
    }
}

impl Service {
    /// Counts a request for a key, and does what the key says.
    async fn meet(&self, key: &Key) -> Result<Revision, KvError> {
        let revision = Revision(self.asked.fetch_add(1, Ordering::SeqCst) + 1);
        if *key == key_of(UNANSWERED) {
            std::future::pending().await
        } else if *key == key_of(FATAL) {
            panic!("the store was told to panic");
        } else {
            Ok(revision)
        }
    }
}

/// Takes puts of one key and reads of one key, and numbers the requests.
#[async_trait]
impl KeyValueStore for Service {
    async fn write(&self, command: Command) -> Result<WriteReply, KvError> {
        command.validate()?;
        let WriteOp::Txn(Txn { success, .. }) = command.op else { return Err(KvError::NotInitialized) };
        let [TxnOp::Put { key, value, .. }] = &success[..] else { return Err(KvError::Recovering) };
        let revision = self.meet(key).await?;
        self.values.lock().unwrap().insert(key.clone(), value.clone());
        Ok(WriteReply { revision, succeeded: true, results: Vec::new(), replayed: false })
    }

    async fn read(&self, request: ReadRequest) -> Result<ReadReply, KvError> {
        request.validate()?;
        let KeyRange::Key(key) = request.range else { return Err(KvError::Recovering) };
        let revision = self.meet(&key).await?;
        let found = self.values.lock().unwrap().get(&key).cloned().map(|value| KeyValue {
            key,
            value,
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        });
        let range = RangeReply { kvs: found.into_iter().collect(), more: false };
        Ok(ReadReply { revision, range, staleness: None })
    }

    async fn backup(&self, _: BackupOrigin) -> Result<BackupStream, KvError> {
        Err(KvError::NotInitialized)
    }
}

pub(super) fn key_of(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

/// The key of the one client that every node here admits.
pub(super) fn client_secret() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

/// Who a node is, before it runs and after it has stopped.
#[derive(Clone)]
pub(super) struct Identity {
    node_id: NodeId,
    secret_key: SecretKey,
}

impl Identity {
    pub(super) fn of(node_id: u64) -> Self {
        Self { node_id: NodeId(node_id), secret_key: SecretKey::generate() }
    }

    /// The admitted client, as far as it has an identity.
    pub(super) fn of_client() -> Self {
        Self { node_id: NodeId(0), secret_key: client_secret() }
    }

    pub(super) fn secret_key(&self) -> SecretKey {
        self.secret_key.clone()
    }

    /// The node as others know it, at an address.
    pub(super) fn at(&self, addr: SocketAddr) -> Peer {
        let public_key = public_key(&self.secret_key.public());
        let info = NodeInfo { public_key, addresses: vec![addr], ..NodeInfo::default() };
        Peer { node_id: self.node_id, info }
    }
}

/// A running node.
pub(super) struct TestNode {
    pub(super) identity: Identity,
    pub(super) transport: Transport,
    pub(super) metadata: Metadata,
    pub(super) raft: RaftHandle,
    pub(super) reader: StateReader,
    pub(super) freshness: Arc<Freshness>,
    pub(super) service: Arc<Service>,
    /// Streams that the actors of others have opened.
    pub(super) opened: AsyncMutex<mpsc::Receiver<ActorStream>>,
    _serving: DropGuard,
}

impl TestNode {
    pub(super) async fn start(node_id: u64) -> Self {
        Self::start_as(Identity::of(node_id), LinkTimeouts::lan()).await
    }

    pub(super) async fn start_as(identity: Identity, timeouts: LinkTimeouts) -> Self {
        let key = public_key(&identity.secret_key.public());
        let metadata = Metadata::in_memory(identity.node_id, key);
        let settings = TransportSettings {
            secret_key: identity.secret_key.clone(),
            reach: Reach::direct(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            mdns: false,
            timeouts,
            client_keys: [public_key(&client_secret().public())].into(),
            http_addr: None,
            founders: None,
        };
        let book = PeerBook::new(identity.node_id, key);
        let transport = Transport::bind(settings, metadata.clone(), book).await.unwrap();

        let state = state_mem::open();
        let (reader, inbox) = (state.reader(), state.inbox());
        let log = MemoryLog::new(Arc::default());
        let raft = start(&raft_settings(identity.node_id), transport.network(), log, state).await.unwrap();
        let (service, freshness) = (Arc::new(Service::default()), Arc::new(Freshness::default()));
        let (actors, opened) = mpsc::channel(limits::ACTOR_STREAMS_WAITING_MAX_COUNT);
        let opened = AsyncMutex::new(opened);
        let handlers = Handlers {
            raft: raft.clone(),
            inbox,
            forward: service.clone(),
            store: service.clone(),
            freshness: freshness.clone(),
            reader: reader.clone(),
            disk: Arc::new(Pressure::new(Arc::new(Space::endless()), Arc::default(), reader.clone())),
            actors,
        };
        let stop = CancellationToken::new();
        tokio::spawn(transport.clone().serve(handlers, stop.clone()));
        let (asking, stopped) = (transport.clone(), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(asking.ask_members()).await });
        Self {
            identity,
            transport,
            metadata,
            raft,
            reader,
            freshness,
            service,
            opened,
            _serving: stop.drop_guard(),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.identity.node_id
    }

    pub(super) fn peer(&self) -> Peer {
        self.transport.own_peer()
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.peer().info.addresses[0]
    }

    /// Lets another node in.
    pub(super) fn knows(&self, other: &Peer) {
        self.transport.book().declare(other.clone()).unwrap();
    }

    pub(super) fn belongs_to(&self, cluster: ClusterId) {
        self.metadata.adopt_cluster_id(cluster).unwrap();
    }

    pub(super) fn metrics(&self) -> Metrics {
        observe::metrics(&self.raft)
    }

    /// Waits until Raft's metrics fulfil a condition.
    pub(super) async fn wait(&self, what: &str, holds: impl Fn(&Metrics) -> bool + Send) -> Metrics {
        let mut metrics = self.raft.metrics();
        let fulfilled = tokio::time::timeout(PATIENCE, async {
            loop {
                let now = metrics.borrow_watched().clone();
                if holds(&now) {
                    return now;
                }
                metrics.changed().await.expect("Raft runs");
            }
        });
        let fulfilled = fulfilled.await;
        fulfilled.unwrap_or_else(|_| panic!("node {}: waited for: {what}; has {}", self.id(), self.metrics()))
    }

    /// Stops the node and closes its endpoint.
    pub(super) async fn stop(self) -> Identity {
        self.transport.close().await;
        self.raft.shutdown().await.unwrap();
        self.identity
    }
}

/// Two nodes that let each other in.
pub(super) async fn two_nodes() -> (TestNode, TestNode) {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce(&first, &second);
    (first, second)
}

pub(super) fn introduce(first: &TestNode, second: &TestNode) {
    first.knows(&second.peer());
    second.knows(&first.peer());
}

/// Has nodes agree to found a cluster together: without a log they vote in no other.
pub(super) fn agree_to_found(transports: &[&Transport]) {
    let named = |transport: &&Transport| (transport.node_id(), transport.0.metadata.public_key());
    let founders = Founders::new(named(&transports[0]), transports[1..].iter().map(named));
    let incarnations =
        transports.iter().map(|node| (node.node_id(), node.0.metadata.incarnation())).collect();
    let founding = Founding { cluster_id: ClusterId::random(), founders, incarnations };
    for transport in transports {
        transport.0.metadata.agree_to(&founding).unwrap();
    }
}

/// Nodes by their ids.
pub(super) fn nodes<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> BTreeMap<NodeId, NodeInfo> {
    peers.into_iter().map(|peer| (peer.node_id, peer.info.clone())).collect()
}

/// The members that a node is told of.
pub(super) fn members<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Members {
    Members { log_id: None, nodes: nodes(peers) }
}

pub(super) fn raft_settings(node_id: NodeId) -> RaftSettings {
    // Patient: the machine that runs this may be busy with other tests.
    let timings = RaftTimings {
        heartbeat_interval_ms: 100,
        election_timeout_min_ms: 1_000,
        election_timeout_max_ms: 2_000,
    };
    RaftSettings::new(node_id, timings, 1_000)
}

/// An endpoint that knows nothing of Aspen's manners.
pub(super) struct Caller {
    pub(super) endpoint: Endpoint,
    identity: Identity,
}

impl Caller {
    pub(super) async fn start(identity: Identity) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(identity.secret_key.clone())
            .alpns(vec![ALPN_RAFT.to_vec()])
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports()
            .bind_addr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { endpoint, identity }
    }

    /// A caller that a node lets in as node 2.
    pub(super) async fn known_to(node: &TestNode) -> Self {
        let caller = Self::start(Identity::of(2)).await;
        node.knows(&caller.peer());
        caller
    }

    pub(super) fn peer(&self) -> Peer {
        self.identity.at(self.endpoint.bound_sockets()[0])
    }

    pub(super) async fn connect(&self, node: &TestNode) -> Connection {
        self.connect_for(node, ALPN_RAFT).await
    }

    pub(super) async fn connect_for(&self, node: &TestNode, alpn: &[u8]) -> Connection {
        self.dial(node, alpn).await.unwrap()
    }

    /// A connection, unless the node refuses it unseen.
    pub(super) async fn try_connect(&self, node: &TestNode) -> Result<Connection, ConnectError> {
        self.dial(node, ALPN_RAFT).await
    }

    async fn dial(&self, node: &TestNode, alpn: &[u8]) -> Result<Connection, ConnectError> {
        let Peer { info, .. } = node.peer();
        let id = endpoint_id(&info.public_key).unwrap();
        let addr = EndpointAddr::new(id).with_ip_addr(info.addresses[0]);
        self.endpoint.connect(addr, alpn).await
    }

    pub(super) fn hello_to(&self, node: &TestNode) -> Hello {
        let Peer { node_id, info } = self.peer();
        Hello { node_id, target: node.id(), cluster_id: None, info, boot: 1, incarnation: 1 }
    }

    /// A connection that is past its hello.
    pub(super) async fn enter(&self, node: &TestNode) -> Connection {
        let connection = self.connect(node).await;
        say(&connection, self.hello_to(node)).await.unwrap().unwrap();
        connection
    }
}

/// Says hello on a new connection.
pub(super) async fn say(
    connection: &Connection,
    hello: Hello,
) -> Result<Result<Welcome, Refusal>, irpc::Error> {
    let client = irpc::Client::<HelloProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
    client.rpc(hello).await
}

/// Sends bytes on a new stream and says that no more come, and returns all that is answered.
pub(super) async fn send_raw(connection: &Connection, bytes: &[u8]) -> Vec<u8> {
    let Ok((mut send, mut recv)) = connection.open_bi().await else { return Vec::new() };
    // The other side may be done with the stream, or the connection, before all is sent.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(1 << 20)).await;
    answer.expect("the stream ends").unwrap_or_default()
}

/// Sends bytes on a new stream and leaves it open.
pub(super) async fn send_half(connection: &Connection, bytes: &[u8]) -> SendStream {
    let (mut send, _) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send
}

/// Waits until a connection is closed by the other side, and returns the code and the reason.
pub(super) async fn closed(connection: &Connection) -> (u64, String) {
    match tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed") {
        ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}

/// A message as it stands on the wire.
pub(super) fn framed(message: &impl serde::Serialize) -> Vec<u8> {
    let payload = postcard::to_stdvec(message).unwrap();
    let mut framed = postcard::to_stdvec(&(payload.len() as u64)).unwrap();
    framed.extend(payload);
    framed
}

/// A registry of figures for one test.
pub(super) fn recorder() -> (PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
}

/// A counter without labels; 0 if it was never touched.
pub(super) fn counted(figures: &PrometheusHandle, name: &str) -> u64 {
    let text = figures.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}
