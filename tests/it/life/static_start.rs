//! Nodes that are given each other's tickets form one cluster, whatever the order and timing in which they
//! start, and never two.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aspen::kv::types::{NodeId, NodeInfo, Peer};
use aspen::node::identity::{self, SECRET_KEY_FILE_NAME};
use aspen::transport::ticket::NodeTicket;
use serde_json::json;

use super::{cluster, cluster_id, temporary_directory, voters, wait_for_log};
use crate::support::node::{Node, free_udp_port};
use crate::support::wait_until;

/// Nodes with keys and addresses made beforehand, as a configuration holds them.
fn nodes_with_tickets(base: &Path, ids: &[u64]) -> (Vec<Node>, Vec<String>) {
    let made = ids.iter().map(|id| {
        let node = Node::new(*id, base, &["--bootstrap", "static"]).at_iroh_addr(free_udp_port());
        fs::create_dir(&node.dir).expect("a directory can be made");
        let public_key = identity::keygen(&node.dir.join(SECRET_KEY_FILE_NAME)).expect("a key can be made");
        let info = NodeInfo { public_key, addresses: vec![node.iroh_addr()], ..NodeInfo::default() };
        let ticket = NodeTicket(Peer { node_id: NodeId(*id), info }).to_string();
        (node, ticket)
    });
    made.unzip()
}

/// Three nodes, all of which are given one list.
fn three_nodes(base: &Path) -> Vec<Node> {
    let (nodes, tickets) = nodes_with_tickets(base, &[1, 2, 3]);
    let list = tickets.join(",");
    nodes.into_iter().map(|node| node.with_flags(["--peers", &list])).collect()
}

fn assert_one_cluster(nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        node.wait_until_ready();
    }
    let id = cluster_id(&nodes[0]).expect("a serving node belongs to a cluster");
    for node in nodes.iter() {
        assert_eq!(cluster_id(node).as_ref(), Some(&id), "node {}", node.id);
        assert_eq!(voters(node), [1, 2, 3], "node {}", node.id);
    }
    for node in nodes.iter() {
        node.put(&format!("by-{}", node.id), "written");
    }
    for node in nodes.iter() {
        for other in 1..=3 {
            assert_eq!(node.value(&format!("by-{other}")).as_deref(), Some("written"));
        }
    }
}

/// Ends a node and takes everything from it but its key.
fn wipe(node: &mut Node) {
    if node.is_running() {
        node.kill();
    }
    for entry in fs::read_dir(&node.dir).expect("the directory is there") {
        let path = entry.expect("the directory can be listed").path();
        if path.file_name().is_some_and(|name| name == SECRET_KEY_FILE_NAME) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("what a node wrote can be removed");
    }
}

#[test]
fn three_nodes_form_one_cluster_in_whatever_order_they_start() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let dir = temporary_directory();
        let mut nodes = three_nodes(dir.path());
        nodes[order[0]].start();
        nodes[order[1]].start();
        let last = order[2] + 1;
        for early in &order[..2] {
            wait_for_log(&nodes[*early], &["no cluster yet", &format!("node {last}")]);
            let waits = cluster(&nodes[*early]);
            assert_eq!(waits["state"], "waiting_for_init", "{waits}");
            assert!(
                waits["detail"].as_str().is_some_and(|detail| detail.contains("founds a cluster")),
                "{waits}"
            );
            assert_eq!(waits["cluster_id"], json!(null), "two of three found nothing");
        }
        nodes[order[2]].start();
        assert_one_cluster(&mut nodes);

        // The same configuration is harmless from then on.
        for node in &mut nodes {
            node.kill();
        }
        for node in nodes.iter_mut().rev() {
            node.start();
        }
        assert_one_cluster(&mut nodes);
    }
}

#[test]
fn three_nodes_that_start_at_once_and_are_killed_while_they_found_form_one_cluster() {
    for round in 0..6_u64 {
        let dir = temporary_directory();
        let mut nodes = three_nodes(dir.path());
        for node in &mut nodes {
            node.spawn();
        }
        for kill in 0..4_usize {
            // Somewhere between the first question and the first election; each round is another moment.
            std::thread::sleep(Duration::from_millis(60 + round * 45));
            let victim = &mut nodes[(kill + usize::try_from(round).expect("a small number")) % 3];
            victim.kill();
            victim.spawn();
        }
        for node in &mut nodes {
            node.await_ports();
        }
        assert_one_cluster(&mut nodes);
    }
}

