//! A stream of appends, against a real follower and against ones that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use iroh::endpoint::ConnectionError;
use openraft::RaftNetworkFactory;
use openraft::entry::RaftEntry;
use openraft::errors::RPCError;
use openraft::network::{NetStreamAppend, NetVote, RPCOption};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use openraft::vote::RaftLeaderIdExt;

use super::follower::{Arrived, Follower, Request, STALL};
use super::support::{PATIENCE, TestNode, agree_to_found, two_nodes};
use crate::kv::types::{NodeId, NodeInfo};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::transport::network::PeerClient;

type Answer = StreamAppendResult<TypeConfig>;
type Answers<'a> = BoxStream<'a, Result<Answer, RPCError<TypeConfig>>>;

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, NodeId(1)), index)
}

/// Appends the one entry at this index, as the leader of term 1.
fn append(index: u64) -> Request {
    AppendEntriesRequest {
        vote: Vote::new_committed(1, NodeId(1)),
        prev_log_id: index.checked_sub(1).map(log_id),
        entries: vec![Entry::new_blank(log_id(index))],
        leader_commit: None,
    }
}

async fn client_of(node: &TestNode) -> PeerClient {
    node.transport.network().new_client(NodeId(2), &NodeInfo::default()).await
}

async fn open<S>(client: &mut PeerClient, requests: S) -> Answers<'_>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    client.stream_append(requests, RPCOption::new(STALL)).await.unwrap()
}

async fn next(answers: &mut Answers<'_>) -> Option<Result<Answer, RPCError<TypeConfig>>> {
    tokio::time::timeout(PATIENCE, answers.next()).await.expect("it ends within its bound")
}

#[tokio::test]
async fn a_follower_answers_appends_in_their_order() {
    const APPENDS: u64 = 300;
    let (leader, follower) = two_nodes().await;
    let mut client = client_of(&leader).await;
    let mut answers = open(&mut client, futures::stream::iter((0..APPENDS).map(append))).await;
    for index in 0..APPENDS {
        let answer = next(&mut answers).await.unwrap().unwrap();
        assert_eq!(answer, Ok(Some(log_id(index))));
    }
    assert!(next(&mut answers).await.is_none(), "all is answered");
    follower.wait("the log", |metrics| metrics.last_log_index == Some(APPENDS - 1)).await;
}

#[tokio::test]
async fn a_refusal_is_the_last_answer_of_a_stream() {
    let (leader, follower) = two_nodes().await;
    let mut client = client_of(&leader).await;
    let with_a_gap = [append(0), append(5), append(6)];
    let mut answers = open(&mut client, futures::stream::iter(with_a_gap)).await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))));
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Err(StreamAppendError::Conflict(log_id(4))));
    assert!(next(&mut answers).await.is_none());
    drop(answers);
    assert_eq!(follower.metrics().last_log_index, Some(0));

    let mut answers = open(&mut client, futures::stream::iter([append(1)])).await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(1))), "the next stream works");
}

/// Raft's pause after a failure is the time that its next request takes to come.
#[tokio::test]
async fn a_peer_is_dialed_only_once_there_is_a_request_for_it() {
    let leader = TestNode::start(1).await;
    let mut client = client_of(&leader).await;
    let no_request_yet = futures::stream::pending::<Request>();
    let opened = client.stream_append(no_request_yet, RPCOption::new(STALL));
    assert!(opened.now_or_never().is_none(), "it waits, though nothing is known of node 2");

    let asked = Arc::new(AtomicBool::new(false));
    let request = futures::stream::once({
        let asked = asked.clone();
        async move {
            asked.store(true, Ordering::SeqCst);
            append(0)
        }
    });
    let opened = client.stream_append(request.boxed(), RPCOption::new(STALL)).await;
    assert!(matches!(opened.err(), Some(RPCError::Unreachable(_))));
    assert!(asked.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_deposed_leader_keeps_nobody_fresh() {
    let (leader, follower) = two_nodes().await;
    let mut client = client_of(&leader).await;
    let newer = Vote::new(2, NodeId(1));
    let refused = client.vote(VoteRequest::new(newer, None), RPCOption::new(PATIENCE)).await.unwrap_err();
    assert!(refused.to_string().contains("no log of this cluster"), "{refused}");
    agree_to_found(&[&leader.transport, &follower.transport]);
    let vote = client.vote(VoteRequest::new(newer, None), RPCOption::new(PATIENCE)).await.unwrap();
    assert!(vote.vote_granted);
    follower.wait("the vote", |metrics| metrics.vote == newer).await;

    let mut answers = open(&mut client, futures::stream::iter([append(0)])).await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Err(StreamAppendError::HigherVote(newer)));
    drop(answers);
    assert_eq!(follower.freshness.last_heard(), None);

    let current = AppendEntriesRequest { vote: Vote::new_committed(2, NodeId(1)), ..append(0) };
    let mut answers = open(&mut client, futures::stream::iter([current])).await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))));
    assert!(follower.freshness.last_heard().is_some());
}

