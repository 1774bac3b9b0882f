//! The messages between nodes. Encoded with postcard; fields and variants are only ever added at the
//! end, and the ALPN's number grows when that is not enough.

use bytes::Bytes;
use irpc::channel::{mpsc, oneshot};
use irpc::rpc_requests;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::founding::{FoundingRefusal, FoundingView};
use super::numbered::Numbered;
use super::vouching::Members;
use crate::kv::forward::{ForwardReply, ForwardRequest};
use crate::kv::types::{ClusterError, ClusterId, Founding, NodeId, NodeInfo};
use crate::raft::types::{SnapshotMeta, TypeConfig, Vote};

/// Raft's messages and forwarded requests.
pub(super) const ALPN_RAFT: &[u8] = b"aspen/raft/1";
/// Snapshots, on connections of their own.
pub(super) const ALPN_SNAPSHOT: &[u8] = b"aspen/snapshot/1";
/// Requests of clients, which are no nodes.
pub(super) const ALPN_CLIENT: &[u8] = b"aspen/client/1";
/// Strangers that come with a ticket.
pub(super) const ALPN_JOIN: &[u8] = b"aspen/join/1";
/// Calls between the actors of members.
pub(super) const ALPN_ACTOR: &[u8] = b"aspen/actor/1";
/// All that this node answers.
pub(super) const ALPNS: [&[u8]; 5] = [ALPN_RAFT, ALPN_SNAPSHOT, ALPN_CLIENT, ALPN_JOIN, ALPN_ACTOR];

/// The first request on every connection.
#[rpc_requests(message = HelloMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum HelloProtocol {
    /// Who calls whom.
    #[rpc(tx = oneshot::Sender<Result<Welcome, Refusal>>)]
    Hello(Hello),
}

/// Who calls whom, in which cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The caller.
    pub node_id: NodeId,
    /// Whom it believes to call.
    pub target: NodeId,
    /// The caller's cluster, if it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// The caller's key and addresses of the moment.
    pub info: NodeInfo,
    /// Drawn when the caller's process started.
    pub boot: u64,
    /// Drawn when the caller's data directory was made.
    pub incarnation: u64,
}

/// The answer of a node that lets the caller in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// The answering node.
    pub node_id: NodeId,
    /// Its cluster, if it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// Its key and addresses of the moment.
    pub info: NodeInfo,
    /// Drawn when its data directory was made.
    pub incarnation: u64,
}

/// Why a hello was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(super) enum Refusal {
    #[error("this is node {own}, not node {asked}")]
    NotMe { own: NodeId, asked: NodeId },
    #[error("the caller's key belongs to node {known}, but it calls itself node {claimed}")]
    NotYou { known: NodeId, claimed: NodeId },
    #[error("this node belongs to cluster {own}, the caller to cluster {theirs}")]
    OtherCluster { own: ClusterId, theirs: ClusterId },
    #[error("the caller's key is not known here")]
    Unknown,
    #[error("this node could not note the cluster's id: {0}")]
    NotNoted(String),
    #[error(
        "connections of the caller's former process, or to where it was, were in the way; they are closed now"
    )]
    Restarted,
    #[error("this node belongs to no cluster yet, the caller looks for cluster {0}")]
    NoCluster(ClusterId),
    #[error(
        "node {node_id} has another data directory than the cluster knows it by: what it has voted for and acknowledged is lost, so it must not come back under this id. Remove it (`aspen member remove {node_id}`), then let it join with a ticket on an empty directory (`aspen ticket new`, `aspen-node --join`)"
    )]
    OtherIncarnation { node_id: NodeId },
}

/// Raft's messages, and what followers forward.
#[rpc_requests(message = RaftRpcMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RaftRpcProtocol {
    /// A stream of append-entries, answered in order.
    #[rpc(tx = mpsc::Sender<StreamAppendResult<TypeConfig>>, rx = mpsc::Receiver<AppendEntriesRequest<TypeConfig>>)]
    Append(AppendStream),
    /// A request for a vote.
    #[rpc(tx = oneshot::Sender<Result<VoteResponse<TypeConfig>, String>>)]
    Vote(CastVote),
    /// A question whether a vote would be granted.
    #[rpc(tx = oneshot::Sender<Result<VoteResponse<TypeConfig>, String>>)]
    PreVote(CastPreVote),
    /// The leader hands over.
    #[rpc(tx = oneshot::Sender<Result<TransferLeaderResponse<TypeConfig>, String>>)]
    TransferLeader(HandOver),
    /// A request that only the leader can serve.
    #[rpc(tx = oneshot::Sender<ForwardAnswer>)]
    Forward(Forwarded),
    /// Who belongs to the cluster.
    #[rpc(tx = oneshot::Sender<Members>)]
    Members(AskMembers),
    /// A stream of requests that only the leader can serve, each answered when it is served.
    #[rpc(tx = mpsc::Sender<Numbered<ForwardAnswer>>, rx = mpsc::Receiver<Numbered<ForwardRequest>>)]
    ForwardMany(ForwardStream),
    /// How a node stands to founding a cluster.
    #[rpc(tx = oneshot::Sender<FoundingView>)]
    AskFounding(AskFounding),
    /// A founding to agree to.
    #[rpc(tx = oneshot::Sender<Result<(), FoundingRefusal>>)]
    AgreeToFounding(AgreeToFounding),
}

/// Opens a stream of append-entries.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AppendStream;

/// A request for a vote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CastVote(pub VoteRequest<TypeConfig>);

/// A question whether a vote would be granted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CastPreVote(pub VoteRequest<TypeConfig>);

/// The leader hands over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandOver(pub TransferLeaderRequest<TypeConfig>);

/// A request that only the leader can serve.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Forwarded(pub ForwardRequest);

/// Opens a stream of forwarded requests.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ForwardStream;

/// What the leader says to a forwarded request.
pub(super) type ForwardAnswer = Result<ForwardReply, ClusterError>;

/// A question who belongs to the cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AskMembers;

/// A question how a node stands to founding a cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AskFounding;

/// A founding to agree to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AgreeToFounding(pub Founding);

/// Snapshots.
#[rpc_requests(message = SnapshotRpcMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SnapshotRpcProtocol {
    /// A whole snapshot, in pieces.
    #[rpc(tx = oneshot::Sender<Result<SnapshotResponse<TypeConfig>, String>>, rx = mpsc::Receiver<Bytes>)]
    Install(InstallSnapshot),
}

/// What comes before the pieces of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InstallSnapshot {
    /// The leader's vote.
    pub vote: Vote,
    /// What the snapshot holds.
    pub meta: SnapshotMeta,
    /// How many bytes follow.
    pub len: u64,
}