#[test]
fn nodes_that_name_different_peers_found_nothing_and_say_who_names_whom() {
    let dir = temporary_directory();
    let (nodes, tickets) = nodes_with_tickets(dir.path(), &[1, 2, 3]);
    let lists = [tickets.join(","), tickets.join(","), tickets[..1].join(",")];
    let mut nodes: Vec<Node> =
        nodes.into_iter().zip(&lists).map(|(node, list)| node.with_flags(["--peers", list])).collect();
    for node in &mut nodes {
        node.start();
    }
    wait_for_log(
        &nodes[0],
        &["node 3 is to found a cluster of nodes 1 (", "this node one of 1 (", "same peers"],
    );
    assert!(nodes.iter().all(|node| cluster_id(node).is_none()));

    nodes[2].kill();
    let third = nodes.pop().expect("there are three").with_flags(["--peer", &tickets[1]]);
    nodes.push(third);
    nodes[2].start();
    assert_one_cluster(&mut nodes);
}

#[test]
fn a_node_that_is_to_found_a_cluster_with_others_makes_none_by_init() {
    let dir = temporary_directory();
    let mut nodes = three_nodes(dir.path());
    nodes[1].start();
    wait_for_log(&nodes[1], &["no cluster yet: waits for node 1"]);
    let answer = nodes[1].post_text("/init", "");
    assert_eq!(answer.status, 409, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "makes_no_cluster", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("waits for node 1")), "{error}");
    nodes[0].start();
    nodes[2].start();
    assert_one_cluster(&mut nodes);
}

#[test]
fn a_first_node_that_lost_its_disk_founds_no_second_cluster_and_is_told_how_to_rejoin() {
    let dir = temporary_directory();
    let mut nodes = three_nodes(dir.path());
    for node in &mut nodes {
        node.start();
    }
    assert_one_cluster(&mut nodes);
    let id = cluster_id(&nodes[1]);

    wipe(&mut nodes[0]);
    nodes[0].start();
    wait_for_log(&nodes[0], &["another data directory", "member remove 1", "--join"]);
    wait_until("the others serve", || {
        nodes[1..].iter().all(|node| {
            node.try_post("/read", &json!({ "get": { "key": "by-1" } }))
                .is_ok_and(|answer| answer.status == 200)
        })
    });
    nodes[1].put("without-the-first", "written");
    assert_eq!(cluster(&nodes[0])["state"], "waiting_for_init");
    assert_eq!((cluster_id(&nodes[1]), cluster_id(&nodes[2])), (id.clone(), id));
}

#[test]
fn a_node_that_lost_its_disk_elects_nobody_who_lacks_what_was_acknowledged() {
    let dir = temporary_directory();
    let mut nodes = three_nodes(dir.path());
    for node in &mut nodes {
        node.start();
    }
    assert_one_cluster(&mut nodes);

    nodes[1].kill();
    nodes[0].put("acknowledged", "by nodes 1 and 3");
    nodes[0].kill();
    wipe(&mut nodes[2]);
    nodes[1].start();
    nodes[2].start();
    wait_for_log(&nodes[2], &["another data directory"]);
    // Several elections long.
    let until = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < until {
        for node in &nodes[1..] {
            let seen = cluster(node);
            assert!(seen["role"] != "leader", "{seen}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    nodes[0].start();
    for node in &mut nodes[..2] {
        node.wait_until_ready();
        assert_eq!(node.value("acknowledged").as_deref(), Some("by nodes 1 and 3"));
    }
}

#[test]
fn a_founder_that_was_removed_stays_out_of_members_that_are_restarted_and_still_name_it() {
    let dir = temporary_directory();
    let mut nodes = three_nodes(dir.path());
    for node in &mut nodes {
        node.start();
    }
    assert_one_cluster(&mut nodes);
    nodes[2].kill();
    nodes[0].post("/change-membership", &json!({ "remove": [3] })).ok();
    wait_until("both know of the removal", || nodes[..2].iter().all(|node| voters(node) == [1, 2]));
    for node in &mut nodes[..2] {
        assert!(node.terminate().success());
        node.start();
        wait_for_log(node, &["node 3", "was removed from the cluster: take it out of the configuration"]);
    }
    nodes[2].start();
    wait_for_log(&nodes[2], &["was removed from its cluster"]);
    nodes[0].put("after", "the removal");
}
