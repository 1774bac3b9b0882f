//! Nodes on hosts of their own, which are cut off from each other.

mod distance;
mod moving;
mod relay;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use aspen::kv::client::{Address, KvClient};
use aspen::kv::types::{Key, NodeId, PathType, ReadRequest, Value};
use aspen::limits;

use crate::support::cluster::{Cluster, client_of};
use crate::support::eventually;
use crate::support::hosts::{Host, Hosts};
use crate::support::node::Node;
use crate::support::writers::{Load, check};

const FOLLOWED_WITHIN: Duration = Duration::from_millis(limits::FOLLOWED_WITHIN_MS);

/// A client of one node that takes its first word for the last.
fn impatient(node: &Node) -> KvClient {
    let patience = Duration::from_secs(3);
    KvClient::builder().address(Address::from(node.http())).timeout(patience).build().unwrap()
}

fn key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

fn value(value: &str) -> Value {
    Value::new(value.to_owned()).unwrap()
}

/// Whether all that a node sends to some others goes this way.
async fn all_go(way: PathType, from: &Node, to: &[&Node]) -> bool {
    let report = from.client().node_report(NodeId(from.id)).await;
    let report = report.unwrap_or_else(|error| panic!("node {}: {error}\n{}", from.id, from.log()));
    to.iter().all(|node| {
        let path = report.peers.iter().find(|path| path.node_id.0 == node.id);
        path.is_some_and(|path| path.path_type == Some(way) && path.rtt_us.is_some())
    })
}

/// Whether all of these reach each other this way.
async fn all_meet(way: PathType, nodes: &[Node]) -> bool {
    for from in nodes {
        let others: Vec<&Node> = nodes.iter().filter(|node| node.id != from.id).collect();
        if !all_go(way, from, &others).await {
            return false;
        }
    }
    true
}

/// Waits until a node reads what was just written through the others, and says how long that took.
async fn followed(cluster: &Cluster, moved: usize, since: Instant) -> Duration {
    let others = cluster.nodes.iter().enumerate().filter(|(index, _)| *index != moved);
    let others = client_of(others.map(|(_, node)| node.http()));
    let word = format!("{since:?}");
    others.put(key("word"), value(&word)).await.expect("the others take writes");
    eventually("the node reads what was written", async || {
        let read = cluster.nodes[moved].client().get(key("word")).await;
        read.is_ok_and(|read| read.is_some_and(|kv| kv.value == value(&word)))
    })
    .await;
    since.elapsed()
}

async fn assert_followed(what: &str, cluster: &Cluster, moved: usize, since: Instant) {
    assert_followed_within(FOLLOWED_WITHIN, what, cluster, moved, since).await;
}

async fn assert_followed_within(
    limit: Duration,
    what: &str,
    cluster: &Cluster,
    moved: usize,
    since: Instant,
) {
    let took = followed(cluster, moved, since).await;
    println!("{what} was followed within {took:?}");
    assert!(took < limit, "{what} was followed only after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_acknowledges_nothing_while_the_majority_goes_on_and_all_agree_when_it_is_back()
 {
    let Some(hosts) = Hosts::make(3, "a_leader_that_is_cut_off_acknowledges_nothing") else { return };
    let cluster = Cluster::start_on(&hosts, 3, &[]).await;
    let load = Load::start(&cluster.client());
    load.progress(100).await;

    println!("phase: the leader's host is cut off");
    let old = cluster.leader().await;
    hosts[old].cut();
    let rest: Vec<&Node> = cluster.nodes.iter().filter(|node| node.id != cluster.nodes[old].id).collect();
    let majority = client_of(rest.iter().map(|node| node.http()));
    majority.put(key("side"), value("majority")).await.expect("a majority takes writes");
    load.progress(100).await;

    println!("phase: the minority of one refuses");
    let alone = impatient(&cluster.nodes[old]);
    let refused = alone.put(key("side"), value("minority")).await.expect_err("a minority takes no writes");
    assert!(refused.is_outcome_unknown() || refused.is_unavailable(), "{refused}");
    let refused = alone.get(key("side")).await.expect_err("a minority cannot know what is newest");
    assert!(refused.is_unavailable(), "{refused}");

    println!("phase: the host is back");
    hosts[old].heal();
    eventually("the old leader reads what the majority wrote", async || {
        let read = alone.read(ReadRequest::get(key("side"))).await;
        read.is_ok_and(|read| read.range.kvs.len() == 1)
    })
    .await;
    let read = alone.get(key("side")).await.expect("it serves").expect("the key is there");
    assert_eq!(read.value, value("majority"), "what no majority took was never written");
    load.progress(100).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

/// A host's end of a conversation by datagrams.
fn mouth(host: &Host) -> UdpSocket {
    let socket = host.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4600))).expect("the port is free");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket can be told to be impatient");
    socket
}

/// Whether what is said to an address is heard, within a second.
fn is_heard(from: &UdpSocket, to: &UdpSocket, at: Ipv4Addr) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    let mut word = [0; 8];
    while Instant::now() < until {
        // The host may refuse where it has no way.
        from.send_to(b"a word", SocketAddr::from((at, 4600))).ok();
        if to.recv(&mut word).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn hosts_hear_each_other_unless_they_are_cut() {
    let Some(mut hosts) = Hosts::make(3, "hosts_hear_each_other_unless_they_are_cut") else { return };
    let mouths: Vec<UdpSocket> = hosts.iter().map(mouth).collect();
    let hears = |from: usize, to: usize, at| is_heard(&mouths[from], &mouths[to], at);
    let addresses: Vec<Ipv4Addr> = hosts.iter().map(Host::address).collect();
    assert!(hears(0, 1, addresses[1]) && hears(1, 2, addresses[2]) && hears(2, 0, addresses[0]));

    hosts.cut_between(0, 1);
    assert!(!hears(0, 1, addresses[1]) && !hears(1, 0, addresses[0]), "the two are apart");
    assert!(hears(0, 2, addresses[2]) && hears(2, 1, addresses[1]), "others reach both");
    hosts.heal_between(0, 1);
    assert!(hears(0, 1, addresses[1]) && hears(1, 0, addresses[0]));

    hosts[2].cut();
    assert!(!hears(0, 2, addresses[2]) && !hears(2, 1, addresses[1]), "the third is away");
    hosts[2].heal();
    assert!(hears(0, 2, addresses[2]) && hears(2, 1, addresses[1]));

    let moved = hosts[1].readdress();
    assert!(!hears(0, 1, addresses[1]), "nobody has the old address");
    assert!(hears(0, 1, moved));
    let second = hosts[1].add_address(0);
    assert!(hears(0, 1, moved) && hears(0, 1, second));

    hosts.add_network();
    let inner = hosts[1].address_in(1);
    hosts[1].cut_from(0);
    assert!(!hears(0, 1, second) && hears(0, 1, inner), "one network of two is cut");
    hosts[1].heal_in(0);
    assert!(hears(0, 1, second));
}
