//! Forms the cluster and changes its members.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use crate::kv::json::{AddLearnerForm, ChangeMembershipForm};
use crate::kv::types::{ClusterError, ClusterStatus, MembershipChanged};

/// Makes a new cluster of this node. The body, if any, is not looked at.
pub(super) async fn init(State(shared): State<Arc<Shared>>) -> Result<Json<ClusterStatus>, ApiError> {
    Ok(Json(shared.api.cluster.init().await?))
}

/// Adds a node by its ticket.
pub(super) async fn add_learner(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<AddLearnerForm>,
) -> Result<Json<MembershipChanged>, ApiError> {
    let peer = shared.api.peers.parse_ticket(&body.value.ticket)?;
    Ok(Json(shared.api.cluster.add_learner(peer).await?))
}

/// Sets the voters, removes members, or both.
pub(super) async fn change_membership(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<ChangeMembershipForm>,
) -> Result<Json<MembershipChanged>, ApiError> {
    let change = body.value;
    // An empty set would ask for a cluster that nobody can bring back; so would a change of nothing,
    // most likely, where the caller misspelt what it meant.
    if change.voters.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(ClusterError::NoVoters.into());
    }
    if change.voters.is_none() && change.remove.is_empty() {
        return Err(ApiError::NoChange);
    }
    Ok(Json(shared.api.cluster.change_membership(change.into()).await?))
}

/// The cluster as this node sees it.
pub(super) async fn cluster(State(shared): State<Arc<Shared>>) -> Json<ClusterStatus> {
    Json(shared.api.cluster.status())
}
