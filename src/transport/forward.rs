//! Requests of this node's clients, carried to the leader: writes and rounds of read index on one stream,
//! operations, which take long, on one each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use irpc_iroh::IrohRemoteConnection;
use tokio::time::Instant;

use super::Transport;
use super::frame::{StreamError, next_len, read_rest};
use super::link::Lane;
use super::numbered::line::{Line, PIPELINE_DEPTH};
use super::numbered::serve::serve as answer_all;
use super::numbered::{Numbered, Payload};
use super::protocol::{ForwardAnswer, ForwardStream, Forwarded, RaftRpcProtocol};
use crate::kv::forward::{
    Acquaintance, ForwardError, ForwardHandler, ForwardReply, ForwardRequest, Forwarder,
};
use crate::kv::types::{ClusterError, NodeId, Peer, PublicKey};
use crate::limits;

type ForwardLine = Line<ForwardRequest, ForwardAnswer>;

#[async_trait]
impl Forwarder for Transport {
    async fn introduce(&self, peer: &Peer, timeout_ms: u64) -> Result<Acquaintance, ForwardError> {
        let node_id = peer.node_id;
        let unreachable = |reason: String| ForwardError::Unreachable { node_id, reason };
        let before = match self.book().lookup(node_id) {
            Some(_) => Acquaintance::Known,
            None => Acquaintance::New,
        };
        self.book().declare(peer.clone()).map_err(|error| unreachable(error.to_string()))?;
        let limit = Duration::from_millis(timeout_ms);
        let met = match tokio::time::timeout(limit, self.connection(node_id, Lane::Control)).await {
            Ok(Ok(_)) => Ok(before),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no connection within {timeout_ms} ms"))),
        };
        if met.is_err() && before == Acquaintance::New {
            Forwarder::forget(self, peer);
        }
        met
    }

