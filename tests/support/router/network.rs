//! openraft's network over the fabric. Appends are streamed, as they are over the real transport.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen::kv::types::{NodeId, NodeInfo};
use aspen::raft::types::{TypeConfig, Vote};
use aspen::raft::{RaftHandle, installation, observe};
use aspen::storage::snapshot::SnapshotData;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::errors::{Fatal, NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fabric::{Door, Fabric};
use super::faults::Failure;
use super::rpc::{Message, Rpc};

type RpcError = RPCError<TypeConfig>;
type AppendRequest = AppendEntriesRequest<TypeConfig>;
type AppendResult = StreamAppendResult<TypeConfig>;

/// Makes clients of other nodes for one node's Raft.
pub struct RouterNetwork {
    fabric: Arc<Fabric>,
    own: NodeId,
}

impl RouterNetwork {
    pub(super) fn new(fabric: Arc<Fabric>, own: NodeId) -> Self {
        Self { fabric, own }
    }

    fn wire(&self, target: NodeId, heartbeats: bool) -> Wire {
        Wire { fabric: self.fabric.clone(), from: self.own, to: target, heartbeats }
    }
}

impl RaftNetworkFactory<TypeConfig> for RouterNetwork {
    type Network = Wire;

    async fn new_client(&mut self, target: NodeId, _node: &NodeInfo) -> Wire {
        self.wire(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &NodeInfo) -> Wire {
        self.wire(target, true)
    }
}

/// Raft's client of one other node.
#[derive(Clone)]
pub struct Wire {
    fabric: Arc<Fabric>,
    from: NodeId,
    to: NodeId,
    heartbeats: bool,
}

impl From<Failure> for RpcError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable => unreachable("the node is not there"),
            Failure::Lost => Self::Network(NetworkError::from_string("the message was lost")),
        }
    }
}

fn unreachable(reason: impl ToString) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(reason))
}

impl Wire {
    fn rpc(&self, message: Message) -> Rpc {
        Rpc { from: self.from, to: self.to, message }
    }

    /// Takes one request to the other node and its answer back.
    async fn call<T, F>(
        &self,
        message: Message,
        option: &RPCOption,
        serve: impl FnOnce(Door) -> F,
    ) -> Result<T, RpcError>
    where
        F: Future<Output = Result<T, String>>,
    {
        let rpc = self.rpc(message);
        let called = async {
            self.fabric.depart(&rpc).await?;
            let door = self.fabric.connect(self.to)?;
            self.fabric.admit(&door, &rpc)?;
            let answer = serve(door).await.map_err(unreachable)?;
            self.fabric.come_back(&rpc).await?;
            Ok(answer)
        };
        tokio::time::timeout(option.soft_ttl(), called)
            .await
            .unwrap_or_else(|_| Err(unreachable("no answer in time")))
    }
}

impl NetBackoff<TypeConfig> for Wire {
    fn backoff(&self) -> Option<Backoff> {
        // The same as over the real transport.
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(300));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl NetVote<TypeConfig> for Wire {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let serve = |door: Door| {
            let rpc = rpc.clone();
            async move { door.raft.vote(rpc).await.map_err(|error| error.to_string()) }
        };
        self.call(Message::Vote(rpc.clone()), &option, serve).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let serve = |door: Door| {
            let rpc = rpc.clone();
            async move { door.raft.pre_vote(rpc).await.map_err(|error| error.to_string()) }
        };
        self.call(Message::PreVote(rpc.clone()), &option, serve).await
    }
}

impl NetTransferLeader<TypeConfig> for Wire {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let serve = |door: Door| {
            let req = req.clone();
            async move { door.raft.handle_transfer_leader(req).await.map_err(|error| error.to_string()) }
        };
        self.call(Message::TransferLeader(req.clone()), &option, serve).await
    }
}

impl NetSnapshot<TypeConfig> for Wire {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent.map_err(StreamingError::from),
        }
    }
}

impl Wire {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: data } = snapshot;
        let rpc = self.rpc(Message::Snapshot { vote });
        self.fabric.depart(&rpc).await?;
        let door = self.fabric.connect(self.to)?;
        self.fabric.admit(&door, &rpc)?;
        let mut incoming = door.inbox.begin().map_err(unreachable)?;
        let mut pieces = std::pin::pin!(data.pieces());
        while let Some(piece) = pieces.next().await {
            self.fabric.faults().take_snapshot_piece(self.from, self.to)?;
            incoming.write(piece.map_err(unreachable)?).await.map_err(unreachable)?;
        }
        let received = incoming.finish().await.map_err(unreachable)?;
        let snapshot = SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: received };
        let answer = installation::install(&door.raft, &door.reader, vote, snapshot).await;
        let answer = answer.map_err(unreachable)?;
        self.fabric.come_back(&rpc).await?;
        Ok(answer)
    }
}

