//! The figures of the transport, under the names that the real one exports.

use aspen::kv::types::NodeId;
use aspen::raft::traffic::{Rpc, Traffic};

use super::Network;

impl Network {
    pub(super) fn count_rpc(&self, (from, to): (NodeId, NodeId), rpc: Rpc, failure: Option<&str>) {
        if let Some(failure) = failure {
            self.0.world.note(from, format_args!("{} to n{to} failed: {failure}", rpc.name()));
        }
        self.0.world.count(Traffic::Rpc(rpc).series(failure.is_none()));
    }

    pub(super) fn count_dial(&self, is_ok: bool) {
        self.0.world.count(Traffic::Dial.series(is_ok));
    }
}
