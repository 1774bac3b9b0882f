//! Clients with keys of their own: who gets in, what they can ask, and what they cannot break.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iroh::endpoint::Connection;
use irpc_iroh::IrohRemoteConnection;

use super::support::{
    Caller, FATAL, Identity, PATIENCE, TestNode, UNANSWERED, client_secret, closed, counted, framed, key_of,
    members, recorder, send_raw,
};
use crate::kv::forward::ForwardError;
use crate::kv::types::{
    ClusterId, Command, KeyRange, KvError, NodeId, ReadRequest, RestoreId, RestoreStep, TxnOp, Value, WriteOp,
};
use crate::limits;
use crate::transport::admission::REFUSED;
use crate::transport::client::protocol::{
    ClientHello, ClientHelloProtocol, ClientReply, ClientRequest, ClientRpcProtocol, ClientStream,
    ClientWelcome,
};
use crate::transport::client::{ClientEndpoint, ConnectError, IrohClient, RequestError};
use crate::transport::numbered::Numbered;
use crate::transport::protocol::{ALPN_CLIENT, ALPN_RAFT, ALPN_SNAPSHOT, HelloProtocol, Refusal};
use crate::transport::ticket::NodeTicket;

fn ticket(node: &TestNode) -> NodeTicket {
    NodeTicket(node.peer())
}

async fn endpoint() -> ClientEndpoint {
    ClientEndpoint::open(client_secret(), []).await.unwrap()
}

async fn client_of(node: &TestNode) -> IrohClient {
    endpoint().await.connect(&ticket(node), None).await.unwrap()
}

fn put(key: &str, value: impl Into<Vec<u8>>) -> Command {
    Command::put(key_of(key), Value::new(value.into()).unwrap())
}

fn get(key: &str) -> ReadRequest {
    ReadRequest::get(key_of(key))
}

/// A connection of the admitted client that is past its hello, for bytes that no client sends.
async fn enter(caller: &Caller, node: &TestNode) -> Connection {
    let connection = caller.connect_for(node, ALPN_CLIENT).await;
    greet(&connection, None).await.unwrap().unwrap();
    connection
}

async fn greet(
    connection: &Connection,
    cluster_id: Option<ClusterId>,
) -> Result<Result<ClientWelcome, Refusal>, irpc::Error> {
    let client = irpc::Client::<ClientHelloProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
    client.rpc(ClientHello { cluster_id, boot: 1 }).await
}

/// What opens a stream of requests.
fn opening() -> Vec<u8> {
    framed(&ClientRpcProtocol::Serve(ClientStream))
}

fn batch(requests: impl IntoIterator<Item = ClientRequest>) -> Vec<u8> {
    let numbered: Vec<(u64, ClientRequest)> = (1..).zip(requests).collect();
    framed(&numbered)
}

/// Asks on a stream of its own whether the connection still serves.
async fn assert_serves(connection: &Connection, after: &str) {
    let asked = [opening(), batch([ClientRequest::Read(get("absent"))])].concat();
    let answered = tokio::time::timeout(PATIENCE, send_raw(connection, &asked)).await.expect("it answers");
    let (_, body) = postcard::take_from_bytes::<u64>(&answered).expect("an answer has a length");
    let Numbered(answers) = postcard::from_bytes::<Numbered<Result<ClientReply, KvError>>>(body).unwrap();
    assert!(matches!(&answers[..], [(1, Ok(ClientReply::Read(_)))]), "after {after}: {answers:?}");
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let fulfilled = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    fulfilled.await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

#[tokio::test]
async fn an_admitted_client_reads_and_writes() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (node, cluster) = (TestNode::start(1).await, ClusterId::random());
    node.belongs_to(cluster);
    let endpoint = endpoint().await;
    let client = endpoint.connect(&ticket(&node), Some(cluster)).await.unwrap();
    assert_eq!((client.node_id(), client.cluster_id()), (NodeId(1), Some(cluster)));

    assert_eq!(client.read(get("k")).await.unwrap().range.kvs, []);
    let longest = vec![b'v'; limits::VALUE_MAX_BYTES];
    assert_eq!(client.write(put("k", longest.clone())).await.unwrap().revision.0, 2);
    assert_eq!(client.read(get("k")).await.unwrap().range.kvs[0].value.as_bytes(), longest);

    let many = (0..1_000).map(|number| client.write(put(&format!("k{number}"), "v")));
    let written = futures::future::join_all(many).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let refused = client.read(ReadRequest::range(KeyRange::Prefix("k".into()))).await.unwrap_err();
    assert_eq!(refused, RequestError::Kv(KvError::Recovering), "what the store says is passed on");
    assert!(!refused.is_outcome_unknown());

    let value = || Value::new(vec![0; limits::VALUE_MAX_BYTES]).unwrap();
    let two = (0..2).map(|_| TxnOp::Put { key: key_of("k"), value: value(), lease: 0 });
    let too_large = client.write(Command::ops(two.collect())).await.unwrap_err();
    assert!(matches!(too_large, RequestError::Kv(KvError::CommandTooLarge { .. })), "{too_large}");
    assert_eq!(node.service.asked(), 1_003);
    let ok = |kind: &str| format!("aspen_client_requests_total{{kind=\"{kind}\",result=\"ok\"}}");
    assert_eq!((counted(&figures, &ok("read")), counted(&figures, &ok("write"))), (2, 1_001));
    endpoint.close().await;
}

