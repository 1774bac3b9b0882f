//! Who gets in, and what is said to those who do not.

use std::time::Instant;

use super::support::{
    Caller, Identity, PATIENCE, TestNode, closed, counted, framed, introduce, members, recorder, say,
    send_half, send_raw, two_nodes,
};
use crate::kv::forward::{Acquaintance, ForwardRequest, Forwarder};
use crate::kv::types::{ClusterId, NodeId};
use crate::limits;
use crate::transport::admission::REFUSED;
use crate::transport::link::{Lane, LinkError};
use crate::transport::protocol::{ALPN_JOIN, ALPNS, Forwarded, HelloProtocol, RaftRpcProtocol, Refusal};

fn read_index() -> Vec<u8> {
    framed(&RaftRpcProtocol::Forward(Forwarded(ForwardRequest::ReadIndex)))
}

#[tokio::test]
async fn a_strangers_key_gets_nothing_and_is_counted() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let stranger = Caller::start(Identity::of(2)).await;

    for attempt in 1..=3 {
        let connection = stranger.connect(&node).await;
        let hello = framed(&HelloProtocol::Hello(stranger.hello_to(&node)));
        assert_eq!(send_raw(&connection, &hello).await, b"");
        assert_eq!(send_raw(&connection, &read_index()).await, b"");
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, u64::from(REFUSED));
        assert_eq!(reason, "the key is neither a member's nor a declared peer's");
        assert_eq!(counted(&figures, "aspen_transport_rejected_total"), attempt);
    }
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn a_strangers_key_opens_no_protocol_but_that_of_tickets() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let stranger = Caller::start(Identity::of(2)).await;
    let closed_doors = ALPNS.into_iter().filter(|alpn| *alpn != ALPN_JOIN);
    for (count, alpn) in (1..).zip(closed_doors) {
        let connection = stranger.connect_for(&node, alpn).await;
        assert_eq!(send_raw(&connection, &read_index()).await, b"");
        assert_eq!(closed(&connection).await.0, u64::from(REFUSED));
        assert_eq!(counted(&figures, "aspen_transport_rejected_total"), count);
    }
    // There it is asked for a ticket, and served nothing else.
    let connection = stranger.connect_for(&node, ALPN_JOIN).await;
    assert_eq!(send_raw(&connection, &read_index()).await, b"");
    closed(&connection).await;
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn strangers_that_keep_calling_are_refused_unseen_and_a_known_node_beside_them_is_not() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let known = Caller::known_to(&node).await;
    let stranger = Caller::start(Identity::of(3)).await;
    let refused = || counted(&figures, "aspen_transport_strangers_refused_total");
    let begun = Instant::now();
    while refused() == 0 {
        assert!(begun.elapsed() < PATIENCE, "so many are not turned away one by one");
        let calls = (0..20).map(|_| async {
            if let Ok(connection) = stranger.try_connect(&node).await {
                closed(&connection).await;
            }
        });
        futures::future::join_all(calls).await;
    }
    assert!(counted(&figures, "aspen_transport_rejected_total") >= limits::STRANGERS_OF_SOURCE_MAX_COUNT);
    let connection = known.enter(&node).await;
    assert_ne!(send_raw(&connection, &read_index()).await, b"");
}

#[tokio::test]
async fn a_node_that_is_not_let_in_learns_why() {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    second.knows(&first.peer());
    let error = second.transport.connection(first.id(), Lane::Control).await.unwrap_err();
    assert!(matches!(&error, LinkError::Refused(_)), "{error}");
    assert!(error.to_string().contains("neither a member's nor a declared peer's"), "{error}");
    assert_eq!(second.transport.last_error(first.id()), Some(error.to_string()));

    first.knows(&second.peer());
    second.transport.connection(first.id(), Lane::Control).await.unwrap();
    assert_eq!(second.transport.last_error(first.id()), None);
}

#[tokio::test]
async fn a_hello_that_is_wrong_is_refused_with_the_reason() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let (own, theirs) = (ClusterId::random(), ClusterId::random());
    node.belongs_to(own);
    let caller = Caller::known_to(&node).await;

    let right = caller.hello_to(&node);
    let mut wrong_target = right.clone();
    wrong_target.target = NodeId(3);
    let mut wrong_id = right.clone();
    wrong_id.node_id = NodeId(4);
    let mut wrong_cluster = right.clone();
    wrong_cluster.cluster_id = Some(theirs);
    let refusals = [
        (wrong_target, Refusal::NotMe { own: NodeId(1), asked: NodeId(3) }),
        (wrong_id, Refusal::NotYou { known: NodeId(2), claimed: NodeId(4) }),
        (wrong_cluster, Refusal::OtherCluster { own, theirs }),
    ];
    let mut refused = Vec::new();
    for (count, (hello, refusal)) in (1..).zip(refusals) {
        let connection = caller.connect(&node).await;
        assert_eq!(say(&connection, hello).await.unwrap().unwrap_err(), refusal);
        assert_eq!(counted(&figures, "aspen_transport_hellos_refused_total"), count);
        refused.push((connection, refusal));
    }
    for (connection, refusal) in refused {
        assert_eq!(send_raw(&connection, &read_index()).await, b"", "nothing is served after {refusal}");
        assert_eq!(closed(&connection).await.0, u64::from(REFUSED));
    }
    assert_eq!(node.service.asked(), 0);

    let connection = caller.connect(&node).await;
    let welcome = say(&connection, right).await.unwrap().unwrap();
    assert_eq!((welcome.node_id, welcome.cluster_id), (NodeId(1), Some(own)));
    assert_ne!(send_raw(&connection, &read_index()).await, b"");
}

