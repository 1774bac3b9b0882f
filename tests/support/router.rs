//! A cluster in one process: real Raft nodes over a network in memory which does what a test asks.
//!
//! Nodes are built as the product builds them, with its storage, on memory or on disk. Elections are
//! off unless a scenario turns them on, so that the leader is whom the scenario made one. Nothing here
//! sleeps: a test waits on Raft's metrics, and the clock of a cluster in memory runs as fast as its
//! work is done.
//!
//! # Tiger Style
//! - Every wait ends within [`PATIENCE`].
//! - What is left to chance on the network is drawn from one seed.

#[path = "router/by_hand.rs"]
pub mod by_hand;
#[path = "router/clusters.rs"]
mod clusters;
#[path = "router/content.rs"]
mod content;
#[path = "router/fabric.rs"]
pub mod fabric;
#[path = "router/faults.rs"]
pub mod faults;
#[path = "router/network.rs"]
mod network;
#[path = "router/rpc.rs"]
pub mod rpc;
#[path = "router/service.rs"]
mod service;
#[path = "router/storage.rs"]
pub mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aspen::kv::service::KvService;
use aspen::kv::types::{NodeId, NodeInfo, PublicKey};
use aspen::raft::RaftHandle;
use aspen::raft::construct::{RaftSettings, RaftTimings};
use aspen::raft::observe::{self, Metrics};
use aspen::raft::types::{Entry, LogId, TypeConfig};
use aspen::storage::snapshot::{SnapshotData, SnapshotInbox};
use aspen::storage::state::StateReader;
use openraft::alias::SnapshotOf;
use openraft::metrics::Wait;
use openraft::{EntryPayload, Membership, RaftState};

pub use self::content::commit;
use self::fabric::{Door, Fabric};
use self::network::RouterNetwork;
use self::rpc::{Counts, Delivery, RpcKind};
use self::service::Served;
use self::storage::{Disk, LogReader, Storage};

/// Far more than anything here takes: a wait as long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A snapshot of the state.
pub type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct RouterSettings {
    /// What the nodes keep their log and state on.
    pub storage: Storage,
    /// Raft's timings on every node.
    pub timings: RaftTimings,
    /// Applied entries after which a node makes a snapshot.
    pub snapshot_every_entries: u64,
    /// Whether nodes stand for election by themselves.
    pub elections: bool,
    /// Where the network's chance comes from.
    pub seed: u64,
}

impl RouterSettings {
    /// No elections, and no snapshots that were not asked for.
    pub fn new(storage: Storage) -> Self {
        let timings = RaftTimings {
            heartbeat_interval_ms: 60,
            election_timeout_min_ms: 300,
            election_timeout_max_ms: 600,
        };
        Self { storage, timings, snapshot_every_entries: 1_000_000, elections: false, seed: 1 }
    }

    /// The same with elections.
    pub fn with_elections(self) -> Self {
        Self { elections: true, ..self }
    }
}

/// Nodes by number, and the network between them.
pub struct AspenRouter {
    settings: RouterSettings,
    fabric: Arc<Fabric>,
    nodes: BTreeMap<u64, Node>,
    disks: BTreeMap<u64, Disk>,
    writes: AtomicU64,
}

/// A running node.
struct Node {
    raft: RaftHandle,
    reader: StateReader,
    log: LogReader,
    inbox: SnapshotInbox,
    served: Option<Served>,
}

/// A node's info, which is the same whenever the node is added.
pub fn info(id: u64) -> NodeInfo {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_le_bytes());
    NodeInfo { public_key: PublicKey(key), ..NodeInfo::default() }
}

/// The index of a log id that may be absent.
pub fn index(log_id: Option<LogId>) -> Option<u64> {
    log_id.map(|log_id| log_id.index)
}

/// Node ids of numbers.
pub fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

impl AspenRouter {
    /// A network without nodes, with the settings of most scenarios.
    pub fn new(storage: Storage) -> Self {
        Self::with(RouterSettings::new(storage))
    }

    /// A network without nodes.
    pub fn with(settings: RouterSettings) -> Self {
        let fabric = Arc::new(Fabric::new(settings.seed));
        Self { settings, fabric, nodes: BTreeMap::new(), disks: BTreeMap::new(), writes: AtomicU64::new(0) }
    }

    // Nodes

    /// Starts a new node with an empty disk.
    pub async fn add_node(&mut self, id: u64) {
        let disk = Disk::empty(self.settings.storage);
        assert!(self.disks.insert(id, disk).is_none(), "node {id} exists");
        self.start(id).await;
    }

    /// Starts new nodes.
    pub async fn add_nodes(&mut self, ids: &[u64]) {
        for id in ids {
            self.add_node(*id).await;
        }
    }

    /// Starts a node that was stopped, on the disk that it had.
    pub async fn start(&mut self, id: u64) {
        let disk = self.disks.get_mut(&id).unwrap_or_else(|| panic!("node {id} was never added"));
        let network = RouterNetwork::new(self.fabric.clone(), NodeId(id));
        let RouterSettings { timings, snapshot_every_entries, .. } = self.settings;
        let settings = RaftSettings::new(NodeId(id), timings, snapshot_every_entries);
        let opened = disk.start(&settings, network).await;
        opened.raft.runtime_config().elect(self.settings.elections);
        self.fabric.attach(Door::new(NodeId(id), &opened));
        let storage::Opened { raft, reader, log, inbox } = opened;
        assert!(
            self.nodes.insert(id, Node { raft, reader, log, inbox, served: None }).is_none(),
            "node {id} runs"
        );
    }