#[tokio::test]
async fn answers_that_stop_coming_end_the_stream_and_its_connection() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower.node).await;
    let requests = futures::stream::iter((0..3).map(append)).chain(futures::stream::pending());
    let (mut answers, mut arrived) = tokio::join!(open(&mut client, requests), follower.accept());
    arrived.answer_one().await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))));

    let begun = Instant::now();
    let stalled = next(&mut answers).await.unwrap();
    assert!(matches!(stalled, Err(RPCError::Unreachable(_))), "{stalled:?}");
    assert!((STALL..STALL * 4).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(next(&mut answers).await.is_none());
    let closed = tokio::time::timeout(PATIENCE, arrived.connection.closed()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(&close.reason[..], b"answers stopped coming");
    drop(answers);

    let again = open(&mut client, futures::stream::iter([append(0)]));
    let (mut answers, mut arrived) = tokio::join!(again, follower.accept());
    arrived.answer_one().await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))), "the next stream works");
}

#[tokio::test]
async fn a_follower_that_takes_nothing_ends_the_stream_as_well() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower.node).await;
    let endless = futures::stream::iter((0..).map(append));
    let (mut answers, _arrived) = tokio::join!(open(&mut client, endless), follower.accept());
    let stalled = next(&mut answers).await.unwrap();
    assert!(matches!(stalled, Err(RPCError::Unreachable(_))), "{stalled:?}");
    assert!(next(&mut answers).await.is_none());
}

#[tokio::test]
async fn a_stream_without_requests_waits_longer_than_an_answer_may_take() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower.node).await;
    let (requests, input) = tokio::sync::mpsc::unbounded_channel();
    let input = futures::stream::unfold(input, |mut input| async { Some((input.recv().await?, input)) });
    requests.send(append(0)).unwrap();
    let (mut answers, mut arrived) = tokio::join!(open(&mut client, input.boxed()), follower.accept());
    arrived.answer_one().await;
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))));
    for index in 1..3 {
        let quiet = tokio::time::timeout(STALL * 2, answers.next()).await;
        assert!(quiet.is_err(), "nothing was asked: {quiet:?}");
        requests.send(append(index)).unwrap();
        arrived.answer_one().await;
        assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(index))));
    }
    drop(requests);
    let Arrived { connection: _connection, requests: mut arriving, answers: answering } = arrived;
    assert!(arriving.recv().await.unwrap().is_none(), "the end of the requests arrives");
    drop(answering);
    assert!(next(&mut answers).await.is_none());
}

#[tokio::test]
async fn a_follower_that_ends_the_stream_owing_an_answer_is_an_error() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower.node).await;
    let requests = futures::stream::iter((0..2).map(append)).chain(futures::stream::pending());
    let (mut answers, mut arrived) = tokio::join!(open(&mut client, requests), follower.accept());
    arrived.answer_one().await;
    let connection = arrived.connection.clone();
    drop(arrived);
    assert_eq!(next(&mut answers).await.unwrap().unwrap(), Ok(Some(log_id(0))));
    let begun = Instant::now();
    let ended = next(&mut answers).await.unwrap();
    assert!(matches!(ended, Err(RPCError::Unreachable(_))), "{ended:?}");
    assert!(begun.elapsed() < STALL, "at once, not after the stall: {:?}", begun.elapsed());
    assert!(next(&mut answers).await.is_none());
    assert_eq!(connection.close_reason(), None);
}
