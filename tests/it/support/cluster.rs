//! Clusters of nodes, and clients of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aspen::kv::client::{Address, KvClient};
use aspen::kv::types::{ClusterStatus, NodeId, NodeState, Role};

use super::hosts::Hosts;
use super::node::Node;
use super::{PATIENCE, eventually};

impl Node {
    /// A client of this node alone.
    pub fn client(&self) -> KvClient {
        client_of([self.http()])
    }

    /// The cluster as this node sees it.
    pub async fn status(&self) -> ClusterStatus {
        self.client()
            .status()
            .await
            .unwrap_or_else(|error| panic!("node {}: {error}\n{}", self.id, self.log()))
    }
}

/// A client of several nodes.
pub fn client_of(nodes: impl IntoIterator<Item = SocketAddr>) -> KvClient {
    KvClient::builder()
        .addresses(nodes.into_iter().map(Address::from))
        .build()
        .expect("the addresses are valid")
}

/// Several nodes that form one cluster. The directory goes when this is dropped.
pub struct Cluster {
    /// The nodes, by id from 1.
    pub nodes: Vec<Node>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` nodes and makes them voters of one cluster.
    pub async fn start(count: u64, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self::start_in(dir, count, flags).await
    }

    /// The same in a directory in which disks may be mounted already.
    pub async fn start_in(dir: tempfile::TempDir, count: u64, flags: &[&str]) -> Self {
        let nodes = (1..=count).map(|id| Node::new(id, dir.path(), flags)).collect();
        Self::form(dir, nodes).await
    }

    /// The same with each node on a host of its own, as many as there are hosts for.
    pub async fn start_on(hosts: &Hosts, count: u64, flags: &[&str]) -> Self {
        let dir = hosts.dir();
        let nodes =
            (1..=count).zip(hosts.iter()).map(|(id, host)| host.node(id, dir.path(), flags)).collect();
        Self::form(dir, nodes).await
    }

    /// Starts nodes, with ids from 1, and makes them voters of one cluster.
    pub async fn form(dir: tempfile::TempDir, nodes: Vec<Node>) -> Self {
        let mut waiting = nodes.into_iter();
        let first = waiting.next().expect("a cluster has a node").with_flags(["--bootstrap", "auto"]);
        let mut nodes = vec![first];
        nodes[0].start();
        for node in waiting {
            let mut node = node.with_flags(["--peer".to_owned(), nodes[0].endpoint()]);
            node.start();
            nodes.push(node);
        }
        let first = nodes[0].client();
        eventually("node 1 leads", async || nodes[0].status().await.role == Role::Leader).await;
        for node in &nodes[1..] {
            first.add_learner(node.endpoint()).await.expect("a learner can be added");
        }
        if nodes.len() > 1 {
            let voters = nodes.iter().map(|node| NodeId(node.id)).collect();
            first.set_voters(voters).await.expect("learners can be promoted");
        }
        Self { nodes, dir }
    }

    /// Starts another node and makes it a learner, known by node 1. Returns its place in `nodes`.
    pub async fn join(&mut self, id: u64) -> usize {
        let peer = ["--peer".to_owned(), self.nodes[0].endpoint()];
        let mut node = Node::new(id, self.dir.path(), &[]).with_flags(peer);
        node.start();
        self.nodes[0].client().add_learner(node.endpoint()).await.expect("a learner can be added");
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A client of all nodes that run.
    pub fn client(&self) -> KvClient {
        client_of(self.running().map(Node::http))
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Waits until the nodes that run agree on a leader, and says which it is (as an index of `nodes`).
    pub async fn leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            for (index, node) in self.nodes.iter().enumerate() {
                if !node.is_running() {
                    continue;
                }
                let status = node.status().await;
                if status.role == Role::Leader && status.state == NodeState::Serving {
                    return index;
                }
            }
            assert!(Instant::now() < until, "no node leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