    /// Stops a node. Its disk stays.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap_or_else(|| panic!("node {id} does not run"));
        self.fabric.detach(NodeId(id));
        if let Some(served) = node.served {
            served.stop().await;
        }
        let stopped = tokio::time::timeout(PATIENCE, node.raft.shutdown()).await;
        stopped.expect("a node stops").expect("the task of Raft ends");
    }

    /// Stops a node for good, and takes its disk away.
    pub async fn remove_node(&mut self, id: u64) {
        self.stop(id).await;
        self.disks.remove(&id);
    }

    /// Stops a node and starts it again on the same disk.
    pub async fn restart(&mut self, id: u64) {
        self.stop(id).await;
        self.start(id).await;
    }

    /// A node's Raft.
    pub fn raft(&self, id: u64) -> &RaftHandle {
        &self.node(id).raft
    }

    /// Reads a node's state.
    pub fn reader(&self, id: u64) -> &StateReader {
        &self.node(id).reader
    }

    /// A node's newest metrics.
    pub fn metrics(&self, id: u64) -> Metrics {
        observe::metrics(self.raft(id))
    }

    /// Waits on a node's metrics.
    pub fn wait(&self, id: u64) -> Wait<TypeConfig> {
        self.raft(id).wait(Some(PATIENCE))
    }

    /// Waits until a node's metrics fulfil a condition, and returns those that do.
    pub async fn until(&self, id: u64, what: &str, holds: impl Fn(&Metrics) -> bool + Send) -> Metrics {
        self.wait(id).metrics(holds, what).await.unwrap_or_else(|error| panic!("node {id}: {error}"))
    }

    /// Watches a node's metrics for a number of the longest election timeouts, in which the condition
    /// must not come true.
    pub async fn never(&self, id: u64, timeouts: u32, what: &str, holds: impl Fn(&Metrics) -> bool + Send) {
        let time = Duration::from_millis(self.settings.timings.election_timeout_max_ms) * timeouts;
        let seen = self.raft(id).wait(Some(time)).metrics(holds, what).await;
        if let Ok(metrics) = seen {
            panic!("node {id} must never come to this: {what}; it is {metrics}");
        }
    }

    /// Waits until something is true of the network's record, which tells no one when it changes.
    pub async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.eventually_async(what, async |router: &Self| holds(router)).await;
    }

    /// The same for what must be waited for to be known, such as a node's log.
    pub async fn eventually_async(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(tokio::time::Instant::now() < until, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The entries in a node's log.
    pub async fn log(&self, id: u64) -> Vec<Entry> {
        self.node(id).log.entries().await
    }

    /// The ids of the entries in a node's log.
    pub async fn log_ids(&self, id: u64) -> Vec<LogId> {
        self.log(id).await.into_iter().map(|entry| entry.log_id).collect()
    }

    /// The id of the last entry in a node's log.
    pub async fn last_log_id(&self, id: u64) -> LogId {
        *self.log_ids(id).await.last().expect("the log has entries")
    }

    /// The memberships in a node's log, in order.
    pub async fn log_memberships(&self, id: u64) -> Vec<Membership<NodeId, NodeInfo>> {
        let entries = self.log(id).await.into_iter();
        let memberships = entries.filter_map(|entry| match entry.payload {
            EntryPayload::Membership(membership) => Some(membership),
            _ => None,
        });
        memberships.collect()
    }

    /// Asks a node's Raft for something about its state.
    pub async fn external_request<T: Send + 'static>(
        &self,
        id: u64,
        ask: impl FnOnce(&RaftState<TypeConfig>) -> T + Send + 'static,
    ) -> T {
        let answer = tokio::time::timeout(PATIENCE, self.raft(id).with_raft_state(ask)).await;
        answer.expect("Raft answers").expect("Raft runs")
    }

    /// Starts a node's key-value service, or returns the one that it has.
    pub async fn serve(&mut self, id: u64) -> KvService {
        let (fabric, timings) = (self.fabric.clone(), self.settings.timings);
        let node = self.nodes.get_mut(&id).unwrap_or_else(|| panic!("node {id} does not run"));
        if node.served.is_none() {
            node.served = Some(Served::start(&fabric, NodeId(id), &node.raft, &node.reader, timings).await);
        }
        node.served.as_ref().expect("it was just started").service.clone()
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("node {id} does not run"))
    }

    // What was sent

    /// RPCs of a kind from one node to another.
    pub fn counts(&self, from: u64, to: u64, kind: RpcKind) -> Counts {
        self.fabric.recorder().counts(NodeId(from), NodeId(to), kind)
    }

    /// What reached a node, in order.
    pub fn delivered_to(&self, id: u64) -> Vec<Delivery> {
        self.fabric.recorder().delivered_to(NodeId(id))
    }

    /// Forgets what was sent so far.
    pub fn forget_deliveries(&self) {
        self.fabric.recorder().forget();
    }

    /// Nodes that were introduced and not added, and so let in no more.
    pub fn let_go(&self) -> Vec<NodeId> {
        self.fabric.recorder().let_go.clone()
    }

    /// RPCs that came out at another node than they were sent to.
    pub fn misrouted(&self) -> u64 {
        self.fabric.recorder().misrouted()
    }
}
