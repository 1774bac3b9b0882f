//! openraft's network over the simulated one.

use std::time::Duration;

use aspen::kv::types::{NodeId, NodeInfo};
use aspen::raft::traffic::Rpc;
use aspen::raft::types::{TypeConfig, Vote};
use aspen::storage::snapshot::SnapshotData;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
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
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::Serve;
use super::{CallError, Handlers, Lane, Network, STALL_TIMEOUT};

type RpcError = RPCError<TypeConfig>;
type AppendRequest = AppendEntriesRequest<TypeConfig>;
type AppendResult = StreamAppendResult<TypeConfig>;
/// What a node answers, or why its Raft could not.
type Answer<A> = Result<A, String>;

/// Makes clients of other nodes for one node's Raft.
pub struct SimulatedNetwork {
    own: NodeId,
    network: Network,
}

impl SimulatedNetwork {
    /// That of a node.
    pub fn new(own: NodeId, network: Network) -> Self {
        Self { own, network }
    }

    fn client(&self, target: NodeId, beats: bool) -> PeerClient {
        PeerClient { own: self.own, target, network: self.network.clone(), beats }
    }
}

impl RaftNetworkFactory<TypeConfig> for SimulatedNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, _node: &NodeInfo) -> PeerClient {
        self.client(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &NodeInfo) -> PeerClient {
        self.client(target, true)
    }
}

/// One node's client of another.
pub struct PeerClient {
    own: NodeId,
    target: NodeId,
    network: Network,
    /// Whether all that is appended here are heartbeats.
    beats: bool,
}

impl PeerClient {
    fn way(&self) -> (NodeId, NodeId) {
        (self.own, self.target)
    }

    async fn call<Q, A>(
        &self,
        rpc: Rpc,
        request: &Q,
        patience: Duration,
        serve: Serve<Q, Answer<A>>,
    ) -> Result<A, RpcError>
    where
        Q: Serialize + DeserializeOwned + Send + 'static,
        A: Serialize + DeserializeOwned + Send + 'static,
    {
        let way = (self.own, self.target, Lane::Control);
        let answer = self.network.call(way, rpc.name(), request, patience, serve).await;
        if matches!(answer, Err(CallError::NoAnswer(_))) {
            self.network.drop_link(self.own, self.target, Lane::Control);
        }
        let answer = answer.map_err(|error| error.to_string()).and_then(|answer| answer);
        self.network.count_rpc(self.way(), rpc, answer.as_ref().err().map(String::as_str));
        answer.map_err(|reason| unreachable(&reason))
    }

    /// One beat after the other, until one fails or is refused.
    fn beats<S>(&self, input: S) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        futures::stream::unfold(Some((self, input)), |state| async move {
            let (client, mut input) = state?;
            let request = input.next().await?;
            let result = client.call(Rpc::Heartbeat, &request, STALL_TIMEOUT, serve_beat).await;
            let goes_on = matches!(result, Ok(Ok(_)));
            Some((result, goes_on.then_some((client, input))))
        })
    }
}

fn unreachable(reason: &str) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(reason.to_owned()))
}

fn serve_beat(handlers: Handlers, request: AppendRequest) -> BoxFuture<'static, Answer<AppendResult>> {
    async move {
        let beat = futures::stream::iter([request]);
        let beat = handlers.freshness.listen(&handlers.raft, handlers.reader, beat);
        let mut results = std::pin::pin!(handlers.raft.stream_append(beat));
        match results.next().await {
            Some(Ok(result)) => Ok(result),
            Some(Err(fatal)) => Err(fatal.to_string()),
            None => Err("no result".to_owned()),
        }
    }
    .boxed()
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(300));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        async move {
            if self.beats {
                return Ok(self.beats(input).boxed());
            }
            let (network, way) = (&self.network, self.way());
            let pipe = network.open_appends(self.own, self.target, input).await.map_err(|reason| {
                network.count_rpc((self.own, self.target), Rpc::Append, Some(&reason));
                unreachable(&reason)
            })?;
            let results = futures::stream::unfold(Some(pipe), move |pipe| async move {
                let mut pipe = pipe?;
                let result = pipe.next().await?;
                network.count_rpc(way, Rpc::Append, result.as_ref().err().map(String::as_str));
                let result = result.map_err(|reason| unreachable(&reason));
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
        self.call(Rpc::Vote, &rpc, option.soft_ttl(), |handlers, rpc| {
            async move { handlers.raft.vote(rpc).await.map_err(|error| error.to_string()) }.boxed()
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(Rpc::PreVote, &rpc, option.soft_ttl(), |handlers, rpc| {
            async move { handlers.raft.pre_vote(rpc).await.map_err(|error| error.to_string()) }.boxed()
        })
        .await
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(Rpc::TransferLeader, &req, option.soft_ttl(), |handlers, req| {
            async move { handlers.raft.handle_transfer_leader(req).await.map_err(|error| error.to_string()) }
                .boxed()
        })
        .await
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = self.network.send_snapshot(self.own, self.target, vote, snapshot) => sent,
        };
        self.network.count_rpc(self.way(), Rpc::Snapshot, sent.as_ref().err().map(String::as_str));
        sent.map_err(|reason| StreamingError::Unreachable(Unreachable::from_string(reason)))
    }
}
