//! Disks that fill up under real nodes: writes are refused in time, everything else goes on, and nobody
//! has to tell the nodes that there is room again.

use std::path::Path;
use std::time::Instant;

use aspen::kv::types::{DiskState, NodeId, Role};
use aspen::raft::traffic::{Rpc, Traffic};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::disk::Disk;
use crate::support::http::Answer;
use crate::support::node::Node;
use crate::support::{eventually, wait_until};

const MIB: u64 = 1024 * 1024;
const VALUE_BYTES: usize = 200_000;
const WRITES_MAX: usize = 1_000;

fn value(index: usize) -> String {
    format!("{index:06}").repeat(VALUE_BYTES / 6)
}

fn write(node: &Node, index: usize) -> Answer {
    node.post("/write", &json!({ "put": { "key": format!("k{index}"), "value": value(index) } }))
}

fn assert_disk_full(answer: &Answer, node_id: u64) {
    assert_eq!(answer.status, 507, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["details"]["node_id"]), (&json!("disk_full"), &json!(node_id)));
    assert!(error["action"].as_str().is_some_and(|action| action.contains("room")), "{error}");
}

fn disk_of(node: &Node) -> Value {
    node.get("/cluster").ok()["disk"].clone()
}

/// Writes until a write is refused; returns how many were acknowledged, and the refusal.
fn write_until_refused(node: &Node) -> (usize, Answer) {
    for index in 0..WRITES_MAX {
        let answer = write(node, index);
        if answer.status != 200 {
            return (index, answer);
        }
    }
    panic!("the disk is never full");
}

fn mount(base: &Path, id: u64, test: &str) -> Option<Disk> {
    Disk::mount(&base.join(format!("n{id}")), "size=64m", test)
}

#[test]
fn full_disk_refuses_data_in_time_and_takes_it_again_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    let Some(disk) = mount(dir.path(), 1, "full_disk_refuses_data_in_time") else { return };
    node.start_serving();
    assert_eq!(disk_of(&node)["state"], "well");

    let (acknowledged, refusal) = write_until_refused(&node);
    println!("{acknowledged} writes of {VALUE_BYTES} B, then {} bytes are free of 64 MiB", disk.free_bytes());
    assert_disk_full(&refusal, 1);
    assert!(acknowledged > 30, "most of the disk is for data: {acknowledged} writes");
    assert!(disk.free_bytes() > 4 * MIB, "the last reserve is whole: {}", disk.free_bytes());

    // All that takes no room goes on, and what makes room does. Far enough below the mark, so that a
    // start, which may shrink a file, does not end it.
    disk.fill_up_to(12 * MIB);
    wait_until("the watch sees it", || disk_of(&node)["state"] == "full");
    let health = node.get("/health").ok();
    assert_eq!((&health["healthy"], &health["disk"]), (&json!(true), &json!("full")), "{health}");
    wait_until("the figures tell", || node.figure("aspen_disk_is_refusing") > 0.0);
    assert!(node.figure("aspen_disk_free_bytes") > 0.0);
    assert!(node.value("k0") == Some(value(0)));
    node.post("/write", &json!({ "delete": { "key": "k0" } })).ok();
    let too_much = node.post("/write", &json!({ "delete_prefix": { "prefix": "k" } }));
    assert_disk_full(&too_much, 1);
    node.post("/write", &json!({ "delete_prefix": { "prefix": "k10" } })).ok();
    let revision = node.get("/cluster").ok()["revision"].clone();
    node.post("/write", &json!({ "compact": { "revision": revision } })).ok();
    assert_disk_full(&write(&node, 0), 1);

    // A crash makes nothing worse.
    node.kill();
    node.start_serving();
    assert_eq!(node.value("k0"), None);
    assert!(node.value("k2") == Some(value(2)));
    wait_until("the watch sees it", || disk_of(&node)["state"] == "full");
    assert_disk_full(&write(&node, 0), 1);
    let line = "the disk of node 1 is full";
    wait_until("the log tells", || node.last_log().contains(line));
    assert_disk_full(&write(&node, 0), 1);
    assert_eq!(node.last_log().matches(line).count(), 1, "one line, not one a write: {}", node.last_log());

    disk.remount("size=256m");
    let started = Instant::now();
    node.wait_until_writable();
    println!("writes were taken again {:?} after there was room", started.elapsed());
    node.assert_running();
    write(&node, 0).ok();
    assert!(node.value("k0") == Some(value(0)));
}