impl NetStreamAppend<TypeConfig> for Wire {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        async move {
            // Raft waits out its backoff inside the stream of requests: one that never asks for a
            // request never waits.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let door = self.fabric.connect(self.to)?;
            let flow = Arc::new(Flow::new(self.clone(), door));
            Ok(Flow::run(flow, futures::stream::iter([first]).chain(input)).boxed())
        }
        .boxed()
    }
}

/// An open stream of appends. It does not keep the other node's stores open, as its door would.
struct Flow {
    wire: Wire,
    raft: RaftHandle,
    session: u64,
    state: Mutex<FlowState>,
}

#[derive(Default)]
struct FlowState {
    /// Delivered and not answered, in order.
    pending: VecDeque<Rpc>,
    /// Why no more is sent.
    failure: Option<Failure>,
}

impl Flow {
    fn new(wire: Wire, door: Door) -> Self {
        Self { wire, raft: door.raft, session: door.session, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Sends requests as they come and returns their answers in order. Whoever drops the answers ends
    /// the requests too: Raft waits for those before it opens another stream.
    fn run<S>(self: Arc<Self>, input: S) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let closed = CancellationToken::new();
        let requests =
            futures::stream::unfold((input, self.clone(), true), |(mut input, flow, open)| async move {
                if !open {
                    return None;
                }
                let request = input.next().await?;
                match flow.send(request).await {
                    Ok((request, whole)) => Some((request, (input, flow, whole))),
                    Err(failure) => {
                        flow.state().failure = Some(failure);
                        None
                    }
                }
            });
        let requests = requests.take_until(closed.clone().cancelled_owned());
        let results = self.raft.stream_append(requests).boxed();
        answers(self, results, closed.drop_guard())
    }

    /// Takes a request to the other node. Returns what of it may go on, and whether that is all.
    async fn send(&self, mut request: AppendRequest) -> Result<(AppendRequest, bool), Failure> {
        let rpc = self.rpc(&request);
        self.wire.fabric.depart(&rpc).await?;
        let wanted = request.entries.len();
        {
            let faults = self.wire.fabric.faults();
            request.entries.retain(|entry| faults.is_within_quota(self.wire.to, entry.log_id.index));
        }
        let whole = request.entries.len() == wanted;
        let rpc = self.rpc(&request);
        let door = self.wire.fabric.connect(self.wire.to)?;
        self.wire.fabric.admit(&door, &rpc)?;
        if door.session != self.session {
            return Err(Failure::Lost);
        }
        self.state().pending.push_back(rpc);
        let vote = observe::metrics(&door.raft).vote;
        door.freshness.note(&request, &vote, door.reader.applied_index());
        Ok((request, whole))
    }

    /// Takes an answer back.
    async fn receive(&self, result: AppendResult) -> Result<AppendResult, RpcError> {
        let rpc = self.state().pending.pop_front().expect("an answer belongs to a request");
        self.wire.fabric.come_back(&rpc).await?;
        Ok(result)
    }

    fn rpc(&self, request: &AppendRequest) -> Rpc {
        self.wire.rpc(Message::Append {
            heartbeat: self.wire.heartbeats,
            vote: request.vote,
            prev: request.prev_log_id,
            entries: request.entries.iter().map(|entry| entry.log_id).collect(),
        })
    }
}

fn answers(
    flow: Arc<Flow>,
    results: BoxStream<'static, Result<AppendResult, Fatal<TypeConfig>>>,
    closed: DropGuard,
) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send {
    futures::stream::unfold(Some((flow, results, closed)), |state| async move {
        let (flow, mut results, closed) = state?;
        match results.next().await {
            Some(Ok(result)) => {
                let answer = flow.receive(result).await;
                // A refusal or an error is the stream's last word.
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some((flow, results, closed))))
            }
            Some(Err(fatal)) => Some((Err(unreachable(fatal)), None)),
            None => {
                let failure = flow.state().failure.take()?;
                Some((Err(failure.into()), None))
            }
        }
    })
}
