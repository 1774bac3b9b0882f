//! Founding a cluster with the nodes that the configuration names: what the founders ask each other, and
//! when one may vote for another that has no log yet.
//!
//! # Tiger Style
//! - A node without a log votes only in the cluster that it agreed to found. A node that lost its disk has
//!   agreed to nothing, so it cannot elect a leader that lacks what was acknowledged.
//! - A node agrees only if it has no log, and both sides name the same founders.

use std::time::Duration;

use iroh::endpoint::Connection;
use irpc_iroh::IrohRemoteConnection;
use serde::{Deserialize, Serialize};

use super::Transport;
use super::link::Lane;
use super::protocol::{AgreeToFounding, AskFounding, RaftRpcProtocol};
use super::ticket::public_key;
use crate::kv::types::{ClusterId, Founders, Founding, NodeId, Peer};
use crate::raft::{RaftHandle, observe};

/// How a node stands to founding a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingView {
    /// Whom it is to found a cluster with, if it is to found one.
    pub founders: Option<Founders>,
    /// The cluster that it belongs to.
    pub cluster_id: Option<ClusterId>,
    /// The cluster that it agreed to found last.
    pub agreed: Option<ClusterId>,
    /// Whether it has a log: then a cluster has been founded.
    pub has_log: bool,
    /// Drawn when its data directory was made.
    pub incarnation: u64,
}

/// Why a node does not agree to a founding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FoundingRefusal {
    /// It founds nothing, or with others.
    #[error("it is to found a cluster with other nodes, or with none")]
    OtherFounders,
    /// It has a log.
    #[error("it has a log already")]
    HasLog,
    /// It belongs to another cluster.
    #[error("it belongs to cluster {0}")]
    OtherCluster(ClusterId),
    /// It was started on another directory since it was asked.
    #[error("it has another data directory by now")]
    OtherIncarnation,
    /// Somebody else than the first founder asks.
    #[error("node {0} founds, and no other")]
    NotFirst(NodeId),
    /// It could not be written down.
    #[error("it could not write it down: {0}")]
    NotNoted(String),
}

impl Transport {
    /// How this node stands to founding a cluster.
    pub async fn founding_view(&self, raft: &RaftHandle) -> FoundingView {
        let metadata = &self.0.metadata;
        FoundingView {
            founders: self.0.founders.clone(),
            cluster_id: metadata.cluster_id(),
            agreed: metadata.founding().map(|founding| founding.cluster_id),
            // A node whose Raft has stopped must not pass for a new one.
            has_log: raft.is_initialized().await.unwrap_or(true),
            incarnation: metadata.incarnation(),
        }
    }

    /// Asks another node the same.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask_founding(&self, node_id: NodeId) -> Result<FoundingView, String> {
        self.to_founder(node_id, async |client| client.rpc(AskFounding).await).await
    }

    /// Has another node agree to a founding.
    ///
    /// # Errors
    /// Why there is no answer, or why it does not.
    pub async fn propose_founding(&self, node_id: NodeId, founding: &Founding) -> Result<(), String> {
        let request = AgreeToFounding(founding.clone());
        let answer = self.to_founder(node_id, async |client| client.rpc(request).await).await?;
        answer.map_err(|refusal| refusal.to_string())
    }

    async fn to_founder<T>(
        &self,
        node_id: NodeId,
        ask: impl AsyncFnOnce(irpc::Client<RaftRpcProtocol>) -> Result<T, irpc::Error>,
    ) -> Result<T, String> {
        let connection = self.connection(node_id, Lane::Control).await.map_err(|error| error.to_string())?;
        let client = irpc::Client::boxed(IrohRemoteConnection::new(connection));
        // It includes a write to the disk.
        let limit: Duration = self.0.timeouts.stall;
        match tokio::time::timeout(limit, ask(client)).await {
            Ok(answer) => answer.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
        }
    }

    /// Closes the connections to a founder: it learns of the cluster by the hello of the next one.
    pub fn meet_anew(&self, founder: &Peer) {
        self.0.links.close_all_of(founder.info.public_key, b"a cluster was founded");
    }

    /// Decides on a founding that the first founder proposes.
    pub(super) async fn agree_to_founding(
        &self,
        connection: &Connection,
        raft: &RaftHandle,
        founding: Founding,
    ) -> Result<(), FoundingRefusal> {
        let FoundingView { founders, cluster_id, has_log, incarnation, .. } = self.founding_view(raft).await;
        let founders = founders.filter(|founders| *founders == founding.founders);
        let first = founders.ok_or(FoundingRefusal::OtherFounders)?.first();
        if self.0.book.admitted(&public_key(&connection.remote_id())) != Some(first) {
            return Err(FoundingRefusal::NotFirst(first));
        }
        if has_log {
            return Err(FoundingRefusal::HasLog);
        }
        if let Some(other) = cluster_id.filter(|own| *own != founding.cluster_id) {
            return Err(FoundingRefusal::OtherCluster(other));
        }
        if founding.incarnations.get(&self.node_id()) != Some(&incarnation) {
            return Err(FoundingRefusal::OtherIncarnation);
        }
        let metadata = self.0.metadata.clone();
        let agreed = tokio::task::spawn_blocking(move || metadata.agree_to(&founding)).await;
        let agreed = agreed.map_err(|error| FoundingRefusal::NotNoted(error.to_string()))?;
        agreed.map_err(|error| FoundingRefusal::NotNoted(error.to_string()))
    }

    /// Whether this node has a say in who leads. One without a log would grant anybody anything, also where
    /// it lost its disk and with it what it has acknowledged.
    pub(super) fn ensure_may_vote(&self, raft: &RaftHandle) -> Result<(), String> {
        if observe::look(raft, observe::is_initialized) {
            return Ok(());
        }
        // The note stands in the directory that would hold the log: neither was lost.
        let (agreed, belongs) = (self.0.metadata.founding(), self.0.metadata.cluster_id());
        if agreed.is_some_and(|agreed| belongs.is_none_or(|cluster_id| cluster_id == agreed.cluster_id)) {
            return Ok(());
        }
        Err(format!("node {} has no log of this cluster, so it has no say in who leads it", self.node_id()))
    }
}
