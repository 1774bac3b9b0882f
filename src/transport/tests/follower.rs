//! A follower that a test plays by hand.

use std::time::Duration;

use iroh::endpoint::Connection;
use irpc::WithChannels;
use irpc::channel::mpsc;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};

use super::support::{Caller, Identity, TestNode};
use crate::raft::types::TypeConfig;
use crate::transport::LinkTimeouts;
use crate::transport::protocol::{HelloMessage, HelloProtocol, RaftRpcMessage, RaftRpcProtocol, Welcome};

/// How long its leader waits for an answer.
pub(super) const STALL: Duration = Duration::from_millis(500);

pub(super) type Request = AppendEntriesRequest<TypeConfig>;
type Answer = StreamAppendResult<TypeConfig>;

/// A follower whose answers the test gives.
pub(super) struct Follower {
    caller: Caller,
    /// The leader that calls it.
    pub(super) node: TestNode,
}

/// One stream of appends that arrived at it.
pub(super) struct Arrived {
    pub(super) connection: Connection,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) answers: mpsc::Sender<Answer>,
}

impl Arrived {
    /// Takes the next stream of a connection.
    pub(super) async fn next_on(connection: Connection) -> Self {
        let request = irpc_iroh::read_request::<RaftRpcProtocol>(&connection).await.unwrap().unwrap();
        let RaftRpcMessage::Append(WithChannels { tx, rx, .. }) = request else { panic!("{request:?}") };
        Self { connection, requests: rx, answers: tx }
    }

    /// Takes one request and answers it.
    pub(super) async fn answer_one(&mut self) {
        let request = self.requests.recv().await.unwrap().expect("a request comes");
        let last = request.entries.last().map(|entry| entry.log_id);
        self.answers.send(Ok(last)).await.unwrap();
    }
}

impl Follower {
    pub(super) async fn start() -> Self {
        let timeouts = LinkTimeouts { stall: STALL, rpc: STALL, ..LinkTimeouts::lan() };
        let node = TestNode::start_as(Identity::of(1), timeouts).await;
        let caller = Caller::known_to(&node).await;
        Self { caller, node }
    }

    /// Lets the leader in and takes its stream.
    pub(super) async fn accept(&self) -> Arrived {
        let connection = self.caller.endpoint.accept().await.unwrap().await.unwrap();
        let hello = irpc_iroh::read_request::<HelloProtocol>(&connection).await.unwrap().unwrap();
        let HelloMessage::Hello(WithChannels { inner, tx, .. }) = hello;
        let info = self.caller.peer().info;
        tx.send(Ok(Welcome { node_id: inner.target, cluster_id: None, info, incarnation: 1 })).await.unwrap();
        Arrived::next_on(connection).await
    }
}
