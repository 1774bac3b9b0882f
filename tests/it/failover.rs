//! Real processes that are killed under load: no acknowledged write is lost, and none is invented.

use crate::support::cluster::Cluster;
use crate::support::writers::{Load, check};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_acknowledged_write_and_comes_back_at_another_port() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let load = Load::start(&client);
    load.progress(200).await;

    let old = cluster.leader().await;
    load.take_longest_gap();
    cluster.nodes[old].kill();
    load.progress(200).await;
    let gap = load.take_longest_gap();
    println!("clients waited {gap:?} for a write at the most while the leader changed");

    cluster.nodes[old].move_at_next_start();
    cluster.nodes[old].start();
    load.progress(200).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let load = Load::start(&client);
    for kill in 0..20 {
        load.progress(50).await;
        // Leaders and followers in turn.
        let victim = if kill % 2 == 0 { cluster.leader().await } else { kill % 3 };
        cluster.nodes[victim].kill();
        load.progress(20).await;
        cluster.nodes[victim].start();
    }
    load.progress(50).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged across twenty kills", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_that_is_killed_has_every_acknowledged_write_after_its_restart() {
    let mut cluster = Cluster::start(1, &[]).await;
    for _ in 0..5 {
        let load = Load::start(&cluster.client());
        load.progress(100).await;
        cluster.nodes[0].kill();
        let ledger = load.stop().await;
        cluster.nodes[0].start();
        check(&ledger, &cluster.client(), "after the restart").await;
        let cleared = cluster.client().delete_prefix("load/").await;
        cleared.expect("the keys can be deleted");
    }
}
