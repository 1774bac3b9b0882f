//! Forms the cluster and changes its members.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use super::named::Named;
use crate::kv::json::{
    AddLearnerForm, ChangeMembershipForm, LeaderForm, NewTicket, NewTicketForm, ReplaceMemberForm,
    RevokedForm, TicketsForm, TransferLeaderForm,
};
use crate::kv::types::{ClusterError, ClusterOverview, ClusterStatus, KvError, MembershipChanged, TicketId};
use crate::limits;

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

/// Makes a ticket for nodes that shall come in.
pub(super) async fn new_ticket(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<NewTicketForm>,
) -> Result<Json<NewTicket>, ApiError> {
    let NewTicketForm { ttl_s, uses } = body.value;
    let within = |name, given: u64, max: u64| {
        if (1..=max).contains(&given) { Ok(()) } else { Err(ApiError::OutOfBounds { name, given, max }) }
    };
    within("ttl_s", ttl_s, limits::JOIN_TICKET_TTL_MAX_S)?;
    within("uses", uses.into(), limits::JOIN_TICKET_USES_MAX_COUNT.into())?;
    let (ticket, hash) = shared.api.peers.draw_join_ticket().ok_or(KvError::NotInitialized)?;
    let expires_at_ms = shared.api.cluster.issue_ticket(hash, ttl_s * 1_000, uses).await?;
    Ok(Json(NewTicket { id: TicketId::of(&hash), ticket, expires_at_ms, uses }))
}

/// The tickets that nodes can still come in with.
pub(super) async fn tickets(State(shared): State<Arc<Shared>>) -> Result<Json<TicketsForm>, ApiError> {
    Ok(Json(TicketsForm { tickets: shared.api.cluster.tickets().await? }))
}

/// Has a ticket taken no more.
pub(super) async fn revoke_ticket(
    State(shared): State<Arc<Shared>>,
    Named(id): Named,
) -> Result<Json<RevokedForm>, ApiError> {
    let revoked: TicketId = id.parse()?;
    shared.api.cluster.revoke_ticket(revoked).await?;
    Ok(Json(RevokedForm { revoked }))
}

/// Puts a new node, by its ticket, in a member's place.
pub(super) async fn replace_member(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<ReplaceMemberForm>,
) -> Result<Json<MembershipChanged>, ApiError> {
    let new = shared.api.peers.parse_ticket(&body.value.ticket)?;
    Ok(Json(shared.api.cluster.replace(body.value.node_id, new).await?))
}

/// Has another voter lead.
pub(super) async fn transfer_leader(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<TransferLeaderForm>,
) -> Result<Json<LeaderForm>, ApiError> {
    let leader = shared.api.cluster.transfer_leader(body.value.to).await?;
    Ok(Json(LeaderForm { leader }))
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

/// The cluster as this node sees it, and each member by its own word.
pub(super) async fn cluster(State(shared): State<Arc<Shared>>) -> Json<ClusterOverview> {
    let nodes = shared.api.agents.overview().await;
    Json(ClusterOverview { status: shared.api.cluster.status(), nodes })
}
