//! The cluster as this node sees it, in figures and in a sentence.

use std::time::Duration;

use super::KvService;
use super::founding::FoundingProgress;
use openraft::Instant;

use crate::kv::types::{ClusterStatus, DiskState, DiskStatus, Member, NodeId, NodeInfo, NodeState, Role};
use crate::raft::membership;
use crate::raft::observe::{self, Metrics, Route};
use crate::storage::metadata::Metadata;

pub(super) fn status(
    service: &KvService,
    metadata: &Metadata,
    founding: Option<&FoundingProgress>,
) -> ClusterStatus {
    let parts = &service.0.parts;
    let metrics = observe::metrics(&parts.raft);
    let now = std::time::Instant::now();
    let disk = parts.disk.status(now);
    let (mut state, mut detail) = state(service, &metrics);
    if service.is_removed() && state != NodeState::Stopping {
        state = NodeState::Removed;
        detail = format!(
            "node {} was removed from the cluster: stop it, and let the machine join on an empty data directory",
            metrics.id
        );
    }
    if let (NodeState::WaitingForInit, Some(progress)) = (state, founding) {
        detail = progress.sentence();
    }
    if let Some(time) = parts.disk.hanging(now)
        && matches!(state, NodeState::Serving | NodeState::NoLeader | NodeState::Recovering)
    {
        state = NodeState::DiskStalled;
        detail = format!("{detail}, but its disk has not finished a write for {} ms", time.as_millis());
    }
    if matches!(disk.state, DiskState::Full | DiskState::Exhausted) {
        detail.push_str(&full(&disk));
    }
    if let Some(trouble) = parts.forwarder.trouble()
        && !matches!(state, NodeState::Removed | NodeState::Stopping)
    {
        detail = format!("{detail}; {trouble}");
    }
    // It takes no entries, so it would answer with what is older than the read.
    if disk.state == DiskState::Exhausted
        && state == NodeState::Serving
        && observe::role(&metrics) != Role::Leader
    {
        state = NodeState::DiskExhausted;
    }
    ClusterStatus {
        node_id: metrics.id,
        cluster_id: metadata.cluster_id(),
        state,
        detail,
        role: observe::role(&metrics),
        term: metrics.current_term,
        leader: metrics.current_leader,
        revision: parts.reader.revision(),
        compacted_revision: parts.reader.compacted_revision(),
        last_log_index: metrics.last_log_index,
        committed_index: metrics.cluster_committed.as_ref().map(|log_id| log_id.index()),
        applied_index: parts.reader.applied_index(),
        snapshot_index: metrics.snapshot.as_ref().map(|log_id| log_id.index()),
        purged_index: metrics.purged.as_ref().map(|log_id| log_id.index()),
        disk: Some(disk),
        members: members(&metrics),
    }
}

fn full(disk: &DiskStatus) -> String {
    format!(
        "; its disk is full ({} bytes are free, {} are kept in reserve), so it takes no writes that add data: make room, or delete keys and compact the history",
        disk.free_bytes.unwrap_or(0),
        disk.reserve_bytes.unwrap_or(0)
    )
}

fn state(service: &KvService, metrics: &Metrics) -> (NodeState, String) {
    let timings = &service.0.parts.timings;
    match observe::route(metrics, timings) {
        Route::Stopped(reason) => (NodeState::Stopping, format!("Raft has stopped: {reason}")),
        Route::NotInitialized => (
            NodeState::WaitingForInit,
            format!(
                "node {} belongs to no cluster yet: run `aspen init` here to start one, or `aspen member add-learner` with this node's ticket on a member",
                metrics.id
            ),
        ),
        Route::NoLeader(reason) => (
            NodeState::NoLeader,
            format!("{reason}; waiting for a majority of the voters to reach each other"),
        ),
        Route::Local | Route::Remote(_) if !service.is_recovered() => {
            (NodeState::Recovering, "the node replays its log after a start".to_owned())
        }
        Route::Local => {
            (NodeState::Serving, format!("node {} leads in term {}", metrics.id, metrics.current_term))
        }
        Route::Remote(leader) => following(service, metrics, leader),
    }
}

/// A follower keeps naming its last leader until there is a new one, so its silence is what tells.
fn following(service: &KvService, metrics: &Metrics, leader: NodeId) -> (NodeState, String) {
    let silent_after = Duration::from_millis(service.0.parts.timings.quorum_lost_after_ms());
    match service.0.parts.freshness.last_heard() {
        Some(silent) if silent > silent_after => {
            (NodeState::NoLeader, format!("leader {leader} has been silent for {} ms", silent.as_millis()))
        }
        _ => (
            NodeState::Serving,
            format!("node {} follows {leader} in term {}", metrics.id, metrics.current_term),
        ),
    }
}

fn members(metrics: &Metrics) -> Vec<Member> {
    let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
    let mut members: Vec<Member> = metrics
        .membership_config
        .nodes()
        .map(|(node_id, info)| member(metrics, &voters, *node_id, info))
        .collect();
    members.sort_by_key(|member| member.node_id);
    members
}

fn member(metrics: &Metrics, voters: &[NodeId], node_id: NodeId, info: &NodeInfo) -> Member {
    let role = if metrics.current_leader == Some(node_id) {
        Role::Leader
    } else if voters.contains(&node_id) {
        Role::Follower
    } else {
        Role::Learner
    };
    let matched_index = membership::matched_index(metrics, node_id);
    // A leader does not hear from itself.
    let last_heard_ms = metrics
        .heartbeat
        .as_ref()
        .filter(|_| node_id != metrics.id)
        .and_then(|heartbeat| heartbeat.get(&node_id))
        .and_then(|heard| heard.as_ref())
        .and_then(|heard| u64::try_from(Instant::elapsed(&**heard).as_millis()).ok());
    let NodeInfo { public_key, addresses, relay_url, http_addr } = info.clone();
    Member {
        node_id,
        role,
        public_key: Some(public_key),
        addresses,
        relay_url,
        http_addr,
        backend: None,
        matched_index,
        last_heard_ms,
    }
}
