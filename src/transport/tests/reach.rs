//! Nodes that cannot be reached, and nodes that are somewhere else than before.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use openraft::RaftNetworkFactory;
use openraft::errors::RPCError;
use openraft::network::{NetVote, RPCOption};
use openraft::raft::VoteRequest;

use super::support::{Identity, PATIENCE, TestNode, introduce, members, two_nodes};
use crate::kv::types::{NodeId, NodeInfo};
use crate::raft::types::Vote;
use crate::transport::LinkTimeouts;
use crate::transport::link::Lane;

const CONNECT: Duration = Duration::from_millis(500);

/// A node that gives up early, and a peer at an address where nobody answers.
async fn node_and_silent_peer() -> (TestNode, UdpSocket) {
    let timeouts = LinkTimeouts { connect: CONNECT, ..LinkTimeouts::lan() };
    let node = TestNode::start_as(Identity::of(1), timeouts).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    node.knows(&Identity::of(2).at(silent.local_addr().unwrap()));
    (node, silent)
}

#[tokio::test]
async fn a_dial_to_a_silent_peer_fails_within_its_bound() {
    let (node, _silent) = node_and_silent_peer().await;
    for lane in [Lane::Append, Lane::Control, Lane::Forward, Lane::Snapshot] {
        let begun = Instant::now();
        let error = node.transport.connection(NodeId(2), lane).await.unwrap_err();
        assert!(begun.elapsed() < CONNECT * 3, "{lane:?}: {:?}", begun.elapsed());
        assert_eq!(node.transport.last_error(NodeId(2)), Some(error.to_string()));
    }
}

#[tokio::test]
async fn a_vote_that_cannot_be_asked_for_is_an_error_within_its_bound() {
    let (node, _silent) = node_and_silent_peer().await;
    let mut client = node.transport.network().new_client(NodeId(2), &NodeInfo::default()).await;
    let option = RPCOption::new(Duration::from_millis(200));
    let request = VoteRequest::new(Vote::new(1, NodeId(1)), None);

    let begun = Instant::now();
    let vote = client.vote(request.clone(), option.clone()).await;
    assert!(matches!(vote, Err(RPCError::Unreachable(_))), "{vote:?}");
    let pre_vote = client.pre_vote(request, option).await;
    assert!(matches!(pre_vote, Err(RPCError::Unreachable(_))), "{pre_vote:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_dial_goes_on_when_its_first_caller_gives_up() {
    let (first, second) = two_nodes().await;
    let hasty = first.transport.connection(second.id(), Lane::Control);
    let given_up = tokio::time::timeout(Duration::ZERO, hasty).await;
    assert!(given_up.is_err(), "nobody connects in no time");
    let key = second.peer().info.public_key;
    let served = tokio::time::timeout(PATIENCE, async {
        while first.transport.connections_of(key).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    served.await.expect("the dial comes to its end");
    let dialed = first.transport.connections_of(key).len();
    first.transport.connection(second.id(), Lane::Control).await.unwrap();
    assert_eq!(first.transport.connections_of(key).len(), dialed, "the second caller gets the same one");
}

#[tokio::test]
async fn a_peer_that_restarts_on_another_port_is_reached_once_it_is_declared_there() {
    let (first, second) = two_nodes().await;
    let old = first.transport.connection(second.id(), Lane::Control).await.unwrap();
    let before = second.addr();
    let second = TestNode::start_as(second.stop().await, LinkTimeouts::lan()).await;
    assert_ne!(second.addr(), before);
    introduce(&first, &second);

    let new = first.transport.connection(second.id(), Lane::Control).await.unwrap();
    assert_ne!(new.stable_id(), old.stable_id());
    let known = first.transport.book().lookup(second.id()).unwrap();
    assert_eq!(known.info.addresses[0], second.addr());
}

#[tokio::test]
async fn a_peer_that_restarts_on_another_port_is_reached_once_it_has_said_hello() {
    let (first, second) = two_nodes().await;
    first.transport.connection(second.id(), Lane::Control).await.unwrap();
    let second = TestNode::start_as(second.stop().await, LinkTimeouts::lan()).await;
    second.knows(&first.peer());
    second.transport.connection(first.id(), Lane::Control).await.unwrap();

    let known = first.transport.book().lookup(second.id()).unwrap();
    assert_eq!(known.info.addresses[0], second.addr());
    first.transport.connection(second.id(), Lane::Control).await.unwrap();
}

#[tokio::test]
async fn a_member_whose_address_in_the_membership_is_old_is_reached_where_it_said_it_is() {
    let (node, silent) = node_and_silent_peer().await;
    let moved = TestNode::start(3).await;
    moved.knows(&node.peer());
    let mut old = moved.peer();
    old.info.addresses = vec![silent.local_addr().unwrap()];
    node.transport.book().set_members(members([&old]));
    node.transport.connection(moved.id(), Lane::Control).await.unwrap_err();

    node.transport.book().heard_from(moved.id(), moved.peer().info);
    node.transport.connection(moved.id(), Lane::Control).await.unwrap();
}
