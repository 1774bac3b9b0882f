//! Three nodes in one process, one of which has a disk that hangs.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::Actor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::support::{PATIENCE, agree_to_found, nodes as by_id, raft_settings};
use crate::kv::interface::{ClusterController, KeyValueStore};
use crate::kv::service::cluster::RaftCluster;
use crate::kv::service::{KvService, ServiceParts, disk};
use crate::kv::types::{Command, DiskState, Key, NodeId, NodeState, ReadRequest, Value};
use crate::limits;
use crate::raft::RaftHandle;
use crate::raft::actor::RaftActor;
use crate::raft::construct::start;
use crate::raft::freshness::Freshness;
use crate::raft::observe;
use crate::raft::operations::Operations;
use crate::storage::disk::SimulatedDisk;
use crate::storage::log_redb::{LOG_FILE, RedbLog};
use crate::storage::metadata::Metadata;
use crate::storage::pressure::Pressure;
use crate::storage::progress::Progress;
use crate::storage::space::Space;
use crate::storage::state_mem;
use crate::transport::peers::PeerBook;
use crate::transport::relay::Reach;
use crate::transport::server::Handlers;
use crate::transport::ticket::public_key;
use crate::transport::{LinkTimeouts, Transport, TransportSettings};

/// A node with all that a real one has between its endpoint and its log.
struct Member {
    transport: Transport,
    raft: RaftHandle,
    service: KvService,
    cluster: RaftCluster,
    disk: SimulatedDisk,
    pressure: Arc<Pressure>,
    _serving: DropGuard,
    _watching: AbortOnDropHandle<()>,
}

