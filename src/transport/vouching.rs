//! Learning from the members that this node knows who else belongs to the cluster, and where they are.
//!
//! A node that was away does not know who joined meanwhile: its own log will tell, but if a newcomer leads
//! now, it is the newcomer who sends that log, and would never be let in. So when somebody unknown calls,
//! or is to be called, the known members are asked. What they say counts until the own log is as new. It
//! only ever lets somebody in; whom a member's word would shut out stays.
//!
//! They are asked as well when a node does not answer where it was: of two nodes that have moved, each has
//! told those that stayed. What they answer is only a place to look: who is there shows by its key.
//!
//! # Tiger Style
//! - Only those are asked, and believed, who are let in themselves.
//! - Strangers and lost nodes cause one round of questions in [`limits::VOUCHING_INTERVAL_MS`], however
//!   many they are.

use std::collections::BTreeMap;
use std::time::Duration;

use irpc_iroh::IrohRemoteConnection;
use serde::{Deserialize, Serialize};

use super::Transport;
use super::link::Lane;
use super::protocol::{AskMembers, RaftRpcProtocol};
use crate::kv::types::{NodeId, NodeInfo, Peer};
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
    /// Asks whenever there is a reason to. It never ends.
    pub async fn ask_members(&self) {
        loop {
            self.book().members_are_to_be_asked().await;
            self.ask_who_belongs().await;
            tokio::time::sleep(Duration::from_millis(limits::VOUCHING_INTERVAL_MS)).await;
        }
    }

    /// A membership with what its nodes have said since about where they are.
    pub(super) fn members_where_they_are(&self, membership: &StoredMembership) -> Members {
        let mut members = Members::of(membership);
        for (node_id, info) in &mut members.nodes {
            let heard = match *node_id == self.node_id() {
                true => Some(self.own_peer().info),
                false => self.book().heard_of(*node_id),
            };
            if let Some(heard) = heard.filter(|heard| heard.public_key == info.public_key) {
                *info = heard;
            }
        }
        members
    }

    /// Asks all members once that can be reached as far as is known. Those that do not answer in time are
    /// left out.
    async fn ask_who_belongs(&self) {
        let limit = self.0.timeouts.connect + self.0.timeouts.rpc;
        let is_lost = |peer: &Peer| {
            self.last_error(peer.node_id).is_some() && self.connections_of(peer.info.public_key).is_empty()
        };
        let members = self.book().members().into_iter();
        let members = members.filter(|node_id| self.book().lookup(*node_id).is_some_and(|it| !is_lost(&it)));
        let answers = members.map(|node_id| async move {
            match tokio::time::timeout(limit, self.ask_members_of(node_id)).await {
                Ok(Some(members)) => {
                    let places: Vec<NodeInfo> = members.nodes.values().cloned().collect();
                    self.book().vouched(node_id, members);
                    for info in places {
                        self.book().told_of(&info.public_key, info.addresses);
                    }
                }
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
