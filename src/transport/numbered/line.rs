//! The asking end of a stream: whatever many tasks ask of one node goes to it together.
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
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use irpc::RpcMessage;
use irpc::channel::mpsc as wire;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Numbered, Payload};
use crate::kv::forward::ForwardError;
use crate::kv::types::NodeId;
use crate::limits;

/// Messages of either direction that may wait for the stream.
pub(in crate::transport) const PIPELINE_DEPTH: usize = 16;

/// See the module. It lives as long as its connection, or until the last clone of it is dropped.
#[derive(Debug)]
pub(in crate::transport) struct Line<Q, A> {
    node_id: NodeId,
    requests: mpsc::Sender<Queued<Q, A>>,
}

impl<Q, A> Clone for Line<Q, A> {
    fn clone(&self) -> Self {
        Self { node_id: self.node_id, requests: self.requests.clone() }
    }
}

#[derive(Debug)]
struct Queued<Q, A> {
    request: Q,
    answer: oneshot::Sender<Result<A, ForwardError>>,
}

/// A stream's two directions.
type Opened<Q, A> = (wire::Sender<Numbered<Q>>, wire::Receiver<Numbered<A>>);

impl<Q: RpcMessage + Payload, A: RpcMessage> Line<Q, A> {
    /// Takes requests for a stream to a node, which has to be open within `patience`.
    pub(in crate::transport) fn open<E: Display>(
        node_id: NodeId,
        opened: impl Future<Output = Result<Opened<Q, A>, E>> + Send + 'static,
        patience: Duration,
    ) -> Self {
        let (requests, queue) = mpsc::channel(limits::FORWARD_BATCH_MAX_COUNT);
        let opened = async move {
            match tokio::time::timeout(patience, opened).await {
                Ok(opened) => opened.map_err(|error| format!("{error:#}")),
                Err(_) => Err("no stream could be opened in time".to_owned()),
            }
        };
        tokio::spawn(run(node_id, opened, queue));
        Self { node_id, requests }
    }

    pub(in crate::transport) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Sends a request and waits for its answer.
    pub(in crate::transport) async fn ask(&self, request: Q, until: Instant) -> Result<A, ForwardError> {
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
struct Waiting<A>(Mutex<HashMap<u64, oneshot::Sender<Result<A, ForwardError>>>>);

impl<A> Waiting<A> {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<A, ForwardError>>>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Serves the queue until the connection ends, and then tells all who wait.
async fn run<Q: RpcMessage + Payload, A: RpcMessage>(
    node_id: NodeId,
    opened: impl Future<Output = Result<Opened<Q, A>, String>>,
    mut queue: mpsc::Receiver<Queued<Q, A>>,
) {
    let waiting = Waiting(Mutex::default());
    let reason = match opened.await {
        Ok((requests, answers)) => tokio::select! {
            reason = send_all(&mut queue, &requests, &waiting) => reason,
            reason = receive_all(answers, &waiting) => reason,
        },
        Err(reason) => reason,
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
async fn send_all<Q: RpcMessage + Payload, A>(
    queue: &mut mpsc::Receiver<Queued<Q, A>>,
    requests: &wire::Sender<Numbered<Q>>,
    waiting: &Waiting<A>,
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
            if let Err(error) = requests.send(Numbered(batch)).await {
                return format!("{error:#}");
            }
        }
    }
    "this node stops".to_owned()
}

/// Hands answers to those who wait for them. Returns why it ended.
async fn receive_all<A: RpcMessage>(
    mut answers: wire::Receiver<Numbered<A>>,
    waiting: &Waiting<A>,
) -> String {
    loop {
        let Numbered(batch) = match answers.recv().await {
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
