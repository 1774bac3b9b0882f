//! Three nodes in one process.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{PATIENCE, TestNode, agree_to_found, introduce, members, nodes as by_id};
use crate::kv::types::{Command, Key, NodeId, ReadRequest, Value};
use crate::limits;
use crate::raft::observe::Metrics;
use crate::raft::types::{Applied, LogId};
use crate::storage::record::encode_command;
use crate::transport::vouching::Members;

/// Nodes 1 to 3, of which the first is told that they are a cluster.
async fn cluster() -> Vec<TestNode> {
    let nodes = vec![TestNode::start(1).await, TestNode::start(2).await, TestNode::start(3).await];
    for (at, node) in nodes.iter().enumerate() {
        for other in &nodes[at + 1..] {
            introduce(node, other);
        }
    }
    let peers: Vec<_> = nodes.iter().map(TestNode::peer).collect();
    agree_to_found(&nodes.iter().map(|node| &node.transport).collect::<Vec<_>>());
    nodes[0].raft.initialize(by_id(&peers)).await.unwrap();
    nodes
}

/// Waits until all of them follow the same leader.
async fn leader(nodes: &[TestNode]) -> NodeId {
    let known = nodes[0].wait("a leader", |metrics| metrics.current_leader.is_some()).await;
    let leader = known.current_leader.unwrap();
    for node in nodes {
        node.wait("the same leader", |metrics| metrics.current_leader == Some(leader)).await;
    }
    leader
}

fn node(nodes: &[TestNode], id: NodeId) -> &TestNode {
    nodes.iter().find(|node| node.id() == id).unwrap()
}

fn key(number: u64) -> Key {
    Key::new(format!("key-{number}")).unwrap()
}

/// A value that no other number has, and that does not get smaller by any trick.
fn value(number: u64) -> Value {
    let mut bytes = vec![0; limits::VALUE_MAX_BYTES / 4];
    StdRng::seed_from_u64(number).fill_bytes(&mut bytes);
    Value::new(Bytes::from(bytes)).unwrap()
}

async fn put(leader: &TestNode, number: u64) -> LogId {
    // A leader takes no writes before a quorum has answered it for the first time.
    leader.wait("a quorum", |metrics| metrics.last_quorum_acked.is_some()).await;
    let command = encode_command(&Command::put(key(number), value(number))).unwrap();
    let written = leader.raft.client_write(command);
    let written = tokio::time::timeout(PATIENCE, written).await.expect("a write ends").unwrap();
    assert!(matches!(written.data, Applied::Command(Ok(_))), "{:?}", written.data);
    written.log_id
}

async fn expect_applied(node: &TestNode, index: u64, numbers: impl Iterator<Item = u64>) {
    let applied = |applied: Option<&LogId>| applied.map(|log_id| log_id.index);
    node.wait("all entries", |metrics| applied(metrics.last_applied.as_ref()) >= Some(index)).await;
    for number in numbers {
        let (_, read) = node.reader.read(&ReadRequest::get(key(number))).unwrap();
        assert_eq!(read.kvs[0].value, value(number), "key {number} on node {}", node.id());
    }
}

/// Cuts a node off from all others.
fn part(nodes: &[TestNode], away: &TestNode) {
    for other in nodes.iter().filter(|other| other.id() != away.id()) {
        for (one, two) in [(other, away), (away, other)] {
            one.transport.book().forget(two.id());
            one.transport.cut_off(&[two.peer().info.public_key]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_a_leader_and_replicate() {
    let nodes = cluster().await;
    let leader = leader(&nodes).await;
    let mut last = 0;
    for number in 0..20 {
        last = put(node(&nodes, leader), number).await.index;
    }
    for node in &nodes {
        expect_applied(node, last, 0..20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_a_leader_that_is_cut_off() {
    let nodes = cluster().await;
    let first = leader(&nodes).await;
    put(node(&nodes, first), 0).await;
    part(&nodes, node(&nodes, first));

    let follower = nodes.iter().find(|node| node.id() != first).unwrap();
    let elected = follower
        .wait("another leader", |metrics| metrics.current_leader.is_some_and(|leader| leader != first));
    let second = elected.await.current_leader.unwrap();
    let last = put(node(&nodes, second), 1).await.index;

    for other in nodes.iter().filter(|other| other.id() != first) {
        introduce(other, node(&nodes, first));
    }
    expect_applied(node(&nodes, first), last, 0..2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_past_the_purge_comes_back_by_a_snapshot() {
    let nodes = cluster().await;
    let leader = node(&nodes, leader(&nodes).await);
    let away = nodes.iter().find(|node| node.id() != leader.id()).unwrap();
    let before = put(leader, 0).await.index;
    expect_applied(away, before, 0..1).await;

    part(&nodes, away);
    let mut last = before;
    for number in 1..12 {
        last = put(leader, number).await.index;
    }
    assert!(away.reader.applied_index() < Some(last), "it was cut off");
    leader.raft.trigger().snapshot().await.unwrap();
    let index = |log_id: Option<&LogId>| log_id.map(|log_id| log_id.index);
    leader.wait("a snapshot", |metrics| index(metrics.snapshot.as_ref()) >= Some(last)).await;
    leader.raft.trigger().purge_log(last).await.unwrap();
    leader.wait("the purge", |metrics| index(metrics.purged.as_ref()) == Some(last)).await;

    for other in nodes.iter().filter(|other| other.id() != away.id()) {
        introduce(other, away);
    }
    let back = away.wait("the snapshot", |metrics| index(metrics.snapshot.as_ref()) >= Some(last)).await;
    assert!(index(back.last_applied.as_ref()) >= Some(last));
    expect_applied(away, last, 0..12).await;
    let newest = put(leader, 12).await.index;
    expect_applied(away, newest, 0..13).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), away.raft.shutdown()).await.is_ok());
}

/// Node 4 joins and comes to lead while node 3 is away: node 3 does not know it, and it is node 4 alone who
/// could tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_follows_a_leader_that_joined_meanwhile() {
    let mut nodes = cluster().await;
    let first = leader(&nodes).await;
    put(node(&nodes, first), 0).await;
    let away = nodes.iter().position(|node| node.id() != first).unwrap();
    let away = nodes.remove(away);
    for other in &nodes {
        for (one, two) in [(other, &away), (&away, other)] {
            one.transport.book().set_members(Members::default());
            one.transport.book().forget(two.id());
            one.transport.cut_off(&[two.peer().info.public_key]);
        }
    }

    let newcomer = TestNode::start(4).await;
    for other in &nodes {
        introduce(other, &newcomer);
    }
    let raft = &node(&nodes, first).raft;
    raft.add_learner(newcomer.id(), newcomer.peer().info, true).await.unwrap();
    let voters: BTreeSet<NodeId> = [1, 2, 3, 4].map(NodeId).into();
    raft.change_membership(voters, true).await.unwrap();
    let joined = |metrics: &Metrics| metrics.membership_config.voter_ids().count() == 4;
    newcomer.wait("its vote", joined).await;
    raft.trigger().transfer_leader(newcomer.id()).await.unwrap();
    newcomer.wait("its leadership", |metrics| metrics.current_leader == Some(NodeId(4))).await;

    for other in &nodes {
        introduce(other, &away);
    }
    newcomer.knows(&away.peer());
    // What it knew of the members before it was away.
    let known = nodes.iter().map(TestNode::peer).collect::<Vec<_>>();
    away.transport.book().set_members(members(&known));
    let last = put(&newcomer, 1).await.index;
    expect_applied(&away, last, 0..2).await;
}
