//! How a node is, from what it knows at once: nothing here waits for a disk or another node.

use super::agent::AgentParts;
use crate::kv::types::{NodeReport, PathType, Peer, PeerPath};
use crate::transport::{PeerConnection, Transport};

pub(super) fn of(parts: &AgentParts) -> NodeReport {
    let status = parts.cluster.status();
    let mut report = NodeReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: parts.started.elapsed().as_secs(),
        state: status.state,
        detail: status.detail,
        role: status.role,
        term: status.term,
        leader: status.leader,
        revision: status.revision,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        lag_entries: 0,
        disk: status.disk,
        state_bytes: parts.reader.file_bytes().unwrap_or_default(),
        log_filter: parts.host.log_filter(),
        peers: paths(&parts.transport),
    };
    report.count_lag_from(report.committed_index);
    report
}

/// The ways to all known nodes.
pub(super) fn paths(transport: &Transport) -> Vec<PeerPath> {
    let path = |Peer { node_id, info }: Peer| {
        // The connections to one node share their path; one that was just set up may have none yet.
        let connections = transport.connections_of(info.public_key);
        let used = connections.into_iter().find(|connection| connection.path.is_some());
        let path_type = |used: &PeerConnection| match used.is_relayed {
            true => PathType::Relay,
            false => PathType::Direct,
        };
        PeerPath {
            node_id,
            path_type: used.as_ref().map(path_type),
            rtt_us: used.as_ref().and_then(|used| u64::try_from(used.rtt?.as_micros()).ok()),
            path: used.and_then(|used| used.path),
            last_error: transport.last_error(node_id),
        }
    };
    transport.book().all().into_iter().map(path).collect()
}
