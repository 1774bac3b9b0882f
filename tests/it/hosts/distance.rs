//! Nodes that are far from each other, as those of several sites are: what they say takes its time.

use std::time::{Duration, Instant};

use aspen::kv::types::{NodeId, PathType};

use super::{all_meet, assert_followed, key, value};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::hosts::Hosts;
use crate::support::writers::{Load, check};

const FAR: Duration = Duration::from_millis(100);
const LESS_FAR: Duration = Duration::from_millis(40);

/// The node that is as far from the others as from one side of the earth to the other.
const FARTHEST: usize = 2;

/// How long what one node says takes to another one and back.
async fn round_trip(cluster: &Cluster, from: usize, to: usize) -> Duration {
    let node = &cluster.nodes[from];
    let report = node.client().node_report(NodeId(node.id)).await.expect("a node tells of itself");
    let path = report.peers.iter().find(|path| path.node_id.0 == cluster.nodes[to].id);
    Duration::from_micros(path.and_then(|path| path.rtt_us).expect("the two are connected"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_nodes_are_far_apart_keeps_its_leader_and_follows_one_that_moves() {
    let test = "a_cluster_whose_nodes_are_far_apart_keeps_its_leader_and_follows_one_that_moves";
    let Some(mut hosts) = Hosts::make(3, test) else { return };
    if !Hosts::can_be_far_apart(test) {
        return;
    }
    hosts.move_away(1, LESS_FAR);
    hosts.move_away(FARTHEST, FAR);
    let cluster = Cluster::start_on(&hosts, 3, &["--network-profile", "wan"]).await;
    eventually("all reach each other", async || all_meet(PathType::Direct, &cluster.nodes).await).await;
    for (from, to, least) in [(0, 1, LESS_FAR), (0, FARTHEST, FAR), (1, FARTHEST, LESS_FAR + FAR)] {
        let took = round_trip(&cluster, from, to).await;
        println!("from host {from} to {to} and back: {took:?}");
        assert!(
            took >= 2 * least,
            "the way from {from} to {to} takes {least:?} at least, there and back {took:?}"
        );
    }

    let load = Load::start(&cluster.client());
    for leads in [cluster.leader().await, FARTHEST] {
        let id = NodeId(cluster.nodes[leads].id);
        println!("phase: host {leads} leads");
        if cluster.leader().await != leads {
            let led = cluster.client().transfer_leader(Some(id)).await;
            assert_eq!(led.expect("it takes the leadership"), id);
        }
        let term = cluster.nodes[leads].status().await.term;
        load.progress(200).await;
        let status = cluster.nodes[leads].status().await;
        assert_eq!((status.term, status.leader), (term, Some(id)), "nobody else stood for election");
    }
    let ledger = load.stop().await;
    println!("{} writes were acknowledged", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }

    println!("phase: the leader, which is the farthest, moves");
    let since = Instant::now();
    hosts[FARTHEST].readdress();
    assert_followed("the farthest", &cluster, FARTHEST, since).await;
    cluster.client().put(key("after"), value("the move")).await.expect("they take writes");
}
