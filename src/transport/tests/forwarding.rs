//! Requests that one node carries to another.

use std::time::{Duration, Instant};

use super::support::{PATIENCE, READ_INDEX, TestNode, refused, two_nodes, unanswered};
use crate::kv::forward::{ForwardError, ForwardReply, ForwardRequest, Forwarder};
use crate::kv::types::{ClusterError, NodeId};
use crate::limits;
use crate::transport::link::Lane;

async fn ask_read_index(from: &TestNode, to: NodeId) -> Result<ForwardReply, ForwardError> {
    let answer = from.transport.forward(to, ForwardRequest::ReadIndex, 5_000).await;
    answer.map(|answer| answer.expect("it is never refused"))
}

#[tokio::test]
async fn a_request_and_its_answer_make_the_round_trip() {
    let (first, second) = two_nodes().await;
    let answer = ask_read_index(&first, second.id()).await;
    assert!(matches!(answer, Ok(ForwardReply::ReadIndex(READ_INDEX))), "{answer:?}");
    let refusal = first.transport.forward(second.id(), refused(), 5_000).await.unwrap();
    assert_eq!(refusal.unwrap_err(), ClusterError::NodeIdTaken { node_id: NodeId(9) });
    assert_eq!((first.service.asked(), second.service.asked()), (0, 2));
}

#[tokio::test]
async fn a_request_that_cannot_have_been_delivered_says_so() {
    let (first, second) = two_nodes().await;
    let unknown = ask_read_index(&first, NodeId(9)).await;
    assert!(matches!(unknown, Err(ForwardError::Unreachable { node_id: NodeId(9), .. })), "{unknown:?}");

    ask_read_index(&first, second.id()).await.unwrap();
    second.stop().await;
    first.transport.connection(NodeId(2), Lane::Control).await.unwrap_err();
    let gone = ask_read_index(&first, NodeId(2)).await;
    assert!(matches!(gone, Err(ForwardError::Unreachable { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_request_that_may_have_been_delivered_says_so_within_its_bound() {
    let (first, second) = two_nodes().await;
    ask_read_index(&first, second.id()).await.unwrap();
    let begun = Instant::now();
    let late = first.transport.forward(second.id(), unanswered(10), 200).await;
    assert!(matches!(late, Err(ForwardError::NoAnswer { .. })), "{late:?}");
    assert!((200..2_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());

    let pending = first.transport.forward(second.id(), unanswered(10), 60_000);
    let dying = async {
        let before = second.service.asked();
        tokio::time::timeout(PATIENCE, async {
            while second.service.asked() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the request arrives");
        second.transport.close().await;
    };
    let (cut, ()) = tokio::join!(pending, dying);
    assert!(matches!(cut, Err(ForwardError::NoAnswer { .. })), "{cut:?}");
}

#[tokio::test]
async fn requests_share_a_stream_and_none_waits_for_another() {
    const REQUESTS: u64 = 2_000;
    let (first, second) = two_nodes().await;
    ask_read_index(&first, second.id()).await.unwrap();
    let never = (0..100).map(|_| first.transport.forward(second.id(), unanswered(50_000), 60_000));
    let mut never = std::pin::pin!(futures::future::select_all(never.map(Box::pin)));
    let asked = futures::future::join_all((0..REQUESTS).map(|_| ask_read_index(&first, second.id())));
    let answers = tokio::select! {
        // Those that are never answered go first.
        biased;
        (answer, ..) = &mut never => panic!("it was answered: {answer:?}"),
        answers = tokio::time::timeout(PATIENCE, asked) => answers.expect("they do not wait for the others"),
    };
    for answer in answers {
        assert!(matches!(answer, Ok(ForwardReply::ReadIndex(READ_INDEX))), "{answer:?}");
    }
    assert_eq!(second.service.asked(), 1 + 100 + REQUESTS);
    second.transport.close().await;
    let (cut, ..) = tokio::time::timeout(PATIENCE, never).await.expect("whoever waits is told");
    assert!(matches!(cut, Err(ForwardError::NoAnswer { .. })), "{cut:?}");
}

#[tokio::test]
async fn a_caller_that_gives_up_on_a_large_request_leaves_the_connection_usable() {
    let (first, second) = two_nodes().await;
    let connection = first.transport.connection(second.id(), Lane::Forward).await.unwrap();
    for timeout_ms in [0, 1, 2, 5, 10] {
        let request = unanswered(limits::COMMAND_MAX_BYTES);
        let answer = first.transport.forward(second.id(), request, timeout_ms).await;
        assert!(answer.is_err(), "{answer:?}");
        ask_read_index(&first, second.id()).await.unwrap();
    }
    assert_eq!(connection.close_reason(), None);
}

#[tokio::test]
async fn a_node_that_is_introduced_but_does_not_answer_is_forgotten() {
    let (first, second) = (TestNode::start(1).await, TestNode::start(2).await);
    let peer = second.peer();
    let met = first.transport.introduce(&peer, 5_000).await;
    assert!(matches!(met, Err(ForwardError::Unreachable { .. })), "it lets nobody in yet: {met:?}");
    assert_eq!(first.transport.book().lookup(peer.node_id), None);

    second.knows(&first.peer());
    first.transport.introduce(&peer, 5_000).await.unwrap();
    assert!(first.transport.book().lookup(peer.node_id).is_some());
}
