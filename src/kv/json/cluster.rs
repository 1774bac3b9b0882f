//! Health, membership and peers. `GET /cluster`, `POST /init` and the replies about membership are
//! the types of [`crate::kv::types`] as they are.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::kv::types::{
    ClusterId, ClusterStatus, DiskState, MembershipChange, NodeId, NodeState, OutstandingTicket, PublicKey,
    Role, TicketId,
};
use crate::limits;

/// The code of an answer to a request that was meant for another cluster.
pub const OTHER_CLUSTER: &str = "other_cluster";

/// What to do about it.
pub const OTHER_CLUSTER_ACTION: &str = "name the nodes of the cluster that is meant: one that lost its data directory may have founded a new and empty cluster at its old address. If this cluster is meant, as after `aspen-node recover`, ask for its id, or start the client again";

/// `GET /health`: whether this node serves, and the cluster as it sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthForm {
    /// Whether it takes reads and writes.
    pub healthy: bool,
    /// What it can do.
    pub state: NodeState,
    /// The state in a sentence.
    pub detail: String,
    /// The answering node.
    pub node_id: NodeId,
    /// Its cluster, once it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// Its part.
    pub role: Role,
    /// The leader that it follows, or itself.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// The store's revision on this node.
    pub revision: u64,
    /// How many members vote.
    pub voters: usize,
    /// How many members do not.
    pub learners: usize,
    /// How its disk is. Absent in the answer of a node that does not watch it.
    #[serde(default)]
    pub disk: Option<DiskState>,
}

impl From<&ClusterStatus> for HealthForm {
    fn from(status: &ClusterStatus) -> Self {
        let learners = status.members.iter().filter(|member| member.role == Role::Learner).count();
        Self {
            healthy: status.state == NodeState::Serving,
            state: status.state,
            detail: status.detail.clone(),
            node_id: status.node_id,
            cluster_id: status.cluster_id,
            role: status.role,
            leader: status.leader,
            term: status.term,
            revision: status.revision.0,
            voters: status.members.len() - learners,
            learners,
            disk: status.disk.map(|disk| disk.state),
        }
    }
}

/// `POST /add-learner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLearnerForm {
    /// The new node's ticket.
    pub ticket: String,
}

/// `POST /change-membership`: voters, removals or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMembershipForm {
    /// The voters afterwards; absent: they stay, less those that are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<BTreeSet<NodeId>>,
    /// Members that leave the cluster.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<NodeId>,
    /// Do it although too few of the voters afterwards would answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// `POST /replace-member`: a new node takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceMemberForm {
    /// The member that goes.
    pub node_id: NodeId,
    /// The new node's ticket.
    pub ticket: String,
}

/// `POST /transfer-leader` and `POST /nodes/{id}/transfer-leader`: who shall lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeaderForm {
    /// A voter; absent: the one whose log is longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

/// The answer to `POST /transfer-leader`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderForm {
    /// Who leads now.
    pub leader: NodeId,
}

impl From<ChangeMembershipForm> for MembershipChange {
    fn from(form: ChangeMembershipForm) -> Self {
        Self { voters: form.voters, remove: form.remove, force: form.force }
    }
}

/// `POST /tickets`: a ticket for nodes that shall come into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTicketForm {
    /// Seconds until it expires.
    #[serde(default = "default_ttl_s")]
    pub ttl_s: u64,
    /// How many nodes may come in with it.
    #[serde(default = "default_uses")]
    pub uses: u32,
}

fn default_ttl_s() -> u64 {
    limits::JOIN_TICKET_TTL_DEFAULT_S
}

fn default_uses() -> u32 {
    1
}

/// `GET /tickets`: those that nodes can still come in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketsForm {
    /// The tickets, without their secrets.
    pub tickets: Vec<OutstandingTicket>,
}

/// The answer to `DELETE /tickets/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedForm {
    /// The ticket that is taken no more.
    pub revoked: TicketId,
}

/// The answer to `POST /tickets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTicket {
    /// Its id, by which it is listed and revoked.
    pub id: TicketId,
    /// The ticket, which is a secret.
    pub ticket: String,
    /// When it expires, in milliseconds of the Unix epoch.
    pub expires_at_ms: u64,
    /// How many nodes may come in with it.
    pub uses: u32,
}

/// How a node is connected to a peer right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// A connection stands.
    Connected,
    /// One is being set up.
    Connecting,
    /// There is none.
    None,
}

/// A node that the answering one knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Its id.
    pub node_id: NodeId,
    /// Its key.
    pub public_key: PublicKey,
    /// Where its iroh endpoint was reachable last.
    pub addresses: Vec<SocketAddr>,
    /// The relay that it can be reached through.
    pub relay_url: Option<String>,
    /// Where its HTTP API listens.
    pub http_addr: Option<SocketAddr>,
    /// How it is connected.
    pub connection: Connection,
    /// Why the last attempt to connect failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// `GET /peers`, and the answer to `POST /peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersForm {
    /// The answering node's own ticket, current addresses included.
    pub ticket: String,
    /// The nodes that it knows of, without itself.
    pub peers: Vec<KnownPeer>,
}

/// `POST /peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPeersForm {
    /// Tickets of nodes to know of.
    pub peers: Vec<String>,
}

/// `POST /nodes/{id}/log-filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilterForm {
    /// What shall be logged; absent: what the node was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}
