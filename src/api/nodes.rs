//! Single nodes, each through its agent, whichever node is asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use super::named::Named;
use crate::kv::json::{LogFilterForm, TransferLeaderForm};
use crate::kv::types::{
    AgentError, AgentReply, AgentRequest, Election, FilesCompacted, LogFilterSet, NodeId, NodeReport,
    SnapshotMade,
};

/// How a node is.
pub(super) async fn report(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<NodeReport>, ApiError> {
    let take = |reply| if let AgentReply::Report(report) = reply { Ok(*report) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::Report, take).await
}

/// Makes a snapshot. The body, if any, is not looked at; so for the next two.
pub(super) async fn snapshot(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<SnapshotMade>, ApiError> {
    let take = |reply| if let AgentReply::Snapshot(made) = reply { Ok(made) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::Snapshot, take).await
}

/// Copies the state into a smaller file.
pub(super) async fn compact_files(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<FilesCompacted>, ApiError> {
    let take = |reply| if let AgentReply::CompactFiles(done) = reply { Ok(done) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::CompactFiles, take).await
}

/// Has a node stand for election.
pub(super) async fn elect(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<Election>, ApiError> {
    let take = |reply| if let AgentReply::Elect(election) = reply { Ok(election) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::Elect, take).await
}

/// Has a node hand the leadership over.
pub(super) async fn transfer_leader(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
    body: JsonBody<TransferLeaderForm>,
) -> Result<Json<Election>, ApiError> {
    let take = |reply| if let AgentReply::TransferLeader(moved) = reply { Ok(moved) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::TransferLeader { to: body.value.to }, take).await
}

/// Has a node log by another filter.
pub(super) async fn set_log_filter(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
    body: JsonBody<LogFilterForm>,
) -> Result<Json<LogFilterSet>, ApiError> {
    let take = |reply| if let AgentReply::SetLogFilter(set) = reply { Ok(set) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::SetLogFilter { filter: body.value.filter }, take).await
}

/// All that somebody needs who is to find out what is wrong.
pub(super) async fn support_bundle(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<Value>, ApiError> {
    let take = |reply| if let AgentReply::SupportBundle(bundle) = reply { Ok(bundle) } else { Err(reply) };
    ask(&shared, &id, AgentRequest::SupportBundle, take).await
}

/// Asks a node's agent, and takes the reply that the request has.
async fn ask<T>(
    shared: &Shared,
    id: &str,
    request: AgentRequest,
    take: impl FnOnce(AgentReply) -> Result<T, AgentReply>,
) -> Result<Json<T>, ApiError> {
    let node_id: NodeId = id.parse()?;
    let reply = shared.api.agents.ask(node_id, request).await?;
    let taken = take(reply).map_err(|_| AgentError::NotUnderstood {
        node_id,
        version: "another".to_owned(),
        reason: "its answer belongs to another request".to_owned(),
    })?;
    Ok(Json(taken))
}
