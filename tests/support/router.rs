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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aspen::kv::service::KvService;
use aspen::kv::types::{Command, Key, KeyRange, NodeId, NodeInfo, PublicKey, RangeReply, ReadRequest, Value};
use aspen::raft::RaftHandle;
use aspen::raft::construct::{RaftSettings, RaftTimings};
use aspen::raft::observe::{self, Metrics};
use aspen::raft::types::{Applied, Entry, LogId, Proposal, TypeConfig};
use aspen::storage::record::encode_command;
use aspen::storage::snapshot::{SnapshotData, SnapshotInbox};
use aspen::storage::state::StateReader;
use futures::StreamExt;
use openraft::alias::SnapshotOf;
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use openraft::metrics::Wait;
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, Membership, RaftState, ServerState};

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
        let settings = RaftSettings {
            node_id: NodeId(id),
            timings: self.settings.timings,
            snapshot_every_entries: self.settings.snapshot_every_entries,
        };
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

    // Clusters

    /// Makes a cluster of these voters, led by `id`, which is one of them.
    pub async fn initialize(&self, id: u64, voters: &[u64]) {
        let members: BTreeMap<_, _> = voters.iter().map(|id| (NodeId(*id), info(*id))).collect();
        self.raft(id).initialize(members).await.expect("a pristine node can be initialized");
        self.lead(id).await;
    }

    /// Adds a node without a vote and waits until it has caught up. Returns the index of the change.
    pub async fn add_learner(&self, leader: u64, id: u64) -> u64 {
        // openraft's own wait ends at a lag that it would take for none.
        let added = self.raft(leader).add_learner(NodeId(id), info(id), false);
        let added = tokio::time::timeout(PATIENCE, added).await.expect("the change ends");
        let last = added.expect("the leader adds it").log_id.index;
        self.await_applied(&[id], last).await;
        last
    }

    /// Changes the voters, and waits until the change is through. Returns the index of its last entry.
    pub async fn change_voters(&self, leader: u64, voters: &[u64]) -> u64 {
        let changed = self.raft(leader).change_membership(ids(voters), true);
        let changed = tokio::time::timeout(PATIENCE, changed).await.expect("the change ends");
        changed.expect("the leader changes the voters").log_id.index
    }

    /// Starts nodes and makes a cluster of them, led by the first voter. Returns the last log index,
    /// which all have applied.
    pub async fn new_cluster(&mut self, voters: &[u64], learners: &[u64]) -> u64 {
        self.add_nodes(voters).await;
        self.add_nodes(learners).await;
        let leader = voters[0];
        self.initialize(leader, voters).await;
        let mut last = self.wait_applied_own(leader).await;
        for learner in learners {
            last = self.add_learner(leader, *learner).await;
        }
        let all: Vec<_> = voters.iter().chain(learners).copied().collect();
        self.await_applied(&all, last).await;
        last
    }

    /// Has a node stand for election until it leads. Returns its term.
    pub async fn elect(&self, id: u64) -> u64 {
        let until = tokio::time::Instant::now() + PATIENCE;
        let patience = Duration::from_millis(self.settings.timings.election_timeout_max_ms);
        while tokio::time::Instant::now() < until {
            self.raft(id).trigger().elect(false).await.expect("Raft runs");
            let won = self.raft(id).wait(Some(patience)).state(ServerState::Leader, "elected").await;
            if let Ok(metrics) = won {
                return metrics.current_term;
            }
        }
        panic!("node {id} was not elected within {PATIENCE:?}; it is {}", self.metrics(id));
    }

    /// Hands the leadership over, and waits until both agree on it.
    pub async fn transfer(&self, from: u64, to: u64) {
        self.raft(from).trigger().transfer_leader(NodeId(to)).await.expect("Raft runs");
        let led = self.wait(to).state(ServerState::Leader, "it takes over").await;
        led.expect("the leadership is handed over");
        self.await_leader(&[from, to], to).await;
        self.wait_applied_own(to).await;
    }

    /// Waits until a node that was just initialized leads.
    async fn lead(&self, id: u64) {
        let patience = Duration::from_millis(self.settings.timings.election_timeout_max_ms);
        let first = self.raft(id).wait(Some(patience)).state(ServerState::Leader, "elected").await;
        // On a busy machine the answers to its first request for votes can come too late.
        if first.is_err() {
            self.elect(id).await;
        }
    }

    /// Waits until a leader has applied all that is in its log. Returns the last index.
    pub async fn wait_applied_own(&self, leader: u64) -> u64 {
        let whole = |metrics: &Metrics| {
            metrics.state == ServerState::Leader && index(metrics.last_applied) == metrics.last_log_index
        };
        let applied = self.wait(leader).metrics(whole, "the leader has applied its log").await;
        applied.expect("the leader applies its log").last_log_index.expect("a leader's log is not empty")
    }

    /// Waits until nodes have applied at least as far as `index`.
    pub async fn await_applied(&self, ids: &[u64], index: u64) {
        for id in ids {
            let applied = self.wait(*id).applied_index_at_least(Some(index), "applied").await;
            applied.unwrap_or_else(|error| panic!("node {id}: {error}"));
        }
    }

    /// Waits until nodes name the same leader.
    pub async fn await_leader(&self, ids: &[u64], leader: u64) {
        for id in ids {
            let known = self.wait(*id).current_leader(NodeId(leader), "the leader is known").await;
            known.unwrap_or_else(|error| panic!("node {id}: {error}"));
        }
    }

    /// Waits until one of these nodes leads and the others know it.
    pub async fn await_any_leader(&self, ids: &[u64]) -> u64 {
        let among = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| ids.contains(&leader.0));
        let known = self.wait(ids[0]).metrics(among, "a leader among them").await;
        let leader = known.expect("a leader is elected").current_leader.expect("it was just seen").0;
        self.await_leader(ids, leader).await;
        leader
    }

    // Writes and reads

    /// A put of a key that was never written.
    pub fn next_command(&self) -> Proposal {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        self.put(format!("key-{number:06}"), format!("value-{number}"))
    }

    /// A put.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Proposal {
        let (key, value) = (Key::new(key.into()).expect("a key"), Value::new(value.into()).expect("a value"));
        encode_command(&Command::put(key, value)).expect("a command")
    }

    /// Writes as many new keys as asked, all at once, and waits until each is applied on the leader.
    /// Returns the last log index.
    pub async fn write(&self, leader: u64, count: u64) -> u64 {
        assert!(count > 0, "a write of nothing has no index");
        let writes = (0..count).map(|_| commit(self.raft(leader), self.next_command()));
        let written = futures::future::join_all(writes).await;
        written.into_iter().map(|log_id| log_id.index).max().expect("something was written")
    }

    /// Proposes without waiting for the outcome; the entries may never be committed. Returns once the
    /// log has them.
    pub async fn propose(&self, leader: u64, count: u64) -> u64 {
        let before = self.metrics(leader).last_log_index.expect("a leader's log is not empty");
        for _ in 0..count {
            let proposed = self.raft(leader).client_write_ff(self.next_command(), None).await;
            proposed.expect("Raft runs");
        }
        let last = before + count;
        let appended = self.wait(leader).log_index_at_least(Some(last), "appended").await;
        appended.expect("the leader appends what it is given");
        last
    }

    /// All keys of a node's state as it is now.
    pub fn contents(&self, id: u64) -> RangeReply {
        let everything = ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new()));
        let (_, range) = self.reader(id).read(&everything).expect("the state can be read");
        assert!(!range.more, "the scenario wrote more than one page");
        range
    }

    /// Waits until nodes have applied `index`, and checks that their states are the same.
    pub async fn assert_same_state(&self, ids: &[u64], index: u64) {
        self.await_applied(ids, index).await;
        let (first, others) = ids.split_first().expect("there is a node to compare");
        for other in others {
            assert_eq!(self.contents(*first), self.contents(*other), "nodes {first} and {other} differ");
            assert_eq!(self.reader(*first).revision(), self.reader(*other).revision());
        }
    }

    // Snapshots

    /// Has a node make a snapshot of what it has applied. Returns the snapshot's last log id.
    pub async fn snapshot(&self, id: u64) -> LogId {
        let applied = self.metrics(id).last_applied.expect("it has applied something");
        self.raft(id).trigger().snapshot().await.expect("Raft runs");
        let made = |metrics: &Metrics| metrics.snapshot.is_some_and(|snapshot| snapshot >= applied);
        let made = self.wait(id).metrics(made, "a snapshot").await.expect("the snapshot is made");
        made.snapshot.expect("it was just seen")
    }

    /// Has a node make a snapshot and purge its whole log behind it.
    pub async fn snapshot_and_purge(&self, id: u64) -> LogId {
        let snapshot = self.snapshot(id).await;
        self.raft(id).trigger().purge_log(snapshot.index).await.expect("Raft runs");
        let purged = self.wait(id).purged(Some(snapshot), "purged").await;
        purged.expect("the log is purged").purged.expect("it was just seen")
    }

    /// A node's snapshot, as another one would have received it.
    pub async fn copy_snapshot(&self, from: u64, to: u64) -> Snapshot {
        let current = self.raft(from).get_snapshot().await.expect("Raft runs");
        let Snapshot { meta, snapshot } = current.expect("the node has a snapshot");
        let mut incoming = self.node(to).inbox.begin().expect("there is room for a snapshot");
        let mut pieces = std::pin::pin!(snapshot.pieces());
        while let Some(piece) = pieces.next().await {
            incoming.write(piece.expect("it can be read")).await.expect("it can be written");
        }
        Snapshot { meta, snapshot: incoming.finish().await.expect("it can be made durable") }
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

    /// RPCs that came out at another node than they were sent to.
    pub fn misrouted(&self) -> u64 {
        self.fabric.recorder().misrouted()
    }
}

/// Writes, and waits out a lease that has lapsed because the machine is busy: such a write was refused
/// before it was in the log.
pub async fn commit(raft: &RaftHandle, proposal: Proposal) -> LogId {
    loop {
        let written = tokio::time::timeout(PATIENCE, raft.client_write(proposal.clone())).await;
        match written.expect("a write ends") {
            Ok(written) => {
                assert!(matches!(written.data, Applied::Command(Ok(_))), "{:?}", written.data);
                return written.log_id;
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))
                if to.reason == ForwardReason::LeaseExpired =>
            {
                let now = TypeConfig::now();
                let acked = raft.wait(Some(PATIENCE)).leader_with_quorum_acked(Some(now), "a lease").await;
                acked.expect("the leader gets its lease back");
            }
            Err(error) => panic!("node {} refused a write: {error}", raft.node_id()),
        }
    }
}
