//! Nodes that know of each other no more than a key and a relay: they meet over the relay.

use std::net::Ipv4Addr;

use aspen::kv::types::{Key, KeyRange, NodeId, ReadRequest, Role, Value};
use aspen::transport::client::ClientEndpoint;
use aspen::transport::ticket::NodeTicket;
use bytes::Bytes;
use iroh::SecretKey;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};

use crate::support::cluster::client_of;
use crate::support::eventually;
use crate::support::node::Node;

async fn own_relay() -> Server {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
    Server::spawn(config).await.expect("a relay starts on loopback")
}

/// The node's ticket without its addresses, as a node behind a NAT would hand it out.
fn ticket_without_addresses(node: &Node) -> String {
    let mut peer = node.peer();
    peer.info.addresses.clear();
    assert!(peer.info.relay_url.is_some(), "the ticket names the relay: {peer:?}");
    NodeTicket(peer).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_become_a_cluster_over_a_relay_of_their_own_with_the_settings_for_a_wan() {
    let relay = own_relay().await;
    let addr = relay.http_addr().expect("the relay serves HTTP");
    let url = format!("http://{addr}");
    let client_key = SecretKey::generate();
    let admitted = client_key.public().to_string();
    let flags = ["--iroh-relay", &url, "--network-profile", "wan", "--client-key", &admitted];
    let dir = tempfile::tempdir().unwrap();

    println!("phase: a first node, and two that know its key and its relay");
    let mut nodes = vec![Node::new(1, dir.path(), &flags).with_flags(["--bootstrap", "auto"])];
    nodes[0].start();
    let first_ticket = ticket_without_addresses(&nodes[0]);
    for id in [2, 3] {
        let mut node = Node::new(id, dir.path(), &flags).with_flags(["--peer", &first_ticket]);
        node.start();
        nodes.push(node);
    }

    println!("phase: the first node adds them by what their tickets say without addresses");
    let client = nodes[0].client();
    eventually("node 1 leads", async || nodes[0].status().await.role == Role::Leader).await;
    for node in &nodes[1..] {
        client
            .add_learner(ticket_without_addresses(node))
            .await
            .expect("a learner is reached over the relay");
    }
    client.set_voters([1, 2, 3].map(NodeId).into()).await.expect("learners can be promoted");
    let accepted = relay.metrics().server.accepts.get();
    assert!(accepted >= 3, "each node is connected to the relay: {accepted}");

    println!("phase: a write through each node, read through the next");
    for (index, node) in nodes.iter().enumerate() {
        let key = Key::new(Bytes::from(format!("from-{}", node.id))).unwrap();
        let value = Value::new(Bytes::from_static(b"over a relay")).unwrap();
        node.client().put(key.clone(), value.clone()).await.expect("a write is forwarded");
        let read = nodes[(index + 1) % nodes.len()].client().get(key).await.expect("a read is served");
        assert_eq!(read.map(|found| found.value), Some(value));
    }

    println!("phase: a client that knows no more of a node than its key and its relay");
    let ticket: NodeTicket = ticket_without_addresses(&nodes[1]).parse().expect("the ticket is valid");
    let endpoint = ClientEndpoint::open(client_key, [&ticket]).await.expect("an endpoint opens");
    let reader = endpoint.connect(&ticket, None).await.expect("the node is reached over the relay");
    assert_eq!(reader.node_id(), NodeId(2));
    let all = reader.read(ReadRequest::range(KeyRange::Prefix("from-".into()))).await.expect("it is served");
    assert_eq!(all.range.kvs.len(), 3);
    endpoint.close().await;

    println!("phase: the leader is killed; the others go on, with the patience of a WAN");
    nodes[0].kill();
    let rest = client_of(nodes[1..].iter().map(Node::http));
    let key = Key::new(Bytes::from_static(b"after")).unwrap();
    rest.put(key, Value::new(Bytes::from_static(b"the leader")).unwrap()).await.expect("a new leader writes");
    let all = rest.range(KeyRange::Prefix(Bytes::new())).await.expect("a read is served");
    assert_eq!(all.range.kvs.len(), 4);

    for node in &mut nodes[1..] {
        assert!(node.terminate().success());
    }
    relay.shutdown().await.expect("the relay stops");
}
