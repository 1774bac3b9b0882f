//! Requests of a node's clients, carried to the leader.

use std::time::Duration;

use aspen::kv::forward::{
    Acquaintance, ForwardError, ForwardHandler, ForwardReply, ForwardRequest, Forwarder,
};
use aspen::kv::types::{ClusterError, NodeId, Peer};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{CONNECT_TIMEOUT, CallError, Handlers, Lane, Network};

/// The way from one node to other members.
pub struct SimulatedForwarder {
    own: NodeId,
    network: Network,
}

impl SimulatedForwarder {
    /// That of a node.
    pub fn new(own: NodeId, network: Network) -> Self {
        Self { own, network }
    }
}

#[async_trait]
impl Forwarder for SimulatedForwarder {
    async fn introduce(&self, peer: &Peer, _timeout_ms: u64) -> Result<Acquaintance, ForwardError> {
        let node_id = peer.node_id;
        let unreachable = |reason: &str| ForwardError::Unreachable { node_id, reason: reason.to_owned() };
        let station = self.network.station(self.own).ok_or_else(|| unreachable("off the network"))?;
        let before = if station.admits(node_id) { Acquaintance::Known } else { Acquaintance::New };
        station.declare(node_id);
        let met = self.network.connect(self.own, node_id, Lane::Control).await;
        if met.is_err() && before == Acquaintance::New {
            station.forget(node_id);
        }
        met.map(|_| before).map_err(|reason| unreachable(&reason))
    }

    fn forget(&self, peer: &Peer) {
        if let Some(station) = self.network.station(self.own) {
            station.forget(peer.node_id);
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError> {
        let limit = Duration::from_millis(timeout_ms).max(CONNECT_TIMEOUT);
        let way = (self.own, leader, Lane::Forward);
        let answer = self.network.call(way, "forward", &request, limit, serve).await;
        answer.map_err(|error| {
            let (node_id, reason) = (leader, error.to_string());
            match error {
                CallError::NotSent(_) => ForwardError::Unreachable { node_id, reason },
                CallError::NoAnswer(_) => ForwardError::NoAnswer { node_id, reason },
            }
        })
    }
}

fn serve(
    handlers: Handlers,
    request: ForwardRequest,
) -> BoxFuture<'static, Result<ForwardReply, ClusterError>> {
    async move { handlers.service.handle(request).await }.boxed()
}
