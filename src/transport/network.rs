//! openraft's network over the transport.
//!
//! # Tiger Style
//! - A peer that cannot be reached is an error, never a granted pre-vote.
//! - A stream of appends whose answers stop coming is given up, and its connection closed.
//! - A peer is dialed for appends only once there is a request for it, which Raft holds back for the
//!   time of its backoff.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use iroh::endpoint::{Connection, VarInt};
use irpc::channel::mpsc;
use irpc_iroh::IrohRemoteConnection;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Transport;
use super::heartbeat::HeartbeatLine;
use super::link::Lane;
use super::protocol::{AppendStream, CastPreVote, CastVote, HandOver, RaftRpcProtocol};
use crate::kv::types::{NodeId, NodeInfo};
use crate::limits;
use crate::raft::traffic::{Rpc, Traffic};
use crate::raft::types::{TypeConfig, Vote};
use crate::storage::snapshot::SnapshotData;

/// Requests that may be on their way on one stream.
const PIPELINE_DEPTH: usize = 64;

/// A stream without requests ends after this time. Raft looks then whether it still has the right ones to
/// send: those that it was to begin with may be purged.
const IDLE: Duration = Duration::from_millis(limits::STREAM_IDLE_MS);

/// How often a stream looks whether it is idle or stalled, in the time after which it is. To be told of each
/// request would wake it once more a write.
const LOOKS: u32 = 4;

/// The code that a connection is closed with when its answers stop coming.
pub(super) const STALLED: u32 = 408;

pub(super) type RpcError = RPCError<TypeConfig>;
pub(super) type AppendRequest = AppendEntriesRequest<TypeConfig>;
pub(super) type AppendResult = StreamAppendResult<TypeConfig>;

/// Makes clients of other nodes for Raft.
pub struct Network(Transport);

impl Network {
    pub(super) fn new(transport: Transport) -> Self {
        Self(transport)
    }

    fn client(&self, target: NodeId, stream_lane: Lane) -> PeerClient {
        let heartbeats = (stream_lane == Lane::Control).then(HeartbeatLine::default);
        PeerClient { transport: self.0.clone(), target, heartbeats }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, _node: &NodeInfo) -> PeerClient {
        self.client(target, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &NodeInfo) -> PeerClient {
        self.client(target, Lane::Control)
    }
}

/// Raft's client of one other node.
pub struct PeerClient {
    transport: Transport,
    target: NodeId,
    /// Present if all that is appended here are heartbeats.
    heartbeats: Option<HeartbeatLine>,
}

impl PeerClient {
    async fn connect(&self, lane: Lane) -> Result<Connection, RpcError> {
        self.transport.connection(self.target, lane).await.map_err(|error| unreachable(&error))
    }

    /// One request and its answer on the control connection.
    async fn call<Res, F>(
        &self,
        rpc: Rpc,
        option: &RPCOption,
        request: impl FnOnce(irpc::Client<RaftRpcProtocol>) -> F,
    ) -> Result<Res, RpcError>
    where
        F: Future<Output = Result<Result<Res, String>, irpc::Error>>,
    {
        let attempt = Traffic::Rpc(rpc).begin();
        let called = async {
            let connection = self.connect(Lane::Control).await?;
            let client = irpc::Client::boxed(IrohRemoteConnection::new(connection.clone()));
            request(client).await.map_err(|error| unreachable(&error))
        };
        let answer = match tokio::time::timeout(option.soft_ttl(), called).await {
            Ok(Ok(answer)) => {
                answer.map_err(|reason| RpcError::Unreachable(Unreachable::from_string(reason)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let (kind, within_ms) = (rpc.name(), option.soft_ttl().as_millis());
                let reason = format!("no answer to a {kind} within {within_ms} ms");
                Err(RpcError::Unreachable(Unreachable::from_string(reason)))
            }
        };
        attempt.end(answer.is_ok());
        answer
    }

    /// One beat after the other, until one fails or is refused.
    fn beats<S>(&mut self, input: S) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        futures::stream::unfold(Some((self, input)), |state| async move {
            let (client, mut input) = state?;
            let request = input.next().await?;
            let attempt = Traffic::Rpc(Rpc::Heartbeat).begin();
            let result = client.beat(request).await;
            attempt.end(result.is_ok());
            let goes_on = matches!(result, Ok(Ok(_)));
            Some((result, goes_on.then_some((client, input))))
        })
    }

    async fn beat(&mut self, request: AppendRequest) -> Result<AppendResult, RpcError> {
        let connection = self.connect(Lane::Control).await?;
        let patience = self.transport.0.timeouts.rpc;
        let line = self.heartbeats.as_mut().expect("only a client for heartbeats beats");
        line.beat(connection, patience, request).await
    }

    async fn open_pipe<S>(&self, input: S) -> Result<AppendPipe, RpcError>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        let connection = self.connect(Lane::Append).await?;
        let stall = self.transport.0.timeouts.stall;
        let (requests, results) = open_append_stream(&connection, stall).await?;
        let sent = Arc::<AtomicU64>::default();
        let pump = AbortOnDropHandle::new(tokio::spawn(pump(input, requests, sent.clone())));
        Ok(AppendPipe { connection, results, sent, received: 0, stall, pump })
    }
}

/// Opens a stream of appends on a connection. One on which none can be opened in time is closed.
pub(super) async fn open_append_stream(
    connection: &Connection,
    patience: Duration,
) -> Result<(mpsc::Sender<AppendRequest>, mpsc::Receiver<AppendResult>), RpcError> {
    let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection.clone()));
    let opened =
        client.bidi_streaming::<_, AppendRequest, AppendResult>(AppendStream, PIPELINE_DEPTH, PIPELINE_DEPTH);
    match tokio::time::timeout(patience, opened).await {
        Ok(opened) => opened.map_err(|error| unreachable(&error)),
        Err(_) => {
            connection.close(VarInt::from_u32(STALLED), b"no stream");
            Err(broken("no stream could be opened in time"))
        }
    }
}

