//! Half a message and then silence, on every kind of stream: it is given up in time, and alone.

use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, RecvStream, SendStream};

use super::support::{
    Caller, Identity, PATIENCE, TestNode, closed, framed, members, say, send_half, send_raw,
};
use crate::kv::forward::ForwardRequest;
use crate::kv::types::{ClusterId, NodeId};
use crate::limits;
use crate::raft::types::{SnapshotMeta, Vote};
use crate::transport::admission::REFUSED;
use crate::transport::join::{JoinProtocol, JoinRequest};
use crate::transport::join_ticket::JoinSecret;
use crate::transport::protocol::{
    ALPN_ACTOR, ALPN_CLIENT, ALPN_JOIN, ALPN_RAFT, ALPN_SNAPSHOT, AppendStream, ForwardStream, Forwarded,
    InstallSnapshot, RaftRpcProtocol, SnapshotRpcProtocol,
};

/// Sends bytes and leaves the stream open in both directions.
async fn begin(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    (send, recv)
}

/// The node ends a stream that was left open, without an answer.
async fn assert_given_up(what: &str, stream: (SendStream, RecvStream)) {
    let (_send, mut recv) = stream;
    let ended = tokio::time::timeout(PATIENCE, recv.read_to_end(1024)).await;
    let answer = ended.unwrap_or_else(|_| panic!("the node still waits for the rest of {what}"));
    assert_eq!(answer.unwrap_or_default(), b"", "{what} was answered");
}

fn read_index() -> Vec<u8> {
    framed(&RaftRpcProtocol::Forward(Forwarded(ForwardRequest::ReadIndex)))
}

#[tokio::test]
async fn half_a_message_of_a_member_is_given_up_and_nothing_beside_it_suffers() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    let connection = caller.enter(&node).await;
    let half = |message: &[u8]| message[..message.len() - 1].to_vec();
    let begun_with = |opening: RaftRpcProtocol| [&framed(&opening)[..], &[200, 1, 2, 3]].concat();
    let halves = [
        ("a request", half(&read_index())),
        ("an entry", begun_with(RaftRpcProtocol::Append(AppendStream))),
        ("a forwarded request", begun_with(RaftRpcProtocol::ForwardMany(ForwardStream))),
        ("a length", vec![0xff]),
    ];
    let mut open = Vec::new();
    for (what, bytes) in halves {
        open.push((what, begin(&connection, &bytes).await));
    }
    let header = InstallSnapshot {
        vote: Vote::new_committed(1, NodeId(2)),
        meta: SnapshotMeta::default(),
        len: 1 << 20,
    };
    let header = framed(&SnapshotRpcProtocol::Install(header));
    let snapshots = caller.connect_for(&node, ALPN_SNAPSHOT).await;
    say(&snapshots, caller.hello_to(&node)).await.unwrap().unwrap();
    open.push(("the head of a snapshot", begin(&snapshots, &half(&header)).await));
    let piece = begin(&snapshots, &[&header[..], &[200, 1, 2, 3]].concat()).await;

    assert_ne!(send_raw(&connection, &read_index()).await, b"", "others are served meanwhile");
    futures::future::join_all(open.into_iter().map(|(what, stream)| assert_given_up(what, stream))).await;
    // The head of this one was whole: it is answered, with the reason.
    let (_send, mut recv) = piece;
    let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(1024)).await.expect("it is given up");
    assert!(String::from_utf8_lossy(&answer.unwrap()).contains("stopped sending"));
    assert_ne!(send_raw(&connection, &read_index()).await, b"");
    assert_eq!((connection.close_reason(), snapshots.close_reason()), (None, None));
}

#[tokio::test]
async fn a_caller_that_begins_its_hello_and_is_silent_is_closed_on_every_protocol() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    node.transport.book().set_members(members([&caller.peer()]));
    let silent = [ALPN_RAFT, ALPN_SNAPSHOT, ALPN_CLIENT, ALPN_ACTOR].map(|alpn| async {
        let connection = caller.connect_for(&node, alpn).await;
        let _half = send_half(&connection, &[200, 1, 2, 3]).await;
        assert_eq!(closed(&connection).await.0, u64::from(REFUSED));
    });
    futures::future::join_all(silent).await;
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn strangers_that_begin_to_join_and_are_silent_keep_nobody_out_for_long() {
    let node = TestNode::start(1).await;
    let own = ClusterId::random();
    node.belongs_to(own);
    let stranger = Caller::start(Identity::of(2)).await;
    let request = JoinRequest {
        cluster_id: own,
        secret: JoinSecret::random(),
        incarnation: 1,
        wants_vote: true,
        info: None,
    };
    let request = framed(&JoinProtocol::Join(request));

    let mut silent = Vec::new();
    for _ in 0..limits::JOIN_RUNNING_MAX_COUNT {
        let connection = stranger.connect_for(&node, ALPN_JOIN).await;
        let half = send_half(&connection, &request[..request.len() - 1]).await;
        silent.push((connection, half));
    }
    let begun = Instant::now();
    let join = async || {
        let connection = stranger.connect_for(&node, ALPN_JOIN).await;
        send_raw(&connection, &request).await
    };
    assert_eq!(join().await, b"", "all places are taken");
    while join().await.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "their places are free again in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (connection, _half) in silent {
        closed(&connection).await;
    }
}

#[tokio::test]
async fn a_stranger_can_leave_little_behind_before_it_is_given_up() {
    let node = TestNode::start(1).await;
    let stranger = Caller::start(Identity::of(2)).await;
    let connection = stranger.connect_for(&node, ALPN_JOIN).await;
    let mut open = Vec::new();
    let flood = async {
        loop {
            let (mut send, recv) = connection.open_bi().await?;
            // It stays where it is once the node takes no more.
            let sent =
                tokio::time::timeout(Duration::from_millis(200), send.write_all(&[200; 1 << 20])).await;
            open.push((send, recv, matches!(sent, Ok(Ok(())))));
        }
        #[expect(unreachable_code, reason = "it says what the loop fails with")]
        Ok::<(), iroh::endpoint::ConnectionError>(())
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("the connection ends").unwrap_err();
    assert!(open.len() <= limits::WIRE_UNKNOWN_STREAMS_MAX_COUNT as usize, "{} streams", open.len());
    assert!(open.iter().all(|(.., sent)| !sent), "a window of 64 KiB takes no MiB");
}
