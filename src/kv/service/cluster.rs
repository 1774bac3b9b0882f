//! Forming the cluster and changing its members: the first control backend's other half.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::founding::FoundingProgress;
use super::{Inner, KvService, stopping};
use crate::kv::clock::now_ms;
use crate::kv::forward::{ForwardReply, ForwardRequest};
use crate::kv::interface::ClusterController;
use crate::kv::types::{
    ClusterError, ClusterId, ClusterStatus, KvError, MembershipChange, MembershipChanged, NodeId,
    OutstandingTicket, Peer, SecretHash, TicketId,
};
use crate::limits;
use crate::raft::membership;
use crate::raft::observe::{self, Metrics};
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

    /// The same on a node that makes no cluster by itself: it founds one with others, or was let into one.
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

    /// The membership in which a change of unknown outcome is made, if that can be told within the bound.
    async fn made(&self, change: &MembershipChange, bound: Duration) -> Option<MembershipChanged> {
        let raft = &self.inner().parts.raft;
        let known = || observe::look(raft, membership::current);
        if self.service.is_removed() {
            // The leader cuts a node off as soon as it is no member, before there is an answer. Whether any other
            // part of the change was made cannot be known here.
            let own = BTreeSet::from([self.service.node_id()]);
            let is_all = change.voters.is_none() && change.remove == own;
            return is_all.then(|| known().without(&own));
        }
        tokio::time::timeout(bound, self.service.await_linearizable()).await.ok()?.ok()?;
        let known = known();
        let is_gone = |node_id| !known.voters.contains(node_id) && !known.learners.contains(node_id);
        let votes = |voters: &BTreeSet<NodeId>| known.voters.iter().eq(voters.difference(&change.remove));
        let is_made = change.remove.iter().all(is_gone) && change.voters.as_ref().is_none_or(votes);
        is_made.then_some(known)
    }
}

#[async_trait]
impl ClusterController for RaftCluster {
    async fn init(&self) -> Result<ClusterStatus, ClusterError> {
        if let Some(progress) = &self.founding
            && !observe::is_initialized(&observe::metrics(&self.inner().parts.raft))
        {
            return Err(ClusterError::MakesNoCluster { waits_for: progress.sentence() });
        }
        self.found(self.metadata.cluster_id().unwrap_or_else(ClusterId::random), Vec::new()).await?;
        // It leads once its first entry is committed; an answer before that would invite a failure. If that takes
        // too long there is a cluster all the same, whose status says what it waits for: a refusal would be taken
        // for a word that there is none.
        if let Err(error) = self.service.await_linearizable().await {
            tracing::warn!("the cluster is made, and does not serve yet: {error}");
            return Ok(self.status());
        }
        // Before anybody votes with it: the first directory of the first member.
        self.service.note_incarnations().await;
        Ok(self.status())
    }

    async fn add_learner(&self, peer: Peer) -> Result<MembershipChanged, ClusterError> {
        self.change(ForwardRequest::AddLearner(peer)).await
    }

    async fn issue_ticket(&self, hash: SecretHash, ttl_ms: u64, uses: u32) -> Result<u64, ClusterError> {
        let request = ForwardRequest::IssueTicket { hash, ttl_ms, uses };
        // To issue the same again changes nothing.
        let repeatable = true;
        match self.service.lead_or_forward(request, repeatable, limits::REQUEST_TIMEOUT_MS).await? {
            ForwardReply::TicketIssued { expires_at_ms } => Ok(expires_at_ms),
            other => panic!("a ticket was answered with {other:?}"),
        }
    }

    async fn tickets(&self) -> Result<Vec<OutstandingTicket>, ClusterError> {
        // One that was just revoked, on whichever member, is not shown.
        self.service.await_linearizable().await?;
        let tickets = self.inner().parts.reader.outstanding_tickets(now_ms());
        tickets.map_err(|error| KvError::Storage { reason: error.to_string() }.into())
    }

    async fn revoke_ticket(&self, id: TicketId) -> Result<(), ClusterError> {
        if !self.tickets().await?.iter().any(|ticket| ticket.id == id) {
            return Err(ClusterError::UnknownTicket { id });
        }
        let request = ForwardRequest::RevokeTicket { id };
        // To revoke it again changes nothing.
        let repeatable = true;
        match self.service.lead_or_forward(request, repeatable, limits::REQUEST_TIMEOUT_MS).await? {
            ForwardReply::TicketRevoked => Ok(()),
            other => panic!("the revocation of a ticket was answered with {other:?}"),
        }
    }

    async fn replace(&self, old: NodeId, new: Peer) -> Result<MembershipChanged, ClusterError> {
        let new_id = new.node_id;
        // What this node knows of the voters must be the newest there is: the change names all of them.
        self.service.await_linearizable().await?;
        let look = |metrics: &Metrics| {
            let membership = &metrics.membership_config;
            let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
            (membership.get_node(&old).is_some(), voters)
        };
        let (is_member, voters) = observe::look(&self.inner().parts.raft, look);
        if !is_member || old == new_id {
            return Err(ClusterError::UnknownNode { node_id: old });
        }
        self.add_learner(new).await?;
        let votes = voters.contains(&old);
        let new_voters = voters.into_iter().filter(|voter| *voter != old).chain([new_id]).collect();
        let voters = votes.then_some(new_voters);
        let change = MembershipChange { voters, remove: BTreeSet::from([old]), force: false };
        self.change_membership(change).await
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClusterError> {
        let raft = &self.inner().parts.raft;
        let before = observe::look(raft, |metrics| metrics.current_leader);
        let request = ForwardRequest::TransferLeader(to);
        let asked = self.service.lead_or_forward(request, to.is_some(), limits::MEMBERSHIP_TIMEOUT_MS).await;
        match asked {
            Ok(ForwardReply::Leads { node_id }) => Ok(node_id),
            Ok(other) => panic!("a transfer of the leadership was answered with {other:?}"),
            // The old leader is deposed before its answer is here; what was asked for has happened then.
            Err(ClusterError::Kv(KvError::OutcomeUnknown { .. })) => {
                let taken = |metrics: &Metrics| metrics.current_leader.is_some_and(|now| Some(now) != before);
                let bound = Duration::from_millis(self.inner().parts.timings.quorum_lost_after_ms());
                let waited = raft.wait(Some(bound)).metrics(taken, "another node leads").await;
                let leader = waited.ok().and_then(|metrics| metrics.current_leader);
                leader.ok_or_else(|| KvError::OutcomeUnknown { waited_ms: limits::REQUEST_TIMEOUT_MS }.into())
            }
            Err(error) => Err(error),
        }
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, ClusterError> {
        let (began, bound) = (Instant::now(), Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS));
        let changed = self.change(ForwardRequest::ChangeMembership(change.clone())).await;
        if let Err(ClusterError::Kv(KvError::OutcomeUnknown { .. })) = &changed
            && let Some(made) = self.made(&change, bound.saturating_sub(began.elapsed())).await
        {
            return Ok(made);
        }
        changed
    }

    fn status(&self) -> ClusterStatus {
        super::status::status(&self.service, &self.metadata, self.founding.as_ref())
    }

    fn cluster_id(&self) -> Option<ClusterId> {
        self.metadata.cluster_id()
    }
}
