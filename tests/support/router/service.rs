//! The key-value service of a node, with a way to forward over the fabric.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aspen::kv::forward::{Acquaintance, ForwardError, ForwardReply, ForwardRequest, Forwarder};
use aspen::kv::service::{KvService, ServiceParts};
use aspen::kv::types::{ClusterError, NodeId, Peer};
use aspen::raft::RaftHandle;
use aspen::raft::actor::{RaftActor, RaftMessage};
use aspen::raft::construct::RaftTimings;
use aspen::raft::operations::Operations;
use aspen::storage::pressure::Pressure;
use aspen::storage::space::Space;
use aspen::storage::state::StateReader;
use async_trait::async_trait;
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::fabric::Fabric;
use super::rpc::{Message, Rpc};

/// A running service.
pub(super) struct Served {
    pub(super) service: KvService,
    actor: ActorRef<RaftMessage>,
    actor_task: JoinHandle<()>,
    _recovery: AbortOnDropHandle<()>,
}

impl Served {
    pub(super) async fn start(
        fabric: &Arc<Fabric>,
        node_id: NodeId,
        raft: &RaftHandle,
        reader: &StateReader,
        timings: RaftTimings,
    ) -> Self {
        let (actor, actor_task) =
            Actor::spawn(None, RaftActor, raft.clone()).await.expect("the actor of Raft starts");
        let door = fabric.door_of(node_id).expect("the node is attached");
        let service = KvService::new(ServiceParts {
            raft: raft.clone(),
            operations: Operations::of(actor.clone()),
            reader: reader.clone(),
            timings,
            forwarder: Arc::new(FabricForwarder { fabric: fabric.clone(), own: node_id }),
            freshness: door.freshness,
            disk: Arc::new(Pressure::new(Arc::new(Space::endless()), Arc::default(), reader.clone())),
        });
        fabric.serve_forwarded(node_id, Arc::new(service.clone()));
        let recovering = service.clone();
        let recovery = AbortOnDropHandle::new(tokio::spawn(async move { recovering.recover().await }));
        Self { service, actor, actor_task, _recovery: recovery }
    }

    pub(super) async fn stop(self) {
        self.actor.stop(None);
        self.actor_task.await.expect("the actor of Raft ends");
    }
}

/// Forwards requests over the fabric.
struct FabricForwarder {
    fabric: Arc<Fabric>,
    own: NodeId,
}

#[async_trait]
impl Forwarder for FabricForwarder {
    async fn introduce(&self, peer: &Peer, _timeout_ms: u64) -> Result<Acquaintance, ForwardError> {
        let node_id = peer.node_id;
        let met = self.fabric.connect(node_id);
        let met = met.map(|_| Acquaintance::New);
        met.map_err(|failure| ForwardError::Unreachable { node_id, reason: format!("{failure:?}") })
    }

    fn forget(&self, peer: &Peer) {
        self.fabric.recorder().let_go.push(peer.node_id);
    }

    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError> {
        let unreachable =
            |failure| ForwardError::Unreachable { node_id: leader, reason: format!("{failure:?}") };
        let no_answer = |reason: String| ForwardError::NoAnswer { node_id: leader, reason };

        let rpc = Rpc { from: self.own, to: leader, message: Message::Forward };
        self.fabric.depart(&rpc).await.map_err(unreachable)?;
        let door = self.fabric.connect(leader).map_err(unreachable)?;
        self.fabric.admit(&door, &rpc).map_err(unreachable)?;
        let handler = door.forward.ok_or_else(|| no_answer("the node has no service".to_owned()))?;
        let bound = Duration::from_millis(timeout_ms);
        let answer = tokio::time::timeout(bound, handler.handle(request)).await;
        let answer = answer.map_err(|_| no_answer(format!("nothing within {timeout_ms} ms")))?;
        self.fabric.come_back(&rpc).await.map_err(|failure| no_answer(format!("{failure:?}")))?;
        Ok(answer)
    }

    fn shut_out_by(&self) -> BTreeSet<NodeId> {
        let is_shut_out = self.fabric.faults().is_shut_out(self.own);
        self.fabric.ids().into_iter().filter(|id| is_shut_out && *id != self.own).collect()
    }
}
