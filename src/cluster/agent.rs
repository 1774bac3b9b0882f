//! The agent of a node: an actor that says how its node is and does what operators ask for.
//!
//! There is one on each node, all of them in one process group, and each can be asked from any node. It may
//! do what an operator at its node's own HTTP API may, and less: it has no way to read or write a key, or to
//! change who belongs to the cluster.
//!
//! # Tiger Style
//! - A request runs beside the mailbox, so that none waits for another; at most
//!   [`limits::AGENT_REQUESTS_MAX_COUNT`] run at a time, and further ones are refused at once.
//! - Every request ends within the time that its caller waits, less [`limits::AGENT_ANSWER_MARGIN_MS`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, pg};
use tokio::sync::Semaphore;

use super::messages::{AgentAnswer, AgentMessage, Packed};
use super::{bundle, operations, report};
use crate::kv::interface::ClusterController;
use crate::kv::service::KvService;
use crate::kv::types::{AgentError, AgentReply, AgentRequest, NodeId};
use crate::limits;
use crate::raft::RaftHandle;
use crate::storage::state::StateReader;
use crate::transport::Transport;

/// The process group of all agents. Must stay stable: nodes of different versions meet in it.
pub(super) const GROUP: &str = "aspen.agents";

/// What an agent needs of its process.
pub trait Host: Send + Sync + 'static {
    /// What is logged.
    fn log_filter(&self) -> String;

    /// Logs by another filter, or by the configured one, and returns both: the one in force now, and the
    /// one before.
    ///
    /// # Errors
    /// What is wrong with the filter.
    fn set_log_filter(&self, filter: Option<&str>) -> Result<(String, String), String>;

    /// What a support bundle tells of the process, without a secret in it.
    fn traces(&self) -> HostTraces;
}

/// What a process knows about itself.
#[derive(Clone, Debug, Default)]
pub struct HostTraces {
    /// The settings in force, as a configuration file.
    pub settings: String,
    /// All figures, as text.
    pub metrics: String,
    /// iroh's figures, as text.
    pub iroh_metrics: String,
    /// The files in the data directory, with their lengths.
    pub files: Vec<(String, u64)>,
    /// The newest warnings and errors that were logged.
    pub recent_problems: Vec<RecentProblem>,
}

/// A warning or an error that was logged.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RecentProblem {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How bad.
    pub level: String,
    /// The module.
    pub target: String,
    /// The sentence.
    pub message: String,
}

/// What an agent works with.
pub struct AgentParts {
    /// The node's Raft.
    pub raft: RaftHandle,
    /// Its service, which knows who is fit to lead.
    pub service: KvService,
    /// Its state.
    pub reader: StateReader,
    /// Its view of the cluster.
    pub cluster: Arc<dyn ClusterController>,
    /// Its ways to others.
    pub transport: Transport,
    /// Its process.
    pub host: Arc<dyn Host>,
    /// When the process started.
    pub started: Instant,
}

impl AgentParts {
    pub(super) fn node_id(&self) -> NodeId {
        self.transport.node_id()
    }
}

/// See the module.
pub struct NodeAgent;

/// The agent's state.
pub struct AgentState {
    parts: Arc<AgentParts>,
    places: Arc<Semaphore>,
}

impl NodeAgent {
    /// Starts the agent of this node.
    ///
    /// # Errors
    /// If the actor system refuses.
    pub async fn start(parts: Arc<AgentParts>) -> Result<ActorRef<AgentMessage>, ractor::SpawnErr> {
        // Without a name: a name is known to other nodes, where it may be taken.
        Ok(Actor::spawn(None, Self, parts).await?.0)
    }
}

impl Actor for NodeAgent {
    type Msg = AgentMessage;
    type State = AgentState;
    type Arguments = Arc<AgentParts>;

    async fn pre_start(
        &self,
        myself: ActorRef<AgentMessage>,
        parts: Arc<AgentParts>,
    ) -> Result<AgentState, ActorProcessingErr> {
        pg::join(GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(AgentState { parts, places: Arc::new(Semaphore::new(limits::AGENT_REQUESTS_MAX_COUNT)) })
    }

    async fn handle(
        &self,
        _: ActorRef<AgentMessage>,
        AgentMessage::Ask(Packed(request), reply): AgentMessage,
        state: &mut AgentState,
    ) -> Result<(), ActorProcessingErr> {
        let node_id = state.parts.node_id();
        let refusal = match (&request, state.places.clone().try_acquire_owned()) {
            (Err(error), _) => not_understood(node_id, error.to_string()),
            (_, Err(_)) => AgentError::Busy { node_id, in_work: limits::AGENT_REQUESTS_MAX_COUNT },
            (Ok(request), Ok(place)) => {
                let (parts, request) = (state.parts.clone(), request.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let answer = answer(&parts, request).await;
                    if reply.send(Packed::new(answer)).is_err() {
                        tracing::debug!("nobody waits for an answer of the agent any more");
                    }
                });
                return Ok(());
            }
        };
        reply.send(Packed::new(Err(refusal))).ok();
        Ok(())
    }
}

/// The error of a node of this version about a message of another one.
pub(super) fn not_understood(node_id: NodeId, reason: String) -> AgentError {
    AgentError::NotUnderstood { node_id, version: env!("CARGO_PKG_VERSION").to_owned(), reason }
}

/// How long a caller waits for the answer to a request.
pub(super) fn patience(request: &AgentRequest) -> Duration {
    Duration::from_millis(match request {
        AgentRequest::Report => limits::AGENT_REPORT_TIMEOUT_MS,
        AgentRequest::Elect
        | AgentRequest::TransferLeader { .. }
        | AgentRequest::SetLogFilter { .. }
        | AgentRequest::SupportBundle => limits::AGENT_CALL_TIMEOUT_MS,
        AgentRequest::Snapshot | AgentRequest::CompactFiles => limits::AGENT_SLOW_CALL_TIMEOUT_MS,
    })
}

async fn answer(parts: &Arc<AgentParts>, request: AgentRequest) -> AgentAnswer {
    let node_id = parts.node_id();
    if !matches!(request, AgentRequest::Report) {
        tracing::info!("an operator asks node {node_id}: {request:?}");
    }
    let bound = patience(&request).saturating_sub(Duration::from_millis(limits::AGENT_ANSWER_MARGIN_MS));
    match request {
        AgentRequest::Report => Ok(AgentReply::Report(Box::new(report::of(parts)))),
        AgentRequest::Snapshot => operations::snapshot(parts, bound).await.map(AgentReply::Snapshot),
        AgentRequest::CompactFiles => {
            operations::compact_files(parts, bound).await.map(AgentReply::CompactFiles)
        }
        AgentRequest::Elect => operations::elect(parts, bound).await.map(AgentReply::Elect),
        AgentRequest::TransferLeader { to } => {
            operations::transfer_leader(parts, to, bound).await.map(AgentReply::TransferLeader)
        }
        AgentRequest::SetLogFilter { filter } => {
            operations::set_log_filter(parts, filter.as_deref()).map(AgentReply::SetLogFilter)
        }
        AgentRequest::SupportBundle => bundle::of(parts).await.map(AgentReply::SupportBundle),
    }
}
