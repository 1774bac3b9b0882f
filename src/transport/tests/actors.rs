//! Streams between actors: only members have them, and nothing else suffers from them.

use tokio::io::AsyncReadExt;

use super::support::{
    Caller, Identity, PATIENCE, TestNode, closed, introduce, members, say, send_raw, two_nodes,
};
use crate::transport::actor::ActorStream;
use crate::transport::admission::REFUSED;
use crate::transport::link::Lane;
use crate::transport::protocol::ALPN_ACTOR;

async fn opened(node: &TestNode) -> ActorStream {
    let next = async { node.opened.lock().await.recv().await };
    tokio::time::timeout(PATIENCE, next).await.expect("a stream is opened").expect("the door is open")
}

#[tokio::test]
async fn members_have_streams_and_lose_them_when_they_are_removed() {
    let (first, second) = two_nodes().await;
    first.transport.book().set_members(members([&second.peer()]));
    second.transport.book().set_members(members([&first.peer()]));
    let mut near = first.transport.open_actor_stream(second.id()).await.unwrap();
    let mut far = opened(&second).await;
    assert_eq!((near.node_id, far.node_id), (second.id(), first.id()));
    near.send.write_all(b"ping").await.unwrap();
    let mut said = [0; 4];
    far.recv.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ping");

    // A second one on the same connection, as after a session that ended alone.
    first.transport.open_actor_stream(second.id()).await.unwrap();
    assert_eq!(opened(&second).await.node_id, first.id());

    let removed = second.transport.book().set_members(members([]));
    second.transport.cut_off(&removed);
    let ended = tokio::time::timeout(PATIENCE, near.recv.read_u8()).await.expect("the stream ends");
    assert!(ended.is_err());
    first.transport.open_actor_stream(second.id()).await.unwrap_err();
}

#[tokio::test]
async fn a_declared_peer_that_is_no_member_is_refused_and_not_called_unreachable() {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    introduce(&first, &second);
    let error = first.transport.open_actor_stream(second.id()).await.unwrap_err();
    assert!(error.to_string().contains("the key is not a member's"), "{error}");
    assert_eq!(first.transport.last_error(second.id()), None);
    first.transport.connection(second.id(), Lane::Control).await.unwrap();
}

#[tokio::test]
async fn a_strangers_key_is_refused_in_the_handshake() {
    let node = TestNode::start(1).await;
    let stranger = Caller::start(Identity::of(2)).await;
    let connection = stranger.connect_for(&node, ALPN_ACTOR).await;
    assert_eq!(closed(&connection).await, (u64::from(REFUSED), "the key is not a member's".to_owned()));
    assert!(node.opened.lock().await.try_recv().is_err());
}

#[tokio::test]
async fn a_stream_that_begins_with_something_else_is_dropped_and_the_next_is_taken() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    node.transport.book().set_members(members([&caller.peer()]));
    let connection = caller.connect_for(&node, ALPN_ACTOR).await;
    say(&connection, caller.hello_to(&node)).await.unwrap().unwrap();
    let answer = send_raw(&connection, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(answer, b"");
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1]).await.unwrap();
    assert_eq!(opened(&node).await.node_id, caller.peer().node_id);
}
