//! Requests with one answer.

use std::time::Duration;

use aspen::kv::interface::KeyValueStore;
use aspen::kv::types::{Command, KvError, NodeId, ReadReply, ReadRequest, WriteReply};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{CLIENTS, Handlers, Lane, Network, decode, encode};
use crate::chance;

/// A request without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It certainly was not delivered.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have been.
    #[error("no answer within {0} ms")]
    NoAnswer(u128),
}

/// What a client asks of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ClientRequest {
    /// Change something.
    Write(Command),
    /// Read something.
    Read(ReadRequest),
}

/// What a node answers a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ClientReply {
    /// To a write.
    Written(Result<WriteReply, KvError>),
    /// To a read.
    Read(Result<ReadReply, KvError>),
}

/// Serves a request on the node that it has reached.
pub(super) type Serve<Q, A> = fn(Handlers, Q) -> BoxFuture<'static, A>;

impl Network {
    /// Asks a node on behalf of a client.
    ///
    /// # Errors
    /// [`CallError::NoAnswer`] if none comes within `patience`.
    pub async fn ask(
        &self,
        to: NodeId,
        request: &ClientRequest,
        patience: Duration,
    ) -> Result<ClientReply, CallError> {
        self.send(CLIENTS, to, "client", request, patience, serve_client).await
    }

    /// Asks one node on behalf of another.
    pub(super) async fn call<Q, A>(
        &self,
        (from, to, lane): (NodeId, NodeId, Lane),
        kind: &'static str,
        request: &Q,
        patience: Duration,
        serve: Serve<Q, A>,
    ) -> Result<A, CallError>
    where
        Q: Serialize + DeserializeOwned + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
    {
        let called = async {
            self.connect(from, to, lane).await.map_err(CallError::NotSent)?;
            self.send(from, to, kind, request, patience, serve).await
        };
        match tokio::time::timeout(patience, called).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::NoAnswer(patience.as_millis())),
        }
    }

    async fn send<Q, A>(
        &self,
        from: NodeId,
        to: NodeId,
        kind: &'static str,
        request: &Q,
        patience: Duration,
        serve: Serve<Q, A>,
    ) -> Result<A, CallError>
    where
        Q: Serialize + DeserializeOwned + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
    {
        let (reply, answered) = oneshot::channel();
        let (network, request) = (self.clone(), encode(request));
        self.0.way.spawn(async move {
            // Drawn in any case, so that a seed's further course does not hang on it.
            let is_doubled = network.weather().draw_duplication();
            if !network.hop(from, to).await {
                return;
            }
            if is_doubled {
                let (network, request) = (network.clone(), request.clone());
                tokio::spawn(async move {
                    madsim::time::sleep(chance::millis(1, 100)).await;
                    network.serve(from, to, kind, request, serve).await;
                });
            }
            let Some(answer) = network.serve(from, to, kind, request, serve).await else { return };
            if network.hop(to, from).await {
                reply.send(answer).ok();
            }
        });
        // A message that is lost makes no sound: whoever waits for an answer waits on.
        let answer = async {
            match answered.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        };
        let answer: Result<Bytes, _> = tokio::time::timeout(patience, answer).await;
        answer.map(|bytes| decode(&bytes)).map_err(|_| CallError::NoAnswer(patience.as_millis()))
    }

    async fn serve<Q, A>(
        &self,
        from: NodeId,
        to: NodeId,
        kind: &'static str,
        request: Bytes,
        serve: Serve<Q, A>,
    ) -> Option<Bytes>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
    {
        let (node, handlers) = self.arrive(from, to, kind)?;
        let served = node.spawn(async move { encode(&serve(handlers, decode(&request)).await) });
        // An error is the death of the node.
        served.await.ok()
    }
}

fn serve_client(handlers: Handlers, request: ClientRequest) -> BoxFuture<'static, ClientReply> {
    async move {
        match request {
            ClientRequest::Write(command) => ClientReply::Written(handlers.service.write(command).await),
            ClientRequest::Read(request) => ClientReply::Read(handlers.service.read(request).await),
        }
    }
    .boxed()
}
