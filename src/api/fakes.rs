//! Stand-ins for what the router is made of, for its tests and for the fuzzer.

#![allow(clippy::unwrap_used, reason = "this is no part of a node")]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzzer needs some of it"))]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Notify;

use crate::api::{PeerError, PeerExchange};
use crate::kv::backup::BackupStream;
use crate::kv::interface::{ClusterController, KeyValueStore, NodeAgents};
use crate::kv::json::{Connection, KnownPeer};
use crate::kv::types::{
    AgentError, AgentReply, AgentRequest, BackupOrigin, ClusterError, ClusterId, ClusterStatus, Command, Key,
    KeyValue, KvError, Member, MembershipChange, MembershipChanged, NodeId, NodeInfo, NodeState, NodeView,
    OpResult, OutstandingTicket, Peer, PublicKey, RangeReply, ReadReply, ReadRequest, Revision, Role,
    SecretHash, TicketId, Value, WriteReply,
};

type OnWrite = Box<dyn Fn(Command) -> Result<WriteReply, KvError> + Send + Sync>;

enum Reads {
    Find(KeyValue),
    Fail(KvError),
}

/// A store that answers what it was told to.
pub(super) struct FakeStore {
    on_write: OnWrite,
    reads: Reads,
    hangs: bool,
    /// Told of each call.
    pub(super) started: Arc<Notify>,
}

pub(super) fn any_kv(key: &[u8], value: &[u8]) -> KeyValue {
    KeyValue {
        key: Key::new(key.to_vec()).unwrap(),
        value: Value::new(value.to_vec()).unwrap(),
        create_revision: Revision(1),
        mod_revision: Revision(2),
        version: 2,
        lease: 0,
    }
}

impl Default for FakeStore {
    fn default() -> Self {
        Self::writing(|_| {
            let results = vec![OpResult::Put];
            Ok(WriteReply { revision: Revision(7), succeeded: true, results, replayed: false })
        })
    }
}

impl FakeStore {
    pub(super) fn writing(
        on_write: impl Fn(Command) -> Result<WriteReply, KvError> + Send + Sync + 'static,
    ) -> Self {
        let reads = Reads::Find(any_kv(b"a", b"1"));
        Self { on_write: Box::new(on_write), reads, hangs: false, started: Arc::default() }
    }

    pub(super) fn reading(kv: KeyValue) -> Self {
        Self { reads: Reads::Find(kv), ..Self::default() }
    }

    pub(super) fn failing(error: KvError) -> Self {
        let reads = Reads::Fail(error.clone());
        Self { reads, ..Self::writing(move |_| Err(error.clone())) }
    }

    pub(super) fn panicking() -> Self {
        Self::writing(|_| panic!("the store panics for a test"))
    }

    pub(super) fn hanging() -> Self {
        Self { hangs: true, ..Self::default() }
    }

