//! Heartbeats, which share one stream as long as each is answered.

use std::time::Duration;

use futures::StreamExt;
use openraft::RaftNetworkFactory;
use openraft::errors::RPCError;
use openraft::network::{NetStreamAppend, RPCOption};
use openraft::raft::{StreamAppendError, StreamAppendResult};

use super::follower::{Arrived, Follower, Request, STALL};
use super::support::PATIENCE;
use crate::kv::types::{NodeId, NodeInfo};
use crate::raft::types::{TypeConfig, Vote};
use crate::transport::network::PeerClient;

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

async fn client_of(follower: &Follower) -> PeerClient {
    follower.node.transport.network().new_heartbeat_client(NodeId(2), &NodeInfo::default()).await
}

/// Sends one heartbeat as Raft does: the answer, and then to the end of the answers.
async fn beat(client: &mut PeerClient) -> Answer {
    let request = Request {
        vote: Vote::new_committed(1, NodeId(1)),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let input = Box::pin(futures::stream::once(async { request }));
    let mut answers = client.stream_append(input, RPCOption::new(PATIENCE)).await?;
    let answer = answers.next().await.expect("each heartbeat is answered");
    assert!(answers.next().await.is_none(), "one answer to one heartbeat");
    answer
}

async fn answered(client: &mut PeerClient, arrived: &mut Arrived) {
    let (answer, ()) = tokio::join!(beat(client), arrived.answer_one());
    assert_eq!(answer.unwrap(), Ok(None));
}

/// The next heartbeat comes on a new stream of the same connection, and is answered there.
async fn answered_on_a_new_stream(client: &mut PeerClient, before: &Arrived) {
    let (next, _arrived) = tokio::join!(beat(client), async {
        let mut arrived = Arrived::next_on(before.connection.clone()).await;
        arrived.answer_one().await;
        arrived
    });
    assert_eq!(next.unwrap(), Ok(None));
}

#[tokio::test]
async fn heartbeats_that_are_answered_share_one_stream() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower).await;
    let (first, mut arrived) = tokio::join!(beat(&mut client), async {
        let mut arrived = follower.accept().await;
        arrived.answer_one().await;
        arrived
    });
    assert_eq!(first.unwrap(), Ok(None));
    for _ in 0..5 {
        answered(&mut client, &mut arrived).await;
    }
}

#[tokio::test]
async fn a_late_answer_is_never_taken_for_that_of_another_heartbeat() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower).await;
    let given_up = tokio::time::timeout(STALL / 2, beat(&mut client));
    let (given_up, mut arrived) = tokio::join!(given_up, follower.accept());
    assert!(given_up.is_err(), "nobody has answered: {given_up:?}");
    assert!(arrived.requests.recv().await.unwrap().is_some(), "the first beat arrives");
    // The answer to the beat that was given up: a refusal, which the next beat must not see.
    let newer = Vote::new_committed(7, NodeId(2));
    arrived.answers.send(Err(StreamAppendError::HigherVote(newer))).await.ok();

    answered_on_a_new_stream(&mut client, &arrived).await;
}

#[tokio::test]
async fn a_refused_heartbeat_is_the_last_of_its_stream() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower).await;
    let newer = Vote::new_committed(7, NodeId(2));
    let (refused, arrived) = tokio::join!(beat(&mut client), async {
        let mut arrived = follower.accept().await;
        arrived.requests.recv().await.unwrap().expect("the beat arrives");
        arrived.answers.send(Err(StreamAppendError::HigherVote(newer))).await.unwrap();
        arrived
    });
    assert_eq!(refused.unwrap(), Err(StreamAppendError::HigherVote(newer)));

    answered_on_a_new_stream(&mut client, &arrived).await;
}

#[tokio::test]
async fn a_heartbeat_without_an_answer_fails_within_its_bound_and_closes_the_connection() {
    let follower = Follower::start().await;
    let mut client = client_of(&follower).await;
    let (silent, arrived) = tokio::join!(beat(&mut client), follower.accept());
    assert!(matches!(silent, Err(RPCError::Unreachable(_))), "{silent:?}");
    tokio::time::timeout(Duration::from_secs(5), arrived.connection.closed()).await.expect("it is closed");
}