#[test]
fn disk_without_room_for_a_snapshot_costs_the_snapshot_and_not_the_node() {
    let dir = TempDir::new().unwrap();
    let mut node = Node::new(1, dir.path(), &[]).with_env("ASPEN_RAFT__SNAPSHOT_EVERY_ENTRIES", "5");
    let Some(disk) = mount(dir.path(), 1, "disk_without_room_for_a_snapshot") else { return };
    node.start_serving();
    let (acknowledged, refusal) = write_until_refused(&node);
    assert_disk_full(&refusal, 1);
    // How much a purge of the log has given back meanwhile is a matter of time.
    disk.fill_up_to(6 * MIB);
    wait_until("a snapshot is put off", || {
        node.post("/write", &json!({ "delete": { "key": "none" } })).ok();
        node.figure("aspen_storage_snapshots_put_off_total") > 0.0
    });
    println!("{acknowledged} writes with snapshots, then {} bytes are free of 64 MiB", disk.free_bytes());
    node.assert_running();
    disk.remount("size=256m");
    node.wait_until_writable();
    for index in 0..acknowledged {
        assert!(node.value(&format!("k{index}")) == Some(value(index)), "k{index} of {acknowledged} is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_with_a_full_disk_hands_over_and_writes_go_on() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = mount(dir.path(), 1, "leader_with_a_full_disk_hands_over") else { return };
    let cluster = Cluster::start_in(dir, 3, &[]).await;
    let nodes = &cluster.nodes;
    assert_eq!(nodes[0].status().await.role, Role::Leader);

    let mut writes = 0;
    while nodes[0].status().await.leader == Some(NodeId(1)) {
        write(&nodes[0], writes).ok();
        writes += 1;
        assert!(writes < WRITES_MAX, "the disk is never full");
    }
    println!("node 1 handed over after {writes} writes, none of which was refused");
    let handed_over = Traffic::Rpc(Rpc::TransferLeader).series(true);
    eventually("a peer's answer is counted", async || nodes[0].figure(&handed_over) > 0.0).await;
    for index in writes..writes + 100 {
        write(&nodes[0], index).ok();
    }
    let leader = cluster.leader().await;
    assert_ne!(leader, 0, "it did not come back");
    nodes[0].status().await.disk.filter(|disk| !disk.state.may_lead()).expect("its disk is full");
    assert!(disk.free_bytes() > MIB, "{}", disk.free_bytes());
    println!("a hundred writes later, it has {} bytes free", disk.free_bytes());

    disk.remount("size=256m");
    let newest = nodes[leader].status().await.revision;
    eventually("node 1 has caught up", async || nodes[0].status().await.revision >= newest).await;
    let is_well = async || nodes[0].status().await.disk.is_some_and(|disk| disk.state == DiskState::Well);
    eventually("its disk is well", is_well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_with_full_disks_refuses_data_by_name_and_takes_deletes() {
    let dir = TempDir::new().unwrap();
    let test = "quorum_with_full_disks_refuses_data_by_name";
    let Some(second) = mount(dir.path(), 2, test) else { return };
    let third = mount(dir.path(), 3, test).expect("a second one can be mounted, too");
    let cluster = Cluster::start_in(dir, 3, &[]).await;
    let nodes = &cluster.nodes;
    write(&nodes[0], 0).ok();

    second.fill_up_to(10 * MIB);
    for index in 1..10 {
        write(&nodes[0], index).ok();
    }
    third.fill_up_to(12 * MIB);
    wait_until("a majority has no room", || write(&nodes[1], 10).status == 507);
    let refusal = write(&nodes[0], 10);
    let named = refusal.json()["error"]["details"]["node_id"].as_u64().expect("the refusal names a node");
    assert!([2, 3].contains(&named), "the leader has room: {refusal:?}");
    assert_disk_full(&refusal, named);
    assert!(nodes[2].value("k9") == Some(value(9)));
    nodes[2].post("/write", &json!({ "delete": { "key": "k9" } })).ok();
    assert_eq!(nodes[0].status().await.leader, Some(NodeId(1)), "there is nobody to hand over to");

    third.empty();
    nodes[2].wait_until_writable();
    write(&nodes[0], 10).ok();
}