pub(super) fn unreachable(error: &(impl std::error::Error + 'static)) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(format!("{error:#}")))
}

/// Sends requests as they come. It counts a request before it sends it, so that an answer never comes
/// before its request is counted.
async fn pump<S>(mut input: S, requests: mpsc::Sender<AppendRequest>, sent: Arc<AtomicU64>)
where
    S: Stream<Item = AppendRequest> + Unpin,
{
    while let Some(request) = input.next().await {
        sent.fetch_add(1, Ordering::Release);
        if requests.send(request).await.is_err() {
            return;
        }
    }
}

/// An open stream of appends.
struct AppendPipe {
    connection: Connection,
    results: mpsc::Receiver<AppendResult>,
    sent: Arc<AtomicU64>,
    received: u64,
    stall: Duration,
    pump: AbortOnDropHandle<()>,
}

impl AppendPipe {
    /// The next answer; none once all requests are answered and no more will come.
    async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        // Never dropped before it is done: a message that is half read cannot be read again.
        let mut result = std::pin::pin!(self.results.recv());
        let mut look = tokio::time::interval(self.stall.min(IDLE) / LOOKS);
        // When it began to wait, and when it first saw that there is something to wait for.
        let began = Instant::now();
        let mut owed_since = None;
        loop {
            tokio::select! {
                biased;
                result = &mut result => {
                    return match result {
                        Ok(Some(result)) => {
                            self.received += 1;
                            Some(Ok(result))
                        }
                        Ok(None) if self.sent.load(Ordering::Acquire) == self.received => None,
                        Ok(None) => Some(Err(broken("the peer ended the stream"))),
                        Err(error) => Some(Err(unreachable(&error))),
                    };
                }
                _ = look.tick() => {
                    let is_owed = self.sent.load(Ordering::Acquire) > self.received || self.pump.is_finished();
                    if !is_owed {
                        if began.elapsed() >= IDLE {
                            return None;
                        }
                    } else if owed_since.get_or_insert_with(Instant::now).elapsed() >= self.stall {
                        self.connection.close(VarInt::from_u32(STALLED), b"answers stopped coming");
                        return Some(Err(broken("answers stopped coming")));
                    }
                }
            }
        }
    }
}

pub(super) fn broken(reason: &str) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(reason))
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        // A peer that restarts is back within a second, and a dial costs little.
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(300));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> futures::future::BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        async move {
            if self.heartbeats.is_some() {
                return Ok(self.beats(input).boxed());
            }
            // Raft waits out its backoff inside the stream of requests. A peer that refuses at once would
            // be dialed without a pause if no request were asked for first.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let input = futures::stream::iter([first]).chain(input);
            let append = Traffic::Rpc(Rpc::Append);
            let pipe = self.open_pipe(input).await.inspect_err(|_| append.count(false))?;
            let results = futures::stream::unfold(Some(pipe), move |pipe| async move {
                let mut pipe = pipe?;
                let result = pipe.next().await?;
                append.count(result.is_ok());
                // A refusal or an error is the stream's last word.
                let goes_on = matches!(result, Ok(Ok(_)));
                Some((result, goes_on.then_some(pipe)))
            });
            Ok(results.boxed())
        }
        .boxed()
    }
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(Rpc::Vote, &option, |client| async move { client.rpc(CastVote(rpc)).await }).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(Rpc::PreVote, &option, |client| async move { client.rpc(CastPreVote(rpc)).await }).await
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(Rpc::TransferLeader, &option, |client| async move { client.rpc(HandOver(req)).await }).await
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let install = option.soft_ttl().max(Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS));
        let sent = super::snapshot::send(&self.transport, self.target, vote, snapshot, cancel, install).await;
        // One that is called off was not for the peer to answer.
        if !matches!(sent, Err(StreamingError::Closed(_))) {
            Traffic::Rpc(Rpc::Snapshot).count(sent.is_ok());
        }
        sent
    }
}
