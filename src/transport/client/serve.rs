//! A node's end of clients' connections.
//!
//! # Tiger Style
//! - At most [`limits::WIRE_CLIENTS_MAX_COUNT`] connections, each with at most
//!   [`limits::WIRE_CLIENT_STREAMS_MAX_COUNT`] streams. What is beyond is ended at once.
//! - A stream has about [`limits::WIRE_CLIENT_RUNNING_MAX_COUNT`] requests in work; further ones wait on
//!   the way. Of all clients together there are at most [`limits::WIRE_CLIENT_REQUESTS_MAX_COUNT`];
//!   further ones are refused at once.
//! - Messages whose requests are in work have at most [`limits::WIRE_CLIENT_REQUESTS_MAX_BYTES`]
//!   together; further ones are not read before there is room.
//! - A message that has begun to arrive arrives whole within
//!   [`limits::WIRE_REQUEST_READ_TIMEOUT_MS`], or ends its stream.

use std::sync::Arc;

use iroh::endpoint::{Connection, RecvStream, SendStream};
use irpc::WithChannels;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::protocol::{
    ClientAnswer, ClientHello, ClientHelloMessage, ClientHelloProtocol, ClientReply, ClientRequest,
    ClientRpcProtocol, ClientWelcome,
};
use crate::kv::interface::KeyValueStore;
use crate::kv::types::{Command, KvError, PublicKey, WriteOp};
use crate::limits;
use crate::transport::Transport;
use crate::transport::frame::{StreamError, next_len, read_first, read_request, read_rest};
use crate::transport::numbered::Numbered;
use crate::transport::numbered::serve::serve as answer_all;
use crate::transport::protocol::{ALPN_CLIENT, Refusal};
use crate::transport::ticket::public_key;

/// What clients are served from, within bounds that all of them share.
pub(in crate::transport) struct ClientService {
    store: Arc<dyn KeyValueStore>,
    connections: Arc<Semaphore>,
    requests: Semaphore,
    bytes: Arc<Semaphore>,
}

/// A request with its share in the memory for messages.
type Held = (ClientRequest, Arc<OwnedSemaphorePermit>);

impl ClientService {
    pub(in crate::transport) fn new(store: Arc<dyn KeyValueStore>) -> Self {
        Self {
            store,
            connections: Arc::new(Semaphore::new(limits::WIRE_CLIENTS_MAX_COUNT)),
            requests: Semaphore::new(limits::WIRE_CLIENT_REQUESTS_MAX_COUNT),
            bytes: Arc::new(Semaphore::new(limits::WIRE_CLIENT_REQUESTS_MAX_BYTES)),
        }
    }

    /// A place for one more connection, if there is one.
    pub(in crate::transport) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// Serves a stream until it ends and all its requests are answered.
    pub(in crate::transport) async fn serve(
        &self,
        send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let ClientRpcProtocol::Serve(_) = read_first(&mut recv).await?;
        let messages = futures::stream::unfold(recv, |recv| self.next(recv));
        let running_max_count = limits::WIRE_CLIENT_RUNNING_MAX_COUNT;
        answer_all(messages, send.into(), running_max_count, |held| self.answer(held)).await
    }

    /// The next message, and the stream behind it.
    async fn next(&self, mut recv: RecvStream) -> Option<(Numbered<Held>, RecvStream)> {
        match self.read(&mut recv).await {
            Ok(message) => message.map(|message| (message, recv)),
            Err(error) => {
                tracing::debug!("a client's stream broke off: {error}");
                None
            }
        }
    }

    async fn read(&self, recv: &mut RecvStream) -> Result<Option<Numbered<Held>>, StreamError> {
        let Some(len) = next_len(recv, limits::WIRE_CLIENT_MESSAGE_MAX_BYTES).await? else {
            return Ok(None);
        };
        let permits = u32::try_from(len).expect("a message's bound fits 32 bits");
        let held = self.bytes.clone().acquire_many_owned(permits).await;
        let held = Arc::new(held.expect("nobody closes the semaphore"));
        let Numbered(requests) = read_rest(recv, len).await?;
        let held = requests.into_iter().map(|(number, request)| (number, (request, held.clone())));
        Ok(Some(Numbered(held.collect())))
    }

    async fn answer(&self, (request, _held): Held) -> ClientAnswer {
        let kind = match request {
            ClientRequest::Write(_) => "write",
            ClientRequest::Read(_) => "read",
        };
        let answer = self.run(request).await;
        let result = if answer.is_ok() { "ok" } else { "failed" };
        metrics::counter!("aspen_client_requests_total", "kind" => kind, "result" => result).increment(1);
        answer
    }

    async fn run(&self, request: ClientRequest) -> ClientAnswer {
        let in_work = limits::WIRE_CLIENT_REQUESTS_MAX_COUNT;
        let _place = self.requests.try_acquire().map_err(|_| KvError::Overloaded { in_work })?;
        match request {
            // The key is that of an application; whoever restores has the token of the HTTP API.
            ClientRequest::Write(Command { op: WriteOp::Restore(_), .. }) => Err(KvError::NotOverIroh),
            ClientRequest::Write(command) => self.store.write(command).await.map(ClientReply::Written),
            ClientRequest::Read(request) => self.store.read(request).await.map(ClientReply::Read),
        }
    }
}

impl Transport {
    /// Answers a client's hello, and says whether the client is let in.
    pub(in crate::transport) async fn answer_client_hello(
        &self,
        connection: &Connection,
    ) -> Result<bool, StreamError> {
        let (send, recv) = connection.accept_bi().await.map_err(std::io::Error::from)?;
        let ClientHelloMessage::Hello(WithChannels { inner, tx, .. }) =
            read_request::<ClientHelloProtocol>(send, recv).await?;
        let key = public_key(&connection.remote_id());
        let answer = self.receive_client_hello(&key, &inner);
        if let Err(refusal) = &answer
            && *refusal != Refusal::Restarted
        {
            metrics::counter!("aspen_transport_hellos_refused_total").increment(1);
            tracing::warn!(%key, "the hello of a client was refused: {refusal}");
        }
        let accepted = answer.is_ok();
        tx.send(answer).await.map_err(|error| StreamError::Send(error.to_string()))?;
        Ok(accepted)
    }

    fn receive_client_hello(&self, key: &PublicKey, hello: &ClientHello) -> Result<ClientWelcome, Refusal> {
        if !self.0.guests.admits(key, ALPN_CLIENT) {
            return Err(Refusal::Unknown);
        }
        let own = self.0.metadata.cluster_id();
        match (own, hello.cluster_id) {
            (Some(own), Some(theirs)) if own != theirs => return Err(Refusal::OtherCluster { own, theirs }),
            (None, Some(theirs)) => return Err(Refusal::NoCluster(theirs)),
            _ => {}
        }
        if self.close_former_process(*key, hello.boot) {
            return Err(Refusal::Restarted);
        }
        Ok(ClientWelcome { node_id: self.node_id(), cluster_id: own })
    }
}
