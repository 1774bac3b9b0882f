//! The stream on which a node's writes and rounds of read index go to one other node, all of them
//! together.
//!
//! What is queued while a message is on its way goes into the next one, and answers come back the same
//! way: under load, one packet carries what many clients ask. Each request has a number, which its
//! answer bears.
//!
//! # Tiger Style
//! - A message holds at most [`limits::FORWARD_BATCH_MAX_COUNT`] requests and, but for its last one,
//!   [`limits::FORWARD_BATCH_MAX_BYTES`].
//! - A request that was never handed to the stream is called undelivered; any other without an answer
//!   may have been delivered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use iroh::endpoint::Connection;
use irpc::channel::mpsc as wire;
use irpc_iroh::IrohRemoteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::kv::forward::{ForwardError, ForwardReply, ForwardRequest};
use crate::kv::types::{ClusterError, NodeId};
use crate::limits;
use crate::transport::protocol::{Answers, ForwardStream, RaftRpcProtocol, Requests};

/// Messages of either direction that may wait for the stream.
const PIPELINE_DEPTH: usize = 16;

pub(in crate::transport) type Outcome = Result<Result<ForwardReply, ClusterError>, ForwardError>;

/// See the module. It lives as long as its connection.
#[derive(Clone)]
pub(in crate::transport) struct ForwardLine {
    node_id: NodeId,
    requests: mpsc::Sender<Queued>,
}

struct Queued {
    request: ForwardRequest,
    answer: oneshot::Sender<Outcome>,
}

impl ForwardLine {
    /// Opens a stream on a connection to a node, within `patience`.
    pub(super) fn open(node_id: NodeId, connection: Connection, patience: Duration) -> Self {
        let (requests, queue) = mpsc::channel(limits::FORWARD_BATCH_MAX_COUNT);
        tokio::spawn(run(node_id, connection, patience, queue));
        Self { node_id, requests }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, request: ForwardRequest, until: Instant) -> Outcome {
        let (answer, answered) = oneshot::channel();
        match tokio::time::timeout_at(until, self.requests.reserve()).await {
            Ok(Ok(place)) => place.send(Queued { request, answer }),
            Ok(Err(_)) => return Err(self.unreachable("the connection ended")),
            Err(_) => return Err(self.unreachable("requests before this one still wait to be sent")),
        }
        match tokio::time::timeout_at(until, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(self.no_answer("the connection ended")),
            Err(_) => Err(self.no_answer("its time is up")),
        }
    }

    fn unreachable(&self, reason: &str) -> ForwardError {
        ForwardError::Unreachable { node_id: self.node_id, reason: reason.to_owned() }
    }

    fn no_answer(&self, reason: &str) -> ForwardError {
        ForwardError::NoAnswer { node_id: self.node_id, reason: reason.to_owned() }
    }
}

/// Who waits for which number.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Outcome>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Outcome>>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Serves the queue until the connection ends, and then tells all who wait.
async fn run(node_id: NodeId, connection: Connection, patience: Duration, mut queue: mpsc::Receiver<Queued>) {
    let waiting = Waiting::default();
    let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
    let opened = client.bidi_streaming::<_, Requests, Answers>(ForwardStream, PIPELINE_DEPTH, PIPELINE_DEPTH);
    let reason = match tokio::time::timeout(patience, opened).await {
        Ok(Ok((requests, answers))) => tokio::select! {
            reason = send_all(&mut queue, &requests, &waiting) => reason,
            reason = receive_all(answers, &waiting) => reason,
        },
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "no stream could be opened in time".to_owned(),
    };
    queue.close();
    for (_, waiter) in waiting.lock().drain() {
        waiter.send(Err(ForwardError::NoAnswer { node_id, reason: reason.clone() })).ok();
    }
    while let Some(queued) = queue.recv().await {
        queued.answer.send(Err(ForwardError::Unreachable { node_id, reason: reason.clone() })).ok();
    }
}

/// Sends what is queued, as it comes. Returns why it ended.
async fn send_all(
    queue: &mut mpsc::Receiver<Queued>,
    requests: &wire::Sender<Requests>,
    waiting: &Waiting,
) -> String {
    let (mut number, mut queued) = (0, Vec::new());
    while queue.recv_many(&mut queued, limits::FORWARD_BATCH_MAX_COUNT).await > 0 {
        // Nobody waits for the answer of one that was given up.
        let mut rest = queued.drain(..).filter(|queued| !queued.answer.is_closed()).peekable();
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while bytes < limits::FORWARD_BATCH_MAX_BYTES
                && let Some(Queued { request, answer }) = rest.next()
            {
                number += 1;
                bytes += request.payload_bytes();
                waiting.lock().insert(number, answer);
                batch.push((number, request));
            }
            if let Err(error) = requests.send(Requests(batch)).await {
                return format!("{error:#}");
            }
        }
    }
    "this node stops".to_owned()
}

/// Hands answers to those who wait for them. Returns why it ended.
async fn receive_all(mut answers: wire::Receiver<Answers>, waiting: &Waiting) -> String {
    loop {
        let Answers(batch) = match answers.recv().await {
            Ok(Some(batch)) => batch,
            Ok(None) => return "it ended the stream".to_owned(),
            Err(error) => return format!("{error:#}"),
        };
        let mut waiting = waiting.lock();
        for (number, answer) in batch {
            if let Some(waiter) = waiting.remove(&number) {
                waiter.send(Ok(answer)).ok();
            }
        }
    }
}
