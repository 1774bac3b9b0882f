//! Nodes whose addresses change are followed, without anybody's help where there is a way to know.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use aspen::kv::types::{NodeId, PathType, Role};
use serde_json::json;

use super::{FOLLOWED_WITHIN, all_meet, assert_followed, assert_followed_within, key, value};
use crate::support::cluster::{Cluster, client_of};
use crate::support::hosts::{Host, Hosts};
use crate::support::node::Node;
use crate::support::{eventually, wait_until};

/// A path in use that goes dead is noticed by its silence, which takes 3 s, and a dial that began over it takes as
/// long to end; then there may be an election.
const FOUND_AFTER_SILENCE_WITHIN: Duration = Duration::from_secs(10);

/// The addresses of a member, as a node knows them.
async fn addresses(node: &Node, id: u64) -> Vec<SocketAddr> {
    let status = node.status().await;
    let member = status.members.into_iter().find(|member| member.node_id == NodeId(id));
    member.expect("the node is a member").addresses
}

/// Waits until all nodes, and the node's own ticket, name its address of now.
async fn await_noted(cluster: &Cluster, moved: usize, host: &Host) {
    let id = cluster.nodes[moved].id;
    let port = cluster.nodes[moved].iroh_addr().port();
    let expected = vec![SocketAddr::from((host.address(), port))];
    for node in &cluster.nodes {
        eventually(&format!("node {} names the address of node {id}", node.id), async || {
            addresses(node, id).await == expected
        })
        .await;
    }
    assert_eq!(cluster.nodes[moved].peer().info.addresses, expected);
}

