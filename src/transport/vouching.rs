//! Learning from the members that this node knows who else belongs to the cluster.
//!
//! A node that was away does not know who joined meanwhile: its own log will tell, but if a newcomer leads
//! now, it is the newcomer who sends that log, and would never be let in. So when somebody unknown calls,
//! or is to be called, the known members are asked. What they say counts until the own log is as new. It
//! only ever lets somebody in; whom a member's word would shut out stays.
//!
//! # Tiger Style
//! - Only those are asked, and believed, who are let in themselves.
//! - Strangers cause one round of questions in [`limits::VOUCHING_INTERVAL_MS`], however many they are.

use std::collections::BTreeMap;
use std::time::Duration;

use irpc_iroh::IrohRemoteConnection;
use serde::{Deserialize, Serialize};

use super::Transport;
use super::link::Lane;
use super::protocol::{AskMembers, RaftRpcProtocol};
use crate::kv::types::{NodeId, NodeInfo};
use crate::limits;
use crate::raft::types::{LogId, StoredMembership};

/// Who belongs to the cluster, as of an entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The entry; absent if there is no cluster yet.
    pub log_id: Option<LogId>,
    /// The nodes, with a vote or without.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
}

impl Members {
    /// Those of a membership in Raft.
    pub fn of(membership: &StoredMembership) -> Self {
        let nodes = membership.nodes().map(|(node_id, info)| (*node_id, info.clone())).collect();
        Self { log_id: *membership.log_id(), nodes }
    }
}

impl Transport {
    /// Asks whenever somebody unknown has called or was to be called. It never ends.
    pub async fn ask_about_strangers(&self) {
        loop {
            self.book().stranger_came().await;
            self.ask_who_belongs().await;
            tokio::time::sleep(Duration::from_millis(limits::VOUCHING_INTERVAL_MS)).await;
        }
    }

    /// Asks all known members once. Those that do not answer in time are left out.
    async fn ask_who_belongs(&self) {
        let limit = self.0.timeouts.connect + self.0.timeouts.rpc;
        let answers = self.book().members().into_iter().map(|node_id| async move {
            match tokio::time::timeout(limit, self.ask_members_of(node_id)).await {
                Ok(Some(members)) => self.book().vouched(node_id, members),
                Ok(None) | Err(_) => {
                    tracing::debug!(peer = %node_id, "node {node_id} did not say who belongs");
                }
            }
        });
        futures::future::join_all(answers).await;
    }

    async fn ask_members_of(&self, node_id: NodeId) -> Option<Members> {
        let connection = self.connection(node_id, Lane::Control).await.ok()?;
        let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
        client.rpc(AskMembers).await.ok()
    }
}
