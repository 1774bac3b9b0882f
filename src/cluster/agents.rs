//! The agents of all members, as one node calls them.
//!
//! # Tiger Style
//! - A call ends within the time for its kind of request; calls to different nodes never wait for each other.
//! - At most [`limits::AGENT_CALLS_MAX_COUNT`] calls are under way to one node; further ones are refused at
//!   once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ractor::rpc::CallResult;
use ractor::{ActorId, ActorRef, pg};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::agent::{GROUP, not_understood, patience};
use super::messages::{AgentAnswer, AgentMessage, Packed};
use super::sessions::{Lost, Sessions};
use crate::kv::clock::now_ms;
use crate::kv::interface::{ClusterController, NodeAgents};
use crate::kv::types::{AgentError, AgentReply, AgentRequest, NodeId, NodeReport, NodeView};
use crate::limits;
use crate::transport::Transport;

/// See the module.
pub struct Agents {
    own: ActorRef<AgentMessage>,
    sessions: Sessions,
    transport: Transport,
    cluster: Arc<dyn ClusterController>,
    calls: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
}

impl Agents {
    /// Calls the own agent, and others through the sessions with their nodes.
    pub fn new(
        own: ActorRef<AgentMessage>,
        sessions: Sessions,
        transport: Transport,
        cluster: Arc<dyn ClusterController>,
    ) -> Self {
        Self { own, sessions, transport, cluster, calls: Mutex::default() }
    }

    /// The agent of a node, if there is a way to it.
    fn agent(&self, node_id: NodeId) -> Result<ActorRef<AgentMessage>, Lost> {
        if node_id == self.transport.node_id() {
            return Ok(self.own.clone());
        }
        let mut lost = self.sessions.lost(node_id);
        let Some(session) = self.sessions.with(node_id) else {
            // What the transport has to say is nearer to the cause.
            lost.reason = self.transport.last_error(node_id).unwrap_or(lost.reason);
            return Err(lost);
        };
        let is_there = |id: ActorId| matches!(id, ActorId::Remote { node_id, .. } if node_id == session);
        let agent = pg::get_members(&GROUP.to_owned()).into_iter().find(|agent| is_there(agent.get_id()));
        agent.map(ActorRef::from).ok_or_else(|| {
            lost.reason = "no agent runs on it".to_owned();
            lost
        })
    }

    /// A place among the calls to a node.
    fn place(&self, node_id: NodeId) -> Option<OwnedSemaphorePermit> {
        let mut calls = self.calls.lock().expect("no code panics while it holds this lock");
        let places =
            calls.entry(node_id).or_insert_with(|| Arc::new(Semaphore::new(limits::AGENT_CALLS_MAX_COUNT)));
        places.clone().try_acquire_owned().ok()
    }

    async fn call(&self, node_id: NodeId, request: AgentRequest) -> AgentAnswer {
        let agent = self.agent(node_id).map_err(|Lost { since_ms, reason }| {
            self.sessions.note_lost(node_id, since_ms, &reason);
            AgentError::Unreachable { node_id, since_ms, reason }
        })?;
        let in_work = limits::AGENT_CALLS_MAX_COUNT;
        let _place = self.place(node_id).ok_or(AgentError::Busy { node_id, in_work })?;
        let (began_ms, limit) = (now_ms(), patience(&request));
        let is_report = request == AgentRequest::Report;
        let ask = |reply| AgentMessage::Ask(Packed::new(request), reply);
        let waited_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        match agent.call(ask, Some(limit)).await {
            Ok(CallResult::Success(Packed(Ok(answer)))) => {
                self.sessions.note_reached(node_id);
                answer
            }
            Ok(CallResult::Success(Packed(Err(error)))) => Err(not_understood(node_id, error.to_string())),
            // Also if the session ended meanwhile.
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => {
                // What takes long may take longer, and its node be well.
                if is_report {
                    self.sessions.note_lost(node_id, began_ms, "it gave no answer in time");
                }
                Err(AgentError::NoAnswer { node_id, waited_ms })
            }
        }
    }

    async fn view(&self, node_id: NodeId) -> NodeView {
        let answer = self.call(node_id, AgentRequest::Report).await;
        let (since_ms, reason) = match answer {
            Ok(AgentReply::Report(report)) => {
                let (unreachable_since_ms, reason, report) = (None, None, Some(*report));
                return NodeView { node_id, reachable: true, unreachable_since_ms, reason, report };
            }
            Ok(_) => (self.sessions.lost(node_id).since_ms, "it answered something else".to_owned()),
            Err(AgentError::Unreachable { since_ms, reason, .. }) => (since_ms, reason),
            Err(AgentError::NoAnswer { .. }) => {
                let lost = self.sessions.lost(node_id);
                (lost.since_ms, lost.reason)
            }
            // It is there, but does not say how it is.
            Err(error) => {
                let (unreachable_since_ms, reason) = (None, Some(error.to_string()));
                return NodeView { node_id, reachable: true, unreachable_since_ms, reason, report: None };
            }
        };
        let (unreachable_since_ms, reason) = (Some(since_ms), Some(reason));
        NodeView { node_id, reachable: false, unreachable_since_ms, reason, report: None }
    }

    fn is_member(&self, node_id: NodeId) -> bool {
        // A node without a cluster can be asked about itself.
        node_id == self.transport.node_id()
            || self.cluster.status().members.iter().any(|member| member.node_id == node_id)
    }
}

#[async_trait]
impl NodeAgents for Agents {
    async fn overview(&self) -> Vec<NodeView> {
        let members = self.cluster.status().members;
        let views = members.iter().map(|member| self.view(member.node_id));
        let mut views = futures::future::join_all(views).await;
        let reports =
            |views: &[NodeView]| views.iter().filter_map(|view| view.report.as_ref()?.committed_index).max();
        let committed = reports(&views);
        for report in views.iter_mut().filter_map(|view| view.report.as_mut()) {
            NodeReport::count_lag_from(report, committed);
        }
        views
    }

    async fn ask(&self, node_id: NodeId, request: AgentRequest) -> Result<AgentReply, AgentError> {
        if !self.is_member(node_id) {
            return Err(AgentError::NotAMember { node_id });
        }
        self.call(node_id, request).await
    }
}