#[tokio::test]
async fn a_client_cannot_replace_all_keys_by_a_restore() {
    let node = TestNode::start(1).await;
    let client = client_of(&node).await;
    let restore = Command::new(WriteOp::Restore(RestoreStep::Abort { id: Some(RestoreId::random()) }));
    let refused = client.write(restore).await.unwrap_err();
    assert_eq!(refused, RequestError::Kv(KvError::NotOverIroh));
    assert!(!refused.is_outcome_unknown());
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn a_stranger_is_turned_away_from_the_protocol_of_clients() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let stranger = Caller::start(Identity::of(2)).await;
    let connection = stranger.connect_for(&node, ALPN_CLIENT).await;
    let hello = framed(&ClientHelloProtocol::Hello(ClientHello { cluster_id: None, boot: 1 }));
    assert_eq!(send_raw(&connection, &hello).await, b"");
    let request = [opening(), batch([ClientRequest::Read(get("k"))])].concat();
    assert_eq!(send_raw(&connection, &request).await, b"");
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, u64::from(REFUSED));
    assert!(reason.contains("neither a member's nor a declared peer's"), "{reason}");
    assert_eq!(counted(&figures, "aspen_transport_rejected_total"), 1);

    let endpoint = ClientEndpoint::open(Identity::of(3).secret_key(), []).await.unwrap();
    let refused = endpoint.connect(&ticket(&node), None).await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Refused { reason, .. } if reason.contains("client_keys")),
        "{refused}"
    );
    assert_eq!(counted(&figures, "aspen_transport_rejected_total"), 2);
    assert_eq!(node.service.asked(), 0);
}

#[tokio::test]
async fn a_clients_key_gets_onto_no_protocol_of_nodes() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let client = Caller::start(Identity::of_client()).await;
    for (count, alpn) in (1..).zip([ALPN_RAFT, ALPN_SNAPSHOT]) {
        let connection = client.connect_for(&node, alpn).await;
        let hello = framed(&HelloProtocol::Hello(client.hello_to(&node)));
        assert_eq!(send_raw(&connection, &hello).await, b"");
        let (code, reason) = closed(&connection).await;
        assert_eq!(code, u64::from(REFUSED));
        assert_eq!(reason, "the key is neither a member's nor a declared peer's");
        assert_eq!(counted(&figures, "aspen_transport_rejected_total"), count);
    }
    assert_eq!(node.service.asked(), 0);
    assert_serves(&enter(&client, &node).await, "it asks where clients may").await;
}

