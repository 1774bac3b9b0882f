//! The life of a member, on real processes: founding, joining, leaving, being replaced, handing over.

mod founder;
mod join;
mod removal;
mod static_start;
mod transfer;

use serde_json::Value;

use crate::support::node::Node;
use crate::support::wait_until;

/// The cluster as a node sees it.
fn cluster(node: &Node) -> Value {
    node.get("/cluster").ok()
}

fn cluster_id(node: &Node) -> Option<String> {
    cluster(node)["cluster_id"].as_str().map(ToOwned::to_owned)
}

/// The ids of members for which a condition holds.
fn ids(node: &Node, holds: impl Fn(&Value) -> bool) -> Vec<u64> {
    let cluster = cluster(node);
    let members = cluster["members"].as_array().expect("members are a list");
    let ids = members.iter().filter(|member| holds(member));
    ids.map(|member| member["node_id"].as_u64().expect("an id is a number")).collect()
}

fn voters(node: &Node) -> Vec<u64> {
    ids(node, |member| member["role"] != "learner")
}

/// Waits until what the process logged last has all of the parts in one line.
fn wait_for_log(node: &Node, parts: &[&str]) {
    wait_until(&format!("node {} says {parts:?}", node.id), || {
        node.last_log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    });
}

/// Waits until the leader has not heard of a member for longer than it takes for granted.
fn wait_until_missed(leader: &Node, id: u64) {
    wait_until(&format!("the leader misses node {id}"), || {
        let cluster = cluster(leader);
        let member =
            cluster["members"].as_array().into_iter().flatten().find(|member| member["node_id"] == id);
        // A leader that was elected since has never heard of it.
        member.is_some_and(|member| member["last_heard_ms"].as_u64().is_none_or(|ms| ms > 1_000))
    });
}

fn temporary_directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}