    async fn begin(&self) {
        self.started.notify_one();
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl KeyValueStore for FakeStore {
    async fn write(&self, command: Command) -> Result<WriteReply, KvError> {
        self.begin().await;
        (self.on_write)(command)
    }

    async fn read(&self, _: ReadRequest) -> Result<ReadReply, KvError> {
        self.begin().await;
        match &self.reads {
            Reads::Find(kv) => Ok(ReadReply {
                revision: Revision(7),
                range: RangeReply { kvs: vec![kv.clone()], more: false },
                staleness: None,
            }),
            Reads::Fail(error) => Err(error.clone()),
        }
    }

    async fn backup(&self, origin: BackupOrigin) -> Result<BackupStream, KvError> {
        self.begin().await;
        match &self.reads {
            Reads::Find(kv) => {
                let text = format!("{} of node {}", kv.mod_revision, origin.node_id);
                let pieces = [Ok(Bytes::from(text)), Err(std::io::Error::other("the disk is gone"))];
                Ok(futures::stream::iter(pieces).boxed())
            }
            Reads::Fail(error) => Err(error.clone()),
        }
    }
}

/// A cluster of the leader 1 and the learner 2, as node 1 sees it.
pub(super) struct FakeCluster(pub(super) ClusterStatus);

pub(super) fn status(state: NodeState) -> ClusterStatus {
    let member = |node_id, role, address: &str| Member {
        node_id: NodeId(node_id),
        role,
        public_key: Some(PublicKey::default()),
        addresses: vec![address.parse().unwrap()],
        relay_url: None,
        http_addr: None,
        backend: None,
        matched_index: None,
        last_heard_ms: None,
    };
    ClusterStatus {
        node_id: NodeId(1),
        cluster_id: Some(ClusterId::random()),
        state,
        detail: "a sentence".to_owned(),
        role: Role::Leader,
        term: 1,
        leader: Some(NodeId(1)),
        revision: Revision(7),
        compacted_revision: Revision(0),
        last_log_index: Some(9),
        committed_index: Some(9),
        applied_index: Some(9),
        snapshot_index: None,
        purged_index: None,
        disk: None,
        members: vec![member(1, Role::Leader, "127.0.0.1:4701"), member(2, Role::Learner, "127.0.0.1:4702")],
    }
}

impl FakeCluster {
    pub(super) fn serving() -> Self {
        Self(status(NodeState::Serving))
    }
}

#[async_trait]
impl ClusterController for FakeCluster {
    async fn init(&self) -> Result<ClusterStatus, ClusterError> {
        Err(ClusterError::AlreadyInitialized { node_id: NodeId(1) })
    }

    async fn add_learner(&self, peer: Peer) -> Result<MembershipChanged, ClusterError> {
        let learners = BTreeSet::from([peer.node_id]);
        Ok(MembershipChanged { voters: BTreeSet::from([NodeId(1)]), learners, log_index: 11 })
    }

    async fn issue_ticket(&self, _: SecretHash, ttl_ms: u64, _: u32) -> Result<u64, ClusterError> {
        Ok(ttl_ms)
    }

    async fn tickets(&self) -> Result<Vec<OutstandingTicket>, ClusterError> {
        Ok(vec![OutstandingTicket { id: ticket_id(), expires_at_ms: 7, uses_left: 2 }])
    }

    async fn revoke_ticket(&self, id: TicketId) -> Result<(), ClusterError> {
        if id == ticket_id() { Ok(()) } else { Err(ClusterError::UnknownTicket { id }) }
    }

    async fn replace(&self, old: NodeId, _: Peer) -> Result<MembershipChanged, ClusterError> {
        Err(ClusterError::UnknownNode { node_id: old })
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClusterError> {
        Ok(to.unwrap_or(NodeId(1)))
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, ClusterError> {
        let voters = change.voters.unwrap_or_default();
        match voters.iter().find(|node_id| node_id.0 > 2) {
            Some(&node_id) => Err(ClusterError::UnknownNode { node_id }),
            None => Ok(MembershipChanged { voters, learners: BTreeSet::new(), log_index: 12 }),
        }
    }

    fn status(&self) -> ClusterStatus {
        self.0.clone()
    }

    fn cluster_id(&self) -> Option<ClusterId> {
        self.0.cluster_id
    }
}

/// The one that is outstanding.
fn ticket_id() -> TicketId {
    TicketId::of(&SecretHash([0xab; 32]))
}

/// Tickets of the form `node-N`.
#[derive(Default)]
pub(super) struct FakePeers(Mutex<Vec<Peer>>);

#[async_trait]
impl PeerExchange for FakePeers {
    fn ticket(&self) -> String {
        "node-1".to_owned()
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        let peers = self.0.lock().unwrap();
        let known = |peer: &Peer| KnownPeer {
            node_id: peer.node_id,
            public_key: peer.info.public_key,
            addresses: peer.info.addresses.clone(),
            relay_url: None,
            http_addr: None,
            connection: Connection::None,
            last_error: None,
        };
        peers.iter().map(known).collect()
    }

    fn parse_ticket(&self, ticket: &str) -> Result<Peer, PeerError> {
        let node_id = ticket.strip_prefix("node-").and_then(|id| id.parse().ok());
        node_id.map(|node_id| Peer { node_id, info: NodeInfo::default() }).ok_or_else(|| {
            PeerError::BadTicket { ticket: ticket.to_owned(), reason: "it has no node id".to_owned() }
        })
    }

    fn draw_join_ticket(&self) -> Option<(String, SecretHash)> {
        Some(("join-1".to_owned(), SecretHash([1; 32])))
    }

    async fn add_peers(&self, peers: Vec<Peer>) -> Result<(), PeerError> {
        self.0.lock().unwrap().extend(peers);
        Ok(())
    }
}

/// Agents of which that of node 2 answers what it was told to, and no other is a member's.
#[derive(Default)]
pub(super) struct FakeAgents(pub(super) Mutex<Option<Result<AgentReply, AgentError>>>);

#[async_trait]
impl NodeAgents for FakeAgents {
    async fn overview(&self) -> Vec<NodeView> {
        let (unreachable_since_ms, reason) = (Some(7), Some("it is gone".to_owned()));
        vec![NodeView { node_id: NodeId(2), reachable: false, unreachable_since_ms, reason, report: None }]
    }

    async fn ask(&self, node_id: NodeId, _: AgentRequest) -> Result<AgentReply, AgentError> {
        let answer = self.0.lock().unwrap().clone().filter(|_| node_id == NodeId(2));
        answer.unwrap_or(Err(AgentError::NotAMember { node_id }))
    }
}