#[tokio::test]
async fn a_members_key_may_ask_as_a_client_until_the_member_is_removed() {
    let node = TestNode::start(1).await;
    let member = Identity::of(2);
    let peer = member.at("127.0.0.1:1".parse().unwrap());
    node.transport.book().set_members(members([&peer]));
    let endpoint = ClientEndpoint::open(member.secret_key(), []).await.unwrap();
    let client = endpoint.connect(&ticket(&node), None).await.unwrap();
    client.write(put("k", "v")).await.unwrap();

    node.transport.cut_off(&node.transport.book().set_members(members([])));
    let cut = client.write(put("k", "w")).await.unwrap_err();
    assert!(matches!(cut, RequestError::NotAnswered(_)), "{cut}");
    let refused = endpoint.connect(&ticket(&node), None).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn a_declared_peers_key_may_ask_as_a_client_once_the_state_tells_that_it_was_not_removed() {
    let node = TestNode::start(1).await;
    let peer = Identity::of(2);
    node.knows(&peer.at("127.0.0.1:1".parse().unwrap()));
    let endpoint = ClientEndpoint::open(peer.secret_key(), []).await.unwrap();
    let refused = endpoint.connect(&ticket(&node), None).await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Refused { reason, .. } if reason.contains("not in a cluster yet")),
        "{refused}"
    );
    let book = node.transport.book();
    book.set_former_members(&[]);
    let client = endpoint.connect(&ticket(&node), None).await.unwrap();
    client.write(put("k", "v")).await.unwrap();

    // It belonged to the cluster before this node came, as a snapshot tells.
    let key = peer.at("127.0.0.1:1".parse().unwrap()).info.public_key;
    node.transport.cut_off(&book.set_former_members(&[key]));
    let cut = client.write(put("k", "w")).await.unwrap_err();
    assert!(matches!(cut, RequestError::NotAnswered(_)), "{cut}");
    let refused = endpoint.connect(&ticket(&node), None).await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Refused { reason, .. } if reason.contains("neither a member's")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_client_that_looks_for_another_cluster_is_refused() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (node, endpoint) = (TestNode::start(1).await, endpoint().await);
    let (own, theirs) = (ClusterId::random(), ClusterId::random());
    let refused = async |named: &str| {
        let error = endpoint.connect(&ticket(&node), Some(theirs)).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Refused { reason, .. } if reason.contains(named)), "{error}");
    };
    refused("no cluster yet").await;
    assert_eq!(node.metadata.cluster_id(), None, "a client makes a node belong to nothing");
    node.belongs_to(own);
    refused(&own.to_string()).await;
    assert_eq!(counted(&figures, "aspen_transport_hellos_refused_total"), 2);
    let client = endpoint.connect(&ticket(&node), None).await.unwrap();
    assert_eq!(client.cluster_id(), Some(own));
}

#[tokio::test]
async fn a_bad_stream_of_a_client_ends_alone() {
    let node = TestNode::start(1).await;
    let caller = Caller::start(Identity::of_client()).await;
    let connection = enter(&caller, &node).await;
    let length = |len: u64| postcard::to_stdvec(&len).unwrap();
    let whole = batch([ClientRequest::Write(put("k", "v"))]);
    let too_many = (0..=limits::FORWARD_BATCH_MAX_COUNT).map(|_| ClientRequest::Read(get("k")));
    let garbage = [&b"\x20"[..], &[0xee; 32]].concat();
    let behind_the_opening = [
        ("garbage in a right frame", garbage.clone()),
        ("an empty message", length(0)),
        ("a length that never ends", vec![0xff; 64]),
        ("a length just above the limit", length(limits::WIRE_CLIENT_MESSAGE_MAX_BYTES + 1)),
        ("the longest length", length(u64::MAX)),
        ("half a message and an end", whole[..whole.len() - 1].to_vec()),
        ("more requests than a message may have", batch(too_many)),
    ];
    assert_eq!(send_raw(&connection, &garbage).await, b"", "garbage instead of the opening");
    for (what, bytes) in behind_the_opening {
        assert_eq!(send_raw(&connection, &[opening(), bytes].concat()).await, b"", "{what} is not answered");
        assert_serves(&connection, what).await;
    }
    let fatal = batch([ClientRequest::Write(put(FATAL, "v"))]);
    assert_eq!(send_raw(&connection, &[opening(), fatal].concat()).await, b"");
    assert_serves(&connection, "the store panicked").await;
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test]
async fn half_a_message_and_then_silence_ends_the_stream_in_time_and_alone() {
    let node = TestNode::start(1).await;
    let caller = Caller::start(Identity::of_client()).await;
    let connection = enter(&caller, &node).await;
    let whole = batch([ClientRequest::Write(put("k", "v"))]);
    let begun = Instant::now();
    let mut halves = Vec::new();
    for half in [&whole[..1], &whole[..whole.len() - 1]] {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&[&opening(), half].concat()).await.unwrap();
        halves.push((send, recv));
    }
    assert_serves(&connection, "half a message, which is still awaited").await;
    for (_send, mut recv) in halves {
        let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(1)).await.expect("the stream ends");
        assert_eq!(answer.unwrap_or_default(), b"");
    }
    assert!(begun.elapsed() >= Duration::from_millis(limits::WIRE_REQUEST_READ_TIMEOUT_MS));
    assert_serves(&connection, "the halves were given up").await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_loses_its_stream_and_what_it_holds() {
    let node = TestNode::start(1).await;
    let caller = Caller::start(Identity::of_client()).await;
    let connection = enter(&caller, &node).await;
    let longest = ClientRequest::Write(put("long", vec![b'v'; limits::VALUE_MAX_BYTES]));
    send_raw(&connection, &[opening(), batch([longest])].concat()).await;

    let (mut send, _untouched) = connection.open_bi().await.unwrap();
    let reads = (0..16).map(|_| ClientRequest::Read(get("long")));
    send.write_all(&[opening(), batch(reads)].concat()).await.unwrap();
    let given_up = tokio::time::timeout(PATIENCE, send.stopped()).await;
    given_up.expect("the node gives the stream up").unwrap();
    assert_serves(&connection, "answers that nobody took").await;
}

