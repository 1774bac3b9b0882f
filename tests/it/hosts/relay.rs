//! Relays that nodes serve for their own cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aspen::kv::types::{MembershipChange, NodeId, PathType, Role};
use iroh::endpoint::presets;
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey, Watcher};

use super::{all_meet, key, value};
use crate::support::cluster::{Cluster, client_of};
use crate::support::hosts::{Host, Hosts};
use crate::support::node::Node;
use crate::support::writers::{Load, check};
use crate::support::{eventually, eventually_within};

/// iroh looks for a better path once a minute.
const RETURN: Duration = Duration::from_secs(100);

fn relay_addr(host: &Host) -> String {
    SocketAddr::from((host.address(), 4_602)).to_string()
}

fn relay_url(host: &Host) -> String {
    format!("http://{}", relay_addr(host))
}

/// A node on each host, the first of which serves a relay to all.
fn around_one_relay(hosts: &Hosts, base: &Path, flags: &[&str]) -> Vec<Node> {
    let url = relay_url(&hosts[0]);
    let node = |(id, host): (u64, &Host)| host.node(id, base, flags).with_flags(["--iroh-relay", &url]);
    let mut nodes: Vec<Node> = (2..).zip(hosts.iter().skip(1)).map(node).collect();
    let serving = ["--serve-relay".to_owned(), relay_addr(&hosts[0])];
    nodes.insert(0, hosts[0].node(1, base, flags).with_flags(serving));
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn with_direct_paths_cut_the_cluster_works_through_its_own_relay_and_returns() {
    let Some(hosts) = Hosts::make(4, "with_direct_paths_cut_the_cluster_works_through_its_own_relay") else {
        return;
    };
    let dir = hosts.dir();
    let nodes = around_one_relay(&hosts, dir.path(), &["--network-profile", "wan"]);
    let mut cluster = Cluster::form(dir, nodes).await;
    // The relay's own node is to have no part in what the others say to each other.
    let client = cluster.client();
    client.set_voters([2, 3, 4].map(NodeId).into()).await.expect("the relay's node gives its vote up");
    eventually("all paths are direct", async || all_meet(PathType::Direct, &cluster.nodes).await).await;
    let load = Load::start(&client);
    load.progress(100).await;

    println!("phase: the voters reach each other no more, but all reach the relay");
    let pairs = [(1, 2), (1, 3), (2, 3)];
    for (one, other) in pairs {
        hosts.cut_between(one, other);
    }
    eventually("the voters meet at the relay", async || all_meet(PathType::Relay, &cluster.nodes[1..]).await)
        .await;
    client.put(key("over"), value("the relay")).await.expect("a majority meets at the relay");
    load.progress(100).await;
    let relayed = cluster.nodes[0].get("/iroh-metrics").body;
    let carried =
        relayed.lines().find_map(|line| line.strip_prefix("aspen_iroh_relayserver_bytes_sent_total "));
    assert!(carried.is_some_and(|bytes| bytes.parse::<f64>().unwrap() > 10_000.0), "{relayed}");

    println!("phase: the direct paths are back");
    for (one, other) in pairs {
        hosts.heal_between(one, other);
    }
    eventually_within(RETURN, "all paths are direct again", async || {
        all_meet(PathType::Direct, &cluster.nodes).await
    })
    .await;
    load.progress(100).await;

    println!("phase: the relay goes with its node, which costs those nothing that have direct paths");
    cluster.nodes[0].kill();
    load.progress(100).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged", ledger.count);
    for node in &cluster.nodes[1..] {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_only_cluster_works_and_a_new_node_joins_it_with_a_ticket() {
    let Some(hosts) = Hosts::make(4, "a_relay_only_cluster_works") else { return };
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        hosts.cut_between(one, other);
    }
    let dir = hosts.dir();
    let flags = ["--network-profile", "wan", "--iroh-paths", "relay"];
    let mut nodes = around_one_relay(&hosts, dir.path(), &flags);
    let newcomer = nodes.pop().expect("there is a fourth node");
    let first = nodes.remove(0).with_flags(["--bootstrap", "auto"]);
    nodes.insert(0, first);
    nodes[0].start();
    eventually("node 1 leads", async || nodes[0].status().await.role == Role::Leader).await;
    assert_eq!(nodes[0].peer().info.addresses, [], "a node that has no UDP port names none");

    println!("phase: three nodes that know each other by a key and a relay join with tickets");
    nodes.push(newcomer);
    let first = client_of([nodes[0].http()]);
    for mut node in nodes.drain(1..).collect::<Vec<_>>() {
        let ticket = first.new_ticket(600, 1).await.expect("a ticket is made").ticket;
        node = node.without_id().with_flags(["--join".to_owned(), ticket]);
        node.start();
        nodes.push(node);
        eventually("the new node gets its vote", async || {
            let members = nodes[0].status().await.members;
            members.len() == nodes.len() && members.iter().all(|member| member.role != Role::Learner)
        })
        .await;
    }
    for node in &nodes {
        node.client().put(key(&format!("by-{}", node.id)), value("relay")).await.expect("all take writes");
    }
    eventually("all meet at the relay", async || all_meet(PathType::Relay, &nodes).await).await;
    let says_direct =
        |node: &Node| node.log().split(|c: char| !c.is_alphabetic()).any(|word| word == "direct");
    assert!(!nodes.iter().any(says_direct), "{}", nodes[0].log());

    println!("phase: the relay's node is restarted");
    assert!(nodes[0].terminate().success());
    eventually("the others cannot meet", async || !all_meet(PathType::Relay, &nodes[1..]).await).await;
    nodes[0].start();
    eventually("all meet at the relay again", async || all_meet(PathType::Relay, &nodes).await).await;

    println!("phase: another one is restarted, and one is killed");
    assert!(nodes[1].terminate().success());
    nodes[1].start();
    nodes[2].kill();
    let rest = client_of(nodes.iter().filter(|node| node.is_running()).map(Node::http));
    rest.put(key("after"), value("a kill")).await.expect("three of four write");
}

/// Why the relay does not let this key in, as an endpoint on this host is told. None if it is let in.
fn refusal(host: &Host, url: &str, key: SecretKey) -> Option<String> {
    let url: RelayUrl = url.parse().unwrap();
    host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = Endpoint::builder(presets::Minimal)
                .secret_key(key)
                .relay_mode(RelayMode::custom([url]))
                .bind()
                .await
                .expect("an endpoint opens");
            let mut status = endpoint.home_relay_status();
            let outcome = tokio::time::timeout(Duration::from_secs(30), async {
                loop {
                    for relay in status.get() {
                        if relay.is_connected() {
                            return None;
                        }
                        if let Some(reason) = relay.auth_denied_reason() {
                            return Some(reason.to_owned());
                        }
                    }
                    status.updated().await.expect("the endpoint is open");
                }
            });
            let outcome = outcome.await.expect("the relay answers");
            endpoint.close().await;
            outcome
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_admits_members_only() {
    let Some(hosts) = Hosts::make(3, "the_relay_admits_members_only") else { return };
    let dir = hosts.dir();
    let client_key = SecretKey::generate();
    let admitted = client_key.public().to_string();
    let nodes = around_one_relay(&hosts, dir.path(), &["--client-key", &admitted]);
    let cluster = Cluster::form(dir, nodes).await;
    let url = relay_url(&hosts[0]);
    let relay = &cluster.nodes[0];
    let connections = || relay.figure("aspen_relay_connections");
    eventually("all nodes are at the relay", async || connections() == 3.0).await;

    println!("phase: a stranger and a client come");
    let reason = refusal(&hosts[2], &url, SecretKey::generate()).expect("a stranger is turned away");
    assert!(reason.contains("members, declared peers and clients alone"), "{reason}");
    assert!(relay.figure("aspen_relay_rejected_total") > 0.0);
    assert!(relay.log().contains("the relay turned a connection away"), "{}", relay.log());
    assert_eq!(refusal(&hosts[2], &url, client_key), None, "a client is let in");

    println!("phase: a member is removed");
    let change = MembershipChange { remove: [NodeId(3)].into(), ..MembershipChange::default() };
    client_of([relay.http()]).change_membership(change).await.expect("two of three stay");
    eventually("the removed node is cut off", async || connections() == 2.0).await;
    let key = std::fs::read_to_string(cluster.nodes[2].dir.join("iroh-secret-key")).unwrap();
    let key: SecretKey = key.trim().parse().expect("the file holds a key");
    eventually("the cut is noted", async || relay.log().contains("which is let in no more")).await;
    refusal(&hosts[2], &url, key).expect("a removed node is turned away");
}