async fn a_follower(cluster: &Cluster) -> usize {
    let leader = cluster.leader().await;
    (leader + 1) % cluster.nodes.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restarted_at_another_address_is_followed_within_five_seconds() {
    let test = "a_node_that_is_restarted_at_another_address_is_followed_within_five_seconds";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    let mut cluster = Cluster::start_on(&hosts, 3, &[]).await;

    let follower = a_follower(&cluster).await;
    let leader = cluster.leader().await;
    for (what, moved) in [("a follower", follower), ("a leader", leader)] {
        cluster.nodes[moved].kill();
        hosts[moved].readdress();
        let since = Instant::now();
        cluster.nodes[moved].start();
        assert_followed(what, &cluster, moved, since).await;
        await_noted(&cluster, moved, &hosts[moved]).await;
    }

    println!("phase: all are restarted, and know where the others are");
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &mut cluster.nodes {
        node.wait_until_ready();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_whose_address_changes_is_followed_within_five_seconds() {
    let test = "a_running_node_whose_address_changes_is_followed_within_five_seconds";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    let cluster = Cluster::start_on(&hosts, 3, &[]).await;

    let follower = a_follower(&cluster).await;
    let leader = cluster.leader().await;
    for (what, moved) in [("a follower", follower), ("a leader", leader), ("a node again", follower)] {
        let since = Instant::now();
        hosts[moved].readdress();
        assert_followed(what, &cluster, moved, since).await;
        await_noted(&cluster, moved, &hosts[moved]).await;
    }

    println!("phase: the new address comes before the old one goes");
    // As systemd sets it: without it Linux takes all addresses of a network with the first of them.
    hosts[follower].within(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1").expect("it can be set");
    });
    let old = hosts[follower].address();
    hosts[follower].add_address(0);
    wait_until("the ticket names both", || cluster.nodes[follower].peer().info.addresses.len() == 2);
    let since = Instant::now();
    hosts[follower].remove_address(old);
    assert_followed("a node with two addresses", &cluster, follower, since).await;
    await_noted(&cluster, follower, &hosts[follower]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_moves_while_the_leader_is_away_is_followed_when_it_is_back() {
    let test = "a_learner_that_moves_while_the_leader_is_away_is_followed_when_it_is_back";
    let Some(mut hosts) = Hosts::make(2, test) else { return };
    let mut cluster = Cluster::start_on(&hosts, 1, &[]).await;
    let dir = hosts.dir();
    let mut learner = hosts[1].node(2, dir.path(), &["--peer", &cluster.nodes[0].endpoint()]);
    learner.start();
    cluster.nodes[0].client().add_learner(learner.endpoint()).await.expect("a learner can be added");
    learner.wait_until_ready();

    // A learner stands for no election, so nothing but its hello leads the leader to it.
    cluster.nodes[0].kill();
    hosts[1].readdress();
    let address = SocketAddr::from((hosts[1].address(), learner.iroh_addr().port()));
    wait_until("the learner has its new address", || learner.peer().info.addresses == [address]);
    let since = Instant::now();
    cluster.nodes[0].start();
    cluster.nodes.push(learner);
    assert_followed("a learner", &cluster, 1, since).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_moved_while_they_were_away_are_brought_together_by_the_third() {
    let test = "two_nodes_that_moved_while_they_were_away_are_brought_together_by_the_third";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    let mut cluster = Cluster::start_on(&hosts, 3, &[]).await;
    for moved in [1, 2] {
        cluster.nodes[moved].kill();
        hosts[moved].readdress();
    }
    let since = Instant::now();
    for moved in [1, 2] {
        cluster.nodes[moved].start();
    }
    for moved in [1, 2] {
        assert_followed(&format!("node {}", moved + 1), &cluster, moved, since).await;
    }
    // To each other, not only to the third.
    eventually("the two meet", async || all_meet(PathType::Direct, &cluster.nodes[1..]).await).await;
    let took = since.elapsed();
    println!("they met within {took:?}");
    assert!(took < FOLLOWED_WITHIN, "they met only after {took:?}");
    cluster.nodes[0].kill();
    let pair = client_of([cluster.nodes[1].http(), cluster.nodes[2].http()]);
    pair.put(key("pair"), value("written")).await.expect("two of three take writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_dead_address_among_several_is_reached_by_the_working_one() {
    let test = "a_node_with_a_dead_address_among_several_is_reached_by_the_working_one";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    hosts.add_network();
    let mut cluster = Cluster::start_on(&hosts, 3, &[]).await;
    assert_eq!(addresses(&cluster.nodes[0], 1).await.len(), 2);

    println!("phase: it starts with a dead address, and one that nobody has any more");
    for dead in [0, 1] {
        let moved = a_follower(&cluster).await;
        cluster.nodes[moved].kill();
        hosts[moved].cut_from(dead);
        let since = Instant::now();
        cluster.nodes[moved].start();
        assert_followed(&format!("a node cut from network {dead}"), &cluster, moved, since).await;
        hosts[moved].heal_in(dead);
    }

    println!("phase: the address in use dies, whichever that is");
    for who in ["a follower", "the leader"] {
        let leader = cluster.leader().await;
        let moved = if who == "the leader" { leader } else { a_follower(&cluster).await };
        for dead in [0, 1] {
            let since = Instant::now();
            hosts[moved].cut_from(dead);
            let what = format!("{who}, cut from network {dead}");
            assert_followed_within(FOUND_AFTER_SILENCE_WITHIN, &what, &cluster, moved, since).await;
            hosts[moved].heal_in(dead);
        }
    }
}

/// Ends all nodes, gives their hosts other addresses, and starts them again.
fn move_all(hosts: &mut Hosts, cluster: &mut Cluster, meanwhile: impl Fn(&Host)) {
    for node in &mut cluster.nodes {
        node.kill();
    }
    for index in 0..cluster.nodes.len() {
        hosts[index].readdress();
        meanwhile(&hosts[index]);
    }
    for node in &mut cluster.nodes {
        node.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_all_moved_say_so_and_are_brought_together_by_tickets() {
    let test = "nodes_that_all_moved_say_so_and_are_brought_together_by_tickets";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    let mut cluster = Cluster::start_on(&hosts, 3, &[]).await;
    let old = cluster.nodes[1].peer().info.addresses[0];
    move_all(&mut hosts, &mut cluster, |_| {});

    for node in &cluster.nodes {
        eventually("the node says that it reaches nobody", async || {
            node.status().await.detail.contains("no other member has been reached for")
        })
        .await;
        wait_until("so does its log", || node.last_log().contains("no other member has been reached for"));
    }
    let detail = cluster.nodes[0].status().await.detail;
    println!("{detail}");
    for part in [&format!("node 2 at {old}"), "POST /peers", "iroh_mdns"] {
        assert!(detail.contains(part), "{part} in {detail}");
    }

    let since = Instant::now();
    let tickets = json!([cluster.nodes[1].endpoint(), cluster.nodes[2].endpoint()]);
    cluster.nodes[0].post("/peers", &json!({ "peers": tickets })).ok();
    for node in &mut cluster.nodes {
        node.wait_until_ready();
    }
    println!("all serve again {:?} after the first had the tickets of the others", since.elapsed());
    for node in &cluster.nodes {
        eventually("the trouble is over", async || !node.status().await.detail.contains("no other member"))
            .await;
    }
    eventually("the other two meet", async || all_meet(PathType::Direct, &cluster.nodes[1..]).await).await;
    cluster.nodes[0].kill();
    let pair = client_of([cluster.nodes[1].http(), cluster.nodes[2].http()]);
    pair.put(key("pair"), value("written")).await.expect("the other two have found each other");
}

/// As a gateway does: mDNS is sent where the default route leads.
fn route_multicast(host: &Host) {
    let routed = host.within(|| {
        Command::new("ip").args(["route", "replace", "224.0.0.0/4", "dev", "eth0"]).status().expect("ip runs")
    });
    assert!(routed.success(), "a route can be set");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_all_moved_find_each_other_by_mdns() {
    let test = "nodes_that_all_moved_find_each_other_by_mdns";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    hosts.iter().for_each(route_multicast);
    let mut cluster = Cluster::start_on(&hosts, 3, &["--iroh-mdns"]).await;

    move_all(&mut hosts, &mut cluster, route_multicast);
    let since = Instant::now();
    for node in &mut cluster.nodes {
        node.wait_until_ready();
    }
    println!("all serve again {:?} after their restart", since.elapsed());

    println!("phase: all move while they run");
    let since = Instant::now();
    for index in 0..cluster.nodes.len() {
        hosts[index].readdress();
        route_multicast(&hosts[index]);
    }
    let client = cluster.client();
    eventually("a write is taken", async || client.put(key("moved"), value("all")).await.is_ok()).await;
    println!("all serve again {:?} after they moved", since.elapsed());
    for moved in 0..cluster.nodes.len() {
        await_noted(&cluster, moved, &hosts[moved]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_bound_to_an_address_says_when_its_host_has_lost_it() {
    let test = "a_node_that_is_bound_to_an_address_says_when_its_host_has_lost_it";
    let Some(mut hosts) = Hosts::make(2, test) else { return };
    let dir = hosts.dir();
    let bound = |host: &Host, id: u64| {
        let addr = SocketAddr::from((host.address(), 4_600));
        host.node(id, dir.path(), &[]).at_iroh_addr(addr)
    };
    let nodes = vec![bound(&hosts[0], 1), bound(&hosts[1], 2)];
    let mut cluster = Cluster::form(dir, nodes).await;
    let old: Ipv4Addr = hosts[1].address();
    let new = hosts[1].readdress();
    let said = format!("the machine does not have the address {old} any more");
    let moved = &cluster.nodes[1];
    eventually("the status says so", async || moved.status().await.detail.contains(&said)).await;
    wait_until("the log says so", || {
        moved.last_log().contains(&said) && moved.last_log().contains("0.0.0.0")
    });

    cluster.nodes[1].kill();
    let since = Instant::now();
    let moved = cluster.nodes.pop().expect("there are two").at_iroh_addr((new, 4_600).into());
    cluster.nodes.push(moved);
    cluster.nodes[1].start();
    assert_followed("the node at its new address", &cluster, 1, since).await;
    assert!([Role::Leader, Role::Follower].contains(&cluster.nodes[0].status().await.role));
}
