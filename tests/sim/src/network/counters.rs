//! The figures of the transport, under the names that the real one exports.

use aspen::kv::types::NodeId;

use super::Network;

impl Network {
    pub(super) fn count_rpc(&self, (from, to): (NodeId, NodeId), kind: &'static str, failure: Option<&str>) {
        let is_ok = failure.is_none();
        if let Some(failure) = failure {
            self.0.world.note(from, format_args!("{kind} to n{to} failed: {failure}"));
        }
        let result = outcome(is_ok);
        self.0.world.count(format!("aspen_transport_rpcs_total{{kind=\"{kind}\",result=\"{result}\"}}"));
    }

    pub(super) fn count_dial(&self, is_ok: bool) {
        self.0.world.count(format!("aspen_transport_dials_total{{result=\"{}\"}}", outcome(is_ok)));
    }
}

fn outcome(is_ok: bool) -> &'static str {
    if is_ok { "ok" } else { "failed" }
}
