//! A node that founds by itself, and comes back without its directory while there are others.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use aspen::kv::types::{ClusterId, Key, Revision, Value};
use serde_json::json;

use super::{cluster_id, temporary_directory, voters, wait_for_log};
use crate::support::cluster::client_of;
use crate::support::node::{Node, coverage_file};
use crate::support::wait_until;

/// Exit code of the command line: the cluster cannot be reached.
const UNAVAILABLE: i32 = 3;

fn aspen(addresses: &[SocketAddr], arguments: &[&str]) -> Output {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let run = Command::new(env!("CARGO_BIN_EXE_aspen"))
        .args(["--addr", &addresses.join(",")])
        .args(arguments)
        .env_clear()
        .envs(coverage_file())
        .output();
    run.expect("the client's binary starts")
}

/// Node 1, which founds by itself, and two that join it with a ticket.
fn founder_and_two(base: &Path, flags: &[&str]) -> Vec<Node> {
    let mut founder = Node::new(1, base, flags);
    founder.start_serving();
    let made = founder.post("/tickets", &json!({ "uses": 2 })).ok();
    let ticket = made["ticket"].as_str().expect("a ticket is a string").to_owned();
    let joining = [2, 3].map(|number| Node::new(number, base, &["--join", &ticket]).without_id());
    let mut nodes: Vec<Node> = std::iter::once(founder).chain(joining).collect();
    for node in &mut nodes[1..] {
        node.start();
        node.wait_until_ready();
    }
    wait_until("all three vote", || voters(&nodes[0]) == [1, 2, 3]);
    wait_for_log(&nodes[0], &["WARN", "found a second, empty cluster", "bootstrap = \"manual\""]);
    nodes
}

/// Ends the node, takes its directory away, and starts it as it was started before.
fn lose_directory(node: &mut Node) {
    node.kill();
    std::fs::remove_dir_all(&node.dir).expect("the directory can be removed");
    std::fs::create_dir(&node.dir).expect("the directory can be made");
    node.start_serving();
}

/// The one of these nodes that leads, once one does.
fn leader(nodes: &[Node]) -> &Node {
    let mut leader = None;
    wait_until("another node leads", || {
        leader = nodes.iter().find(|node| node.get("/health").json()["role"] == "leader");
        leader.is_some()
    });
    leader.expect("one leads")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_lost_its_disk_serves_no_client_of_the_old_cluster() {
    let dir = temporary_directory();
    let mut nodes = founder_and_two(dir.path(), &[]);
    let own = cluster_id(&nodes[0]).expect("a serving node belongs to a cluster");
    let addresses: Vec<SocketAddr> = nodes.iter().map(Node::http).collect();
    let client = client_of(addresses.clone());
    let key = || Key::new("a").unwrap();
    client.put(key(), Value::new("1").unwrap()).await.unwrap();

    lose_directory(&mut nodes[0]);
    let other = cluster_id(&nodes[0]).expect("it founds again");
    assert_ne!(other, own);
    assert_eq!(nodes[0].http(), addresses[0], "it is where it was");
    assert!(!nodes[0].last_log().contains("a second, empty cluster"), "it has no others now");
    let leader = leader(&nodes[1..]);
    wait_for_log(leader, &["WARN", "node 1 cannot be reached", "another key", "aspen member remove 1"]);
    let found = client.get(key()).await.unwrap().expect("the key is there");
    assert_eq!(found.value.as_bytes(), b"1");
    for round in 2..20 {
        let written = client.put(key(), Value::new(format!("{round}")).unwrap()).await.unwrap();
        assert_eq!(written.revision, Revision(round));
    }
    // Also where no other address is known.
    let old: ClusterId = own.parse().unwrap();
    let lost = aspen::kv::client::KvClient::builder().address(addresses[0].into()).cluster_id(old);
    let error = lost.build().unwrap().put(key(), Value::new("9").unwrap()).await.unwrap_err();
    assert_eq!((error.code(), error.is_outcome_unknown()), ("other_cluster", false), "{error}");

    let put = aspen(&addresses, &["--cluster-id", &own, "put", "a", "99"]);
    assert!(put.status.success(), "{put:?}");
    assert_eq!(nodes[1].value("a").as_deref(), Some("99"));
    let refused = aspen(&addresses[..1], &["--cluster-id", &own, "get", "a"]);
    assert_eq!(refused.status.code(), Some(UNAVAILABLE), "{refused:?}");
    let sentence = String::from_utf8_lossy(&refused.stderr);
    for part in [&own, &other, "lost its data directory"] {
        assert!(sentence.contains(part), "'{part}' is missing in {sentence}");
    }
    let answer = nodes[0].post("/read", &json!({"get": {"key": "a"}})).ok();
    assert_eq!((&answer["revision"], &answer["kvs"]), (&json!(0), &json!([])), "it was written nothing");
}

#[test]
fn a_founder_that_lost_its_directory_and_kept_its_key_is_told_of_as_one_that_began_anew() {
    let dir = temporary_directory();
    let key = dir.path().join("key").to_str().expect("a temporary directory is named in UTF-8").to_owned();
    let made = Command::new(env!("CARGO_BIN_EXE_aspen-node"))
        .args(["keygen", "--out", &key])
        .envs(coverage_file())
        .output()
        .expect("the node's binary starts");
    assert!(made.status.success(), "{made:?}");
    let mut nodes = founder_and_two(dir.path(), &["--secret-key-file", &key]);
    nodes[0].terminate();
    nodes[0].start_serving();
    wait_for_log(&nodes[0], &["WARN", "found a second, empty cluster"]);
    let is_up = |node: &Node| voters(node) == [1, 2, 3];
    wait_until("it is a member again", || is_up(&nodes[0]));

    lose_directory(&mut nodes[0]);
    let other = cluster_id(&nodes[0]).expect("it founds again");
    wait_for_log(&nodes[0], &["WARN", "a connection was turned away", &other, "lost its data directory"]);
    let leader = leader(&nodes[1..]);
    wait_for_log(leader, &["WARN", "node 1 and this node do not talk", "aspen member remove 1"]);
    let seen = leader.get("/cluster").ok();
    let reason = seen["nodes"][0]["reason"].as_str().expect("node 1 is out of reach").to_owned();
    assert!(reason.contains("aspen member remove 1"), "{reason}");
}