#[tokio::test]
async fn a_client_has_only_so_many_streams() {
    let node = TestNode::start(1).await;
    let caller = Caller::start(Identity::of_client()).await;
    let connection = enter(&caller, &node).await;
    let mut open = Vec::new();
    for _ in 0..limits::WIRE_CLIENT_STREAMS_MAX_COUNT {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let request = batch([ClientRequest::Read(get(UNANSWERED))]);
        send.write_all(&[opening(), request].concat()).await.unwrap();
        open.push((send, recv));
    }
    let asked = open.len() as u64;
    eventually("all streams are served", || node.service.asked() == asked).await;
    let further = [opening(), batch([ClientRequest::Read(get("k"))])].concat();
    assert_eq!(send_raw(&connection, &further).await, b"");
    assert_eq!(node.service.asked(), asked);
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test]
async fn a_client_has_only_so_many_requests_in_work_and_is_in_nobodys_way() {
    const SENT: usize = 2 * limits::WIRE_CLIENT_RUNNING_MAX_COUNT;
    let node = TestNode::start(1).await;
    let greedy = client_of(&node).await;
    let mut pending: FuturesUnordered<_> = (0..SENT).map(|_| greedy.read(get(UNANSWERED))).collect();
    let bound = limits::WIRE_CLIENT_RUNNING_MAX_COUNT;
    let member = Identity::of(2);
    let peer = member.at("127.0.0.1:1".parse().unwrap());
    node.transport.book().set_members(members([&peer]));
    let other = ClientEndpoint::open(member.secret_key(), []).await.unwrap();
    let other = other.connect(&ticket(&node), None).await.unwrap();
    let others = async {
        eventually("its share is in work", || node.service.asked() >= bound as u64).await;
        for _ in 0..100 {
            other.read(get("k")).await.unwrap();
        }
    };
    tokio::select! {
        answer = pending.next() => panic!("it was answered: {answer:?}"),
        () = others => {}
    }
    let in_work = usize::try_from(node.service.asked() - 100).unwrap();
    assert!((bound..bound + limits::FORWARD_BATCH_MAX_COUNT).contains(&in_work), "{in_work} of {SENT}");
}

#[tokio::test]
async fn a_client_that_comes_back_with_its_key_is_served_and_its_former_connections_are_closed() {
    let node = TestNode::start(1).await;
    let former = client_of(&node).await;
    former.write(put("k", "v")).await.unwrap();
    let pending = former.read(get(UNANSWERED));
    let back = async {
        eventually("the request is in work", || node.service.asked() == 2).await;
        let back = client_of(&node).await;
        assert_eq!(back.read(get("k")).await.unwrap().range.kvs[0].value.as_bytes(), b"v");
    };
    let (cut, ()) = tokio::join!(pending, back);
    assert!(matches!(cut, Err(RequestError::NotAnswered(ForwardError::NoAnswer { .. }))), "{cut:?}");
    assert!(!former.is_open());
}

#[tokio::test]
async fn whoever_waits_when_the_node_goes_learns_that_the_outcome_is_unknown() {
    let node = TestNode::start(1).await;
    let endpoint = endpoint().await;
    let client = endpoint.connect(&ticket(&node), None).await.unwrap();
    let pending = client.write(put(UNANSWERED, "v"));
    let going = async {
        eventually("the request arrives", || node.service.asked() == 1).await;
        node.transport.close().await;
    };
    let (cut, ()) = tokio::join!(pending, going);
    assert!(cut.unwrap_err().is_outcome_unknown());
    let after = client.write(put("k", "v")).await.unwrap_err();
    assert!(!after.is_outcome_unknown(), "it was never sent: {after}");
    assert!(!client.is_open());
    let again = endpoint.connect(&ticket(&node), None).await.unwrap_err();
    assert!(matches!(again, ConnectError::Unreachable { .. }), "{again}");
}
