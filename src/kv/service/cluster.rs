//! Forming the cluster and changing its members: the first control backend's other half.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::founding::FoundingProgress;
use super::{Inner, KvService, stopping};
use crate::kv::forward::{ForwardReply, ForwardRequest};
use crate::kv::interface::ClusterController;
use crate::kv::types::{
    ClusterError, ClusterId, ClusterStatus, KvError, MembershipChange, MembershipChanged, Peer,
};
use crate::limits;
use crate::raft::observe;
use crate::raft::operations::Unanswered;
use crate::raft::runtime;
use crate::storage::metadata::Metadata;

/// What this node says about itself to others, with its addresses of the moment.
pub type OwnPeer = Arc<dyn Fn() -> Peer + Send + Sync>;

/// Forms the cluster and changes its members, over Raft.
pub struct RaftCluster {
    service: KvService,
    metadata: Metadata,
    own: OwnPeer,
    founding: Option<FoundingProgress>,
}

impl RaftCluster {
    /// Joins the parts.
    pub fn new(service: KvService, metadata: Metadata, own: OwnPeer) -> Self {
        Self { service, metadata, own, founding: None }
    }

    /// The same on a node that founds its cluster with others, by its configuration.
    #[must_use]
    pub fn founding(self, progress: FoundingProgress) -> Self {
        Self { founding: Some(progress), ..self }
    }

    /// Founds a cluster of this node and of others, all of them voters, who have agreed to it.
    ///
    /// # Errors
    /// Where the node belongs to a cluster already, or the id could not be written down.
    pub async fn found(&self, cluster_id: ClusterId, others: Vec<Peer>) -> Result<(), ClusterError> {
        let own = (self.own)();
        let inner = self.inner();
        if observe::is_initialized(&observe::metrics(&inner.parts.raft)) {
            return Err(ClusterError::AlreadyInitialized { node_id: own.node_id });
        }
        // The id is on disk before the cluster exists. After a crash in between, it is used again.
        let metadata = self.metadata.clone();
        let adopted = runtime::blocking(move || metadata.adopt_cluster_id(cluster_id)).await;
        let storage = |reason: String| KvError::Storage { reason };
        adopted.map_err(|error| storage(error.to_string()))?.map_err(|error| storage(error.to_string()))?;
        let bound = Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
        match inner.parts.operations.init(own, others, bound).await {
            Ok(outcome) => outcome?,
            Err(Unanswered::Lost) => {
                return Err(KvError::OutcomeUnknown { waited_ms: limits::REQUEST_TIMEOUT_MS }.into());
            }
            Err(Unanswered::Stopping(reason)) => return Err(stopping(&reason).into()),
        }
        // Raft's metrics tell a moment later.
        let initialized = inner.parts.raft.wait(Some(bound));
        let initialized = initialized.metrics(observe::is_initialized, "the node belongs to a cluster").await;
        initialized.map_err(|_| KvError::OutcomeUnknown { waited_ms: limits::REQUEST_TIMEOUT_MS })?;
        Ok(())
    }

    fn inner(&self) -> &Inner {
        &self.service.0
    }

    async fn change(&self, request: ForwardRequest) -> Result<MembershipChanged, ClusterError> {
        // Both operations say what shall be, so doing one again changes nothing.
        let repeatable = true;
        match self.service.lead_or_forward(request, repeatable, limits::MEMBERSHIP_TIMEOUT_MS).await? {
            ForwardReply::Membership(changed) => Ok(changed),
            other => panic!("a change of the membership was answered with {other:?}"),
        }
    }
}

#[async_trait]
impl ClusterController for RaftCluster {
    async fn init(&self) -> Result<ClusterStatus, ClusterError> {
        if let Some(progress) = &self.founding
            && !observe::is_initialized(&observe::metrics(&self.inner().parts.raft))
        {
            return Err(ClusterError::FoundedByConfiguration { waits_for: progress.sentence() });
        }
        self.found(self.metadata.cluster_id().unwrap_or_else(ClusterId::random), Vec::new()).await?;
        // It leads once its first entry is committed; an answer before that would invite a failure.
        self.service.await_linearizable().await?;
        Ok(self.status())
    }

    async fn add_learner(&self, peer: Peer) -> Result<MembershipChanged, ClusterError> {
        self.change(ForwardRequest::AddLearner(peer)).await
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, ClusterError> {
        self.change(ForwardRequest::ChangeMembership(change)).await
    }

    fn status(&self) -> ClusterStatus {
        super::status::status(&self.service, &self.metadata, self.founding.as_ref())
    }
}
