//! The two interfaces that a control backend implements and that the HTTP API consumes.

use async_trait::async_trait;

use super::backup::BackupStream;
use super::types::{
    AgentError, AgentReply, AgentRequest, BackupOrigin, ClusterError, ClusterId, ClusterStatus, Command,
    KvError, MembershipChange, MembershipChanged, NodeId, NodeView, OutstandingTicket, Peer, ReadReply,
    ReadRequest, SecretHash, TicketId, WriteReply,
};

/// Forms the cluster and changes who belongs to it. Every call ends within
/// [`crate::limits::MEMBERSHIP_TIMEOUT_MS`], or fails with a [`ClusterError`] that says who refused and why.
#[async_trait]
pub trait ClusterController: Send + Sync + 'static {
    /// Makes a new cluster of this node alone. Others join it as learners.
    async fn init(&self) -> Result<ClusterStatus, ClusterError>;

    /// Adds a node without a vote and waits until it has caught up.
    async fn add_learner(&self, peer: Peer) -> Result<MembershipChanged, ClusterError>;

    /// Has tickets with this secret taken for a while, by so many nodes. Returns when they expire, in
    /// milliseconds of the Unix epoch.
    async fn issue_ticket(&self, hash: SecretHash, ttl_ms: u64, uses: u32) -> Result<u64, ClusterError>;

    /// The tickets that nodes can still come in with.
    async fn tickets(&self) -> Result<Vec<OutstandingTicket>, ClusterError>;

    /// Has a ticket taken no more. Who has come in with it stays.
    async fn revoke_ticket(&self, id: TicketId) -> Result<(), ClusterError>;

    /// Has a new node take a member's place, in one step: it is added, catches up, gets the vote that the
    /// other one had, and that one is removed.
    async fn replace(&self, old: NodeId, new: Peer) -> Result<MembershipChanged, ClusterError>;

    /// Hands the leadership over, to a certain voter or to the best, and says who leads then.
    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClusterError>;

    /// Changes voters and members.
    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, ClusterError>;

    /// The cluster as this node sees it, at once and without asking others.
    fn status(&self) -> ClusterStatus;

    /// The cluster that this node belongs to, once it does, on a backend that gives clusters an id. As long as
    /// the process lives it is never another one.
    fn cluster_id(&self) -> Option<ClusterId>;
}

/// Single nodes, from any of them, through an agent on each. Agents have no part in reads and writes.
#[async_trait]
pub trait NodeAgents: Send + Sync + 'static {
    /// All members, each by its own word; within [`crate::limits::AGENT_REPORT_TIMEOUT_MS`], whatever has
    /// become of them.
    async fn overview(&self) -> Vec<NodeView>;

    /// Has the agent of a member do something, within a time that fits what it is.
    ///
    /// # Errors
    /// [`AgentError`]: the node is no member, cannot be reached, or refuses.
    async fn ask(&self, node_id: NodeId, request: AgentRequest) -> Result<AgentReply, AgentError>;
}

/// Reads and writes. Every member takes every call; each ends within
/// [`crate::limits::REQUEST_TIMEOUT_MS`].
#[async_trait]
pub trait KeyValueStore: Send + Sync + 'static {
    /// Runs a command once a quorum has it on disk.
    ///
    /// # Errors
    /// [`KvError`]. Only [`KvError::OutcomeUnknown`], [`KvError::Stopping`] and [`KvError::Storage`] leave open
    /// whether it took effect.
    async fn write(&self, command: Command) -> Result<WriteReply, KvError>;

    /// Reads a range.
    ///
    /// # Errors
    /// [`KvError`], where a bound is broken, the revision is out of reach, or no quorum confirms the leader.
    async fn read(&self, request: ReadRequest) -> Result<ReadReply, KvError>;

    /// Begins a backup of a state that has every write that was acknowledged before the call. The stream
    /// ends early where one of its pieces is not taken within
    /// [`crate::limits::BACKUP_PIECE_TIMEOUT_MS`].
    ///
    /// # Errors
    /// [`KvError`], where no quorum confirms the leader, or as many backups are under way as may be.
    async fn backup(&self, origin: BackupOrigin) -> Result<BackupStream, KvError>;
}