    fn forget(&self, Peer { node_id, info }: &Peer) {
        self.book().forget(*node_id);
        if self.book().admitted(&info.public_key).is_none() {
            self.cut_off(&[info.public_key]);
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError> {
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        match &request {
            ForwardRequest::Propose(_) | ForwardRequest::ReadIndex => {
                self.forward_line(leader, until).await?.ask(request, until).await
            }
            ForwardRequest::AddLearner(_)
            | ForwardRequest::ChangeMembership(_)
            | ForwardRequest::ReportDisk { .. }
            | ForwardRequest::IssueTicket { .. }
            | ForwardRequest::RevokeTicket { .. }
            | ForwardRequest::Join(_)
            | ForwardRequest::TransferLeader(_) => self.forward_alone(leader, request, until).await,
        }
    }

    async fn greet(&self, node_id: NodeId) -> bool {
        // Within the connect timeout.
        let is_met = self.connection(node_id, Lane::Control).await.is_ok();
        if is_met {
            self.0.links.note_let_in(node_id);
        }
        is_met
    }

    fn shut_out_by(&self) -> BTreeSet<NodeId> {
        self.0.links.shut_out_by()
    }

    fn whereabouts(&self) -> Vec<Peer> {
        let members = self.book().members().into_iter();
        let heard =
            members.filter_map(|node_id| Some(Peer { node_id, info: self.book().heard_of(node_id)? }));
        heard.chain([self.own_peer()]).collect()
    }

    fn trouble(&self) -> Option<String> {
        self.what_keeps_it_from_all_others()
    }

    fn incarnation_of(&self, key: &PublicKey) -> Option<u64> {
        if *key == self.0.metadata.public_key() {
            return Some(self.0.metadata.incarnation());
        }
        self.book().incarnation_of(key)
    }
}

/// The lines to other nodes.
#[derive(Default)]
pub(super) struct ForwardLines(Mutex<HashMap<NodeId, ForwardLine>>);

impl ForwardLines {
    fn open_to(&self, node_id: NodeId) -> Option<ForwardLine> {
        self.lock().get(&node_id).filter(|line| line.is_open()).cloned()
    }

    /// The line on a connection that has just been found open, unless another task was faster.
    fn open(&self, node_id: NodeId, open: impl FnOnce() -> ForwardLine) -> ForwardLine {
        let mut lines = self.lock();
        match lines.get(&node_id).filter(|line| line.is_open()) {
            Some(line) => line.clone(),
            None => {
                let line = open();
                lines.insert(node_id, line.clone());
                line
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, ForwardLine>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Transport {
    async fn forward_line(&self, leader: NodeId, until: Instant) -> Result<ForwardLine, ForwardError> {
        if let Some(line) = self.0.forward_lines.open_to(leader) {
            return Ok(line);
        }
        let connection = self.forward_connection(leader, until).await?;
        let patience = self.0.timeouts.rpc;
        Ok(self.0.forward_lines.open(leader, || open_line(leader, connection, patience)))
    }

    async fn forward_connection(&self, leader: NodeId, until: Instant) -> Result<Connection, ForwardError> {
        let reason = match tokio::time::timeout_at(until, self.connection(leader, Lane::Forward)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        Err(ForwardError::Unreachable { node_id: leader, reason })
    }

    async fn forward_alone(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        until: Instant,
    ) -> Result<ForwardAnswer, ForwardError> {
        let connection = self.forward_connection(leader, until).await?;
        let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
        match tokio::time::timeout_at(until, client.rpc(Forwarded(request))).await {
            Ok(Ok(answer)) => Ok(answer),
            // Without a stream nothing was sent.
            Ok(Err(error @ irpc::Error::Request { .. })) => {
                Err(ForwardError::Unreachable { node_id: leader, reason: format!("{error:#}") })
            }
            Ok(Err(error)) => Err(ForwardError::NoAnswer { node_id: leader, reason: format!("{error:#}") }),
            Err(_) => Err(ForwardError::NoAnswer { node_id: leader, reason: "its time is up".to_owned() }),
        }
    }
}

/// Opens a stream on a connection to a node, within `patience`.
fn open_line(node_id: NodeId, connection: Connection, patience: Duration) -> ForwardLine {
    let opened = async move {
        let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
        client.bidi_streaming(ForwardStream, PIPELINE_DEPTH, PIPELINE_DEPTH).await
    };
    Line::open(node_id, opened, patience)
}

/// Answers what another node forwards on a stream.
pub(super) async fn serve(
    send: SendStream,
    recv: RecvStream,
    handler: &dyn ForwardHandler,
) -> Result<(), StreamError> {
    let answer = |request| handler.handle(request);
    answer_all(messages(recv), send.into(), limits::FORWARD_RUNNING_MAX_COUNT, answer).await
}

/// The messages of a stream, as a stream in the other sense: one that is half read is not dropped.
fn messages(recv: RecvStream) -> impl Stream<Item = Numbered<ForwardRequest>> {
    futures::stream::unfold(recv, |mut recv| async move {
        match next_message(&mut recv).await {
            Ok(message) => message.map(|message| (message, recv)),
            Err(error) => {
                tracing::debug!("a stream of requests broke off: {error}");
                None
            }
        }
    })
}

async fn next_message(recv: &mut RecvStream) -> Result<Option<Numbered<ForwardRequest>>, StreamError> {
    match next_len(recv, limits::WIRE_MESSAGE_MAX_BYTES).await? {
        Some(len) => Ok(Some(read_rest(recv, len).await?)),
        None => Ok(None),
    }
}

impl Payload for ForwardRequest {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Propose(proposal) => proposal.0.len(),
            _ => 0,
        }
    }
}

impl Payload for ForwardAnswer {
    fn payload_bytes(&self) -> usize {
        match self {
            Ok(ForwardReply::Proposed(reply)) => reply.payload_bytes(),
            _ => 0,
        }
    }
}
