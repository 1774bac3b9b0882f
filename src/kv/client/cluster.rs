//! The cluster over HTTP: status, membership, peers.
//!
//! Operations that form or change a cluster are sent again only while it is certain that no node has
//! begun them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::request::{Call, Deadline, Repeat};
use super::{ClientError, Effect, KvClient, to_json};
use crate::kv::json::{
    AddLearnerForm, AddPeersForm, ChangeMembershipForm, HealthForm, LeaderForm, NewTicket, NewTicketForm,
    PeersForm, ReplaceMemberForm, RevokedForm, TicketsForm, TransferLeaderForm,
};
use crate::kv::types::{
    ClusterOverview, ClusterStatus, MembershipChange, MembershipChanged, NodeId, OutstandingTicket, TicketId,
};
use crate::limits;

impl KvClient {
    /// The cluster as the answering node sees it.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all calls.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        self.look("/cluster", None).await
    }

    /// The cluster as the answering node sees it, and each member by its own word.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn overview(&self) -> Result<ClusterOverview, ClientError> {
        self.look("/cluster", None).await
    }

    /// Whether the answering node serves. A node that does not is no error.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<HealthForm, ClientError> {
        self.look("/health", Some(StatusCode::SERVICE_UNAVAILABLE)).await
    }

    /// The answering node's ticket, and the nodes that it knows of.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn peers(&self) -> Result<PeersForm, ClientError> {
        self.look("/peers", None).await
    }

    /// Makes the answering node know of others.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_peers(&self, tickets: Vec<String>) -> Result<PeersForm, ClientError> {
        let body = to_json(&AddPeersForm { peers: tickets });
        let deadline = Deadline::after(self.inner.timeout);
        self.inner.http.call(&Call::new(Method::POST, "/peers", body, Repeat::Freely, deadline)).await
    }

    /// Makes a new cluster of the answering node: give the client one address, or another node may be the one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn init(&self) -> Result<ClusterStatus, ClientError> {
        let deadline = Deadline::after(self.inner.slow_timeout);
        let call = Call::new(Method::POST, "/init", Bytes::new(), Repeat::Never, deadline);
        let attempt_timeout = Duration::from_millis(limits::CLIENT_SLOW_ATTEMPT_TIMEOUT_MS);
        // The cluster gets its id only now.
        let of_any_cluster = true;
        let call = Call { attempt_timeout, effect: Effect::Change, of_any_cluster, ..call };
        self.inner.http.call(&call).await
    }

    /// Adds a node without a vote and waits until it has caught up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_learner(&self, ticket: impl Into<String>) -> Result<MembershipChanged, ClientError> {
        self.change("/add-learner", to_json(&AddLearnerForm { ticket: ticket.into() })).await
    }

    /// Makes a ticket with which new nodes come in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn new_ticket(&self, ttl_s: u64, uses: u32) -> Result<NewTicket, ClientError> {
        self.change("/tickets", to_json(&NewTicketForm { ttl_s, uses })).await
    }

    /// The tickets that nodes can still come in with.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tickets(&self) -> Result<Vec<OutstandingTicket>, ClientError> {
        let TicketsForm { tickets } = self.look("/tickets", None).await?;
        Ok(tickets)
    }

    /// Has a ticket taken no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_ticket(&self, id: TicketId) -> Result<(), ClientError> {
        let deadline = Deadline::after(self.inner.timeout);
        // Sent again after a first one that took effect, it would be told that there is no such ticket.
        let path = format!("/tickets/{id}");
        let call = Call::new(Method::DELETE, path, Bytes::new(), Repeat::Never, deadline);
        let RevokedForm { .. } = self.inner.http.call(&Call { effect: Effect::Change, ..call }).await?;
        Ok(())
    }

    /// Has a new node, by its ticket, take a member's place.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn replace_member(
        &self,
        node_id: NodeId,
        ticket: impl Into<String>,
    ) -> Result<MembershipChanged, ClientError> {
        self.change("/replace-member", to_json(&ReplaceMemberForm { node_id, ticket: ticket.into() })).await
    }

    /// Hands the leadership over, to a certain voter or to the best, and says who leads then.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        let LeaderForm { leader } =
            self.change("/transfer-leader", to_json(&TransferLeaderForm { to })).await?;
        Ok(leader)
    }

    /// Sets the voters, removes members, or both.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<MembershipChanged, ClientError> {
        let MembershipChange { voters, remove, force } = change;
        self.change("/change-membership", to_json(&ChangeMembershipForm { voters, remove, force })).await
    }

    /// Makes these nodes the voters; voters that are not named become learners.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<MembershipChanged, ClientError> {
        self.change_membership(MembershipChange { voters: Some(voters), ..MembershipChange::default() }).await
    }

    pub(super) async fn look<R: DeserializeOwned>(
        &self,
        path: impl Into<Cow<'static, str>>,
        also_answer: Option<StatusCode>,
    ) -> Result<R, ClientError> {
        let deadline = Deadline::after(self.inner.timeout);
        let call = Call::new(Method::GET, path, Bytes::new(), Repeat::Freely, deadline);
        self.inner.http.call(&Call { also_answer, ..call }).await
    }

    async fn change<R: DeserializeOwned>(&self, path: &'static str, body: Bytes) -> Result<R, ClientError> {
        let deadline = Deadline::after(self.inner.slow_timeout);
        let call = Call::new(Method::POST, path, body, Repeat::Never, deadline);
        let attempt_timeout = Duration::from_millis(limits::CLIENT_SLOW_ATTEMPT_TIMEOUT_MS);
        self.inner.http.call(&Call { attempt_timeout, effect: Effect::Change, ..call }).await
    }
}
