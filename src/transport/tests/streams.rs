//! Bytes that no node sends, on streams and on the port itself.

use std::net::UdpSocket;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::support::{
    Caller, READ_INDEX, TestNode, counted, fatal, framed, recorder, send_half, send_raw, two_nodes,
};
use crate::kv::forward::{ForwardReply, ForwardRequest, Forwarder};
use crate::kv::types::ClusterError;
use crate::limits;
use crate::transport::link::Lane;
use crate::transport::protocol::{AppendStream, ForwardStream, Forwarded, RaftRpcProtocol};

const READ_MS: u64 = limits::WIRE_REQUEST_READ_TIMEOUT_MS;

type Answer = Result<ForwardReply, ClusterError>;

fn request(request: ForwardRequest) -> Vec<u8> {
    framed(&RaftRpcProtocol::Forward(Forwarded(request)))
}

fn length(len: u64) -> Vec<u8> {
    postcard::to_stdvec(&len).unwrap()
}

/// The answer to a question for the read index, as it stands on the wire.
fn read_index() -> Vec<u8> {
    let answer: Answer = Ok(ForwardReply::ReadIndex(READ_INDEX));
    framed(&answer)
}

#[tokio::test]
async fn a_bad_stream_hurts_no_other_stream_of_its_connection() {
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    let connection = caller.enter(&node).await;
    let whole = request(ForwardRequest::ReadIndex);

    let half_of_one = send_half(&connection, &whole[..whole.len() - 1]).await;
    let promise_of_much = send_half(&connection, &length(limits::WIRE_MESSAGE_MAX_BYTES)).await;
    let append = framed(&RaftRpcProtocol::Append(AppendStream));
    let garbage = [&b"\x20"[..], &[0xee; 32]].concat();
    let forward = framed(&RaftRpcProtocol::ForwardMany(ForwardStream));
    let bad: [(&str, Vec<u8>); 11] = [
        ("nothing", Vec::new()),
        ("a length that never ends", vec![0xff; 64]),
        ("an empty message", length(0)),
        ("garbage in a right frame", garbage.clone()),
        ("less than promised", whole[..whole.len() - 1].to_vec()),
        ("a length just above the limit", length(limits::WIRE_MESSAGE_MAX_BYTES + 1)),
        ("the longest length", length(u64::MAX)),
        ("appends, then garbage", [&append[..], &garbage].concat()),
        ("appends, then too long a one", [append, length(u64::MAX)].concat()),
        ("forwarded requests, then garbage", [&forward[..], &garbage].concat()),
        ("forwarded requests, then too long a message", [forward, length(u64::MAX)].concat()),
    ];
    for (what, bytes) in &bad {
        assert_eq!(send_raw(&connection, bytes).await, b"", "{what} is not answered");
        assert_eq!(send_raw(&connection, &whole).await, read_index(), "after {what}");
    }

    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&length(limits::WIRE_MESSAGE_MAX_BYTES + 1)).await.unwrap();
    let refusal = tokio::time::timeout(Duration::from_millis(READ_MS / 2), recv.read_to_end(1)).await;
    assert_eq!(refusal.expect("it does not wait for the rest").unwrap_or_default(), b"");

    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(&whole[..1]).await.unwrap();
    send.reset(9_u32.into()).unwrap();
    drop(recv);
    assert_eq!(send_raw(&connection, &whole).await, read_index(), "after a reset");
    assert_eq!(connection.close_reason(), None);
    drop((half_of_one, promise_of_much));
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_stream_alone_and_is_counted() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let caller = Caller::known_to(&node).await;
    let connection = caller.enter(&node).await;
    assert_eq!(send_raw(&connection, &request(fatal())).await, b"");
    assert_eq!(send_raw(&connection, &request(ForwardRequest::ReadIndex)).await, read_index());
    assert_eq!(counted(&figures, "aspen_transport_panics_total"), 1);
}

#[tokio::test]
async fn garbage_on_the_port_does_not_disturb_a_running_connection() {
    const DATAGRAMS: usize = 2_000;
    let (first, second) = two_nodes().await;
    let connection = second.transport.connection(first.id(), Lane::Forward).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut datagram = [0; 1_400];
    for sent in 0..DATAGRAMS {
        let len = random.random_range(1..=datagram.len());
        random.fill_bytes(&mut datagram[..len]);
        if sent % 2 == 0 {
            // The first byte of a QUIC handshake, and its version.
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        socket.send_to(&datagram[..len], first.addr()).unwrap();
        if sent % 100 == 0 {
            let answer = second.transport.forward(first.id(), ForwardRequest::ReadIndex, 5_000).await;
            assert!(matches!(answer, Ok(Ok(ForwardReply::ReadIndex(READ_INDEX)))), "{answer:?}");
        }
    }
    assert_eq!(connection.close_reason(), None);
    let same = second.transport.connection(first.id(), Lane::Forward).await.unwrap();
    assert_eq!(same.stable_id(), connection.stable_id());
}