#[tokio::test]
async fn a_hello_moves_nobody_else() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    let mut hello = caller.hello_to(&node);
    hello.info.public_key = node.peer().info.public_key;
    hello.info.addresses = vec!["192.0.2.1:1".parse().unwrap()];
    say(&caller.connect(&node).await, hello).await.unwrap().unwrap();
    let known = node.transport.book().lookup(NodeId(2)).unwrap();
    assert_eq!(known.info.addresses, caller.peer().info.addresses);
}

#[tokio::test]
async fn a_node_without_a_cluster_adopts_that_of_its_caller() {
    let (first, second) = two_nodes().await;
    let cluster = ClusterId::random();
    first.belongs_to(cluster);

    second.transport.connection(first.id(), Lane::Control).await.unwrap();
    assert_eq!(second.metadata.cluster_id(), None, "whom it calls may be the wrong one");
    first.transport.connection(second.id(), Lane::Control).await.unwrap();
    assert_eq!(second.metadata.cluster_id(), Some(cluster));
}

#[tokio::test]
async fn nodes_of_two_clusters_do_not_talk_either_way() {
    let (first, second) = two_nodes().await;
    first.belongs_to(ClusterId::random());
    second.belongs_to(ClusterId::random());
    for (from, to) in [(&first, &second), (&second, &first)] {
        let error = from.transport.connection(to.id(), Lane::Control).await.unwrap_err().to_string();
        let own = to.metadata.cluster_id().unwrap();
        assert!(error.contains(&format!("this node belongs to cluster {own}")), "{error}");
    }
}

#[tokio::test]
async fn a_request_before_the_hello_is_not_served() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;

    let instead = caller.connect(&node).await;
    assert_eq!(send_raw(&instead, &read_index()).await, b"");
    assert_eq!(closed(&instead).await.0, u64::from(REFUSED));

    let beside = caller.connect(&node).await;
    let hello = framed(&HelloProtocol::Hello(caller.hello_to(&node)));
    let _half = send_half(&beside, &hello[..hello.len() - 1]).await;
    assert_eq!(send_raw(&beside, &read_index()).await, b"");
    assert_eq!(closed(&beside).await.0, u64::from(REFUSED));
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn a_removed_member_is_cut_off_and_does_not_come_back() {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce(&first, &second);
    first.transport.book().set_members(members([&second.peer()]));
    let outgoing = first.transport.connection(second.id(), Lane::Control).await.unwrap();
    let incoming = second.transport.connection(first.id(), Lane::Control).await.unwrap();
    let asked = second.transport.forward(first.id(), ForwardRequest::ReadIndex, 5_000).await;
    asked.unwrap().unwrap();

    let removed = first.transport.book().set_members(members([]));
    assert_eq!(removed, [second.peer().info.public_key]);
    first.transport.cut_off(&removed);
    assert!(outgoing.close_reason().is_some());
    let (code, reason) = closed(&incoming).await;
    assert_eq!((code, reason.as_str()), (u64::from(REFUSED), "removed from the cluster"));
    assert_eq!(first.transport.connections_of(second.peer().info.public_key), []);

    let error = second.transport.connection(first.id(), Lane::Control).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused(_)), "{error}");
    let asked = second.transport.forward(first.id(), ForwardRequest::ReadIndex, 5_000).await;
    assert!(asked.is_err());
    let error = first.transport.connection(second.id(), Lane::Control).await.unwrap_err();
    assert_eq!(error, LinkError::Unknown);
    assert_eq!(first.service.asked(), 1);
}

#[tokio::test]
async fn a_node_that_was_introduced_and_not_added_is_cut_off_and_one_that_was_known_before_is_not() {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    second.knows(&first.peer());
    let met = Forwarder::introduce(&first.transport, &second.peer(), 5_000).await.unwrap();
    assert_eq!(met, Acquaintance::New);
    let incoming = second.transport.connection(first.id(), Lane::Control).await.unwrap();
    let again = Forwarder::introduce(&first.transport, &second.peer(), 5_000).await.unwrap();
    assert_eq!(again, Acquaintance::Known);

    Forwarder::forget(&first.transport, &second.peer());
    assert_eq!(closed(&incoming).await.0, u64::from(REFUSED));
    assert_eq!(first.transport.book().to_keep(), [], "nor does it come back with a restart");
    let error = second.transport.connection(first.id(), Lane::Control).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused(_)), "{error}");

    first.transport.book().set_members(members([&second.peer()]));
    Forwarder::forget(&first.transport, &second.peer());
    second.transport.connection(first.id(), Lane::Control).await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_removed_during_its_hello_is_cut_off_after_it() {
    let (first, second) = two_nodes().await;
    first.transport.book().set_members(members([&second.peer()]));
    let connection = first.transport.connection(second.id(), Lane::Control).await.unwrap();
    assert!(first.transport.keep(&connection));

    first.transport.book().set_members(members([]));
    assert_eq!(connection.close_reason(), None, "nobody has cut it off yet");
    assert!(!first.transport.keep(&connection));
    assert!(connection.close_reason().is_some());
}