impl Member {
    async fn start(id: u64) -> Self {
        let node_id = NodeId(id);
        let secret_key = iroh::SecretKey::generate();
        let key = public_key(&secret_key.public());
        let metadata = Metadata::in_memory(node_id, key);
        let settings = TransportSettings {
            secret_key,
            reach: Reach::direct(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            mdns: false,
            timeouts: LinkTimeouts::lan(),
            client_keys: BTreeSet::new(),
            http_addr: None,
            founders: None,
        };
        let transport =
            Transport::bind(settings, metadata.clone(), PeerBook::new(node_id, key)).await.unwrap();

        let progress = Arc::new(Progress::default());
        let disk = SimulatedDisk::new("/disk", id);
        let path = Path::new("/disk").join(LOG_FILE);
        let log = RedbLog::open_on(disk.mount(), &path, 1 << 20, progress.clone()).unwrap();
        let state = state_mem::open();
        let (reader, inbox) = (state.reader(), state.inbox());
        let pressure = Arc::new(Pressure::new(Arc::new(Space::endless()), progress, reader.clone()));
        let settings = raft_settings(node_id);
        let raft = start(&settings, transport.network(), log, state).await.unwrap();
        let (actor, _) = Actor::spawn(None, RaftActor, raft.clone()).await.unwrap();
        let freshness = Arc::new(Freshness::default());
        let service = KvService::new(ServiceParts {
            raft: raft.clone(),
            operations: Operations::of(actor),
            reader: reader.clone(),
            timings: settings.timings,
            forwarder: Arc::new(transport.clone()),
            freshness: freshness.clone(),
            disk: pressure.clone(),
        });
        let (forward, store) = (Arc::new(service.clone()), Arc::new(service.clone()));
        let handlers = Handlers {
            raft: raft.clone(),
            inbox,
            forward,
            store,
            freshness,
            reader,
            disk: pressure.clone(),
            actors: tokio::sync::mpsc::channel(1).0,
        };
        let stop = CancellationToken::new();
        tokio::spawn(transport.clone().serve(handlers, stop.clone()));
        let own = transport.clone();
        let cluster = RaftCluster::new(service.clone(), metadata, Arc::new(move || own.own_peer()));
        let recovering = service.clone();
        tokio::spawn(async move { recovering.recover().await });
        let watching = AbortOnDropHandle::new(tokio::spawn(disk::watch(service.clone())));
        let serving = stop.drop_guard();
        Self { transport, raft, service, cluster, disk, pressure, _serving: serving, _watching: watching }
    }

    fn id(&self) -> NodeId {
        self.transport.node_id()
    }

    fn leader(&self) -> Option<NodeId> {
        observe::metrics(&self.raft).current_leader
    }

    async fn put(&self, key: &str) {
        let command = Command::put(Key::new(key.to_owned()).unwrap(), Value::new("v").unwrap());
        let written =
            tokio::time::timeout(PATIENCE, self.service.write(command)).await.expect("it is bounded");
        written.unwrap_or_else(|error| panic!("{key} through node {}: {error}", self.id()));
    }

    async fn has(&self, key: &str) -> bool {
        let read = self.service.read(ReadRequest::get(Key::new(key.to_owned()).unwrap())).await;
        read.is_ok_and(|reply| reply.range.kvs.len() == 1)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The log's thread is waited for when the log is dropped.
        self.disk.release_syncs();
    }
}

async fn cluster() -> Vec<Member> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Member::start(id).await);
    }
    let peers: Vec<_> = nodes.iter().map(|node| node.transport.own_peer()).collect();
    for node in &nodes {
        for peer in peers.iter().filter(|peer| peer.node_id != node.id()) {
            node.transport.book().declare(peer.clone()).unwrap();
        }
    }
    agree_to_found(&nodes.iter().map(|node| &node.transport).collect::<Vec<_>>());
    nodes[0].raft.initialize(by_id(&peers)).await.unwrap();
    nodes
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The node that all of them follow.
async fn leader(nodes: &[Member]) -> &Member {
    let agreed =
        async || nodes[0].leader().is_some() && nodes.iter().all(|n| n.leader() == nodes[0].leader());
    eventually("all follow one leader", agreed).await;
    nodes.iter().find(|node| Some(node.id()) == nodes[0].leader()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_whose_disk_hangs_hands_over_and_does_not_come_back_with_it() {
    let nodes = cluster().await;
    let stuck = leader(&nodes).await;
    let others: Vec<_> = nodes.iter().filter(|node| node.id() != stuck.id()).collect();
    stuck.put("before").await;

    stuck.disk.hold_syncs(LOG_FILE);
    let hung = Instant::now();
    // The others are a majority and keep it, but the leader's own write begins to hang.
    others[0].put("meanwhile").await;
    let moved = async || others.iter().all(|node| node.leader().is_some_and(|leader| leader != stuck.id()));
    eventually("another node leads", moved).await;
    println!("another node led {:?} after the disk began to hang", hung.elapsed());
    assert!(hung.elapsed() > Duration::from_millis(limits::SYNC_STALLED_MS), "not for a hiccup");
    others[0].put("after").await;
    // Raft on the stuck node waits for its disk, yet clients of that node get their writes done.
    stuck.put("through the stuck node").await;
    let status = stuck.cluster.status();
    assert_eq!(status.state, NodeState::DiskStalled, "{}", status.detail);
    assert_eq!(status.disk.unwrap().state, DiskState::Stalled);

    let second = others[0].leader();
    stuck.disk.release_syncs();
    eventually("it follows", async || stuck.leader() == second).await;
    eventually("it has caught up", async || stuck.has("through the stuck node").await).await;
    assert!(stuck.has("before").await && stuck.has("meanwhile").await && stuck.has("after").await);
    assert_eq!(stuck.pressure.status(Instant::now()).state, DiskState::Stalled, "for a while yet");
    assert_eq!(stuck.cluster.status().state, NodeState::Serving, "but it serves");
    assert_eq!(others[0].leader(), second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_whose_disk_hangs_costs_the_leader_nothing() {
    let nodes = cluster().await;
    let leading = leader(&nodes).await;
    let stuck = nodes.iter().find(|node| node.id() != leading.id()).unwrap();
    stuck.disk.hold_syncs(LOG_FILE);
    leading.put("meanwhile").await;
    let stalled = async || stuck.cluster.status().state == NodeState::DiskStalled;
    eventually("the follower's disk is seen to hang", stalled).await;
    leading.put("after").await;
    assert!(nodes.iter().all(|node| node.leader() == Some(leading.id())));
    stuck.disk.release_syncs();
    eventually("it has caught up", async || stuck.has("after").await).await;
}
