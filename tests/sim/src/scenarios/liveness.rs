//! What every scenario ends with: without faults the cluster serves, and all replicas become equal.

use std::time::Duration;

use aspen::kv::types::{Command, Key, NodeId, Value};

use crate::network::{CLIENTS, ClientReply, ClientRequest};
use crate::scenario::Run;
use crate::world::Violation;

const POLL: Duration = Duration::from_millis(50);

/// Waits until a write through each member succeeds.
pub async fn serves_everywhere(run: &Run, bound: Duration) -> Result<(), Violation> {
    run.cluster.world().milestone(CLIENTS, "all faults are over: the cluster must serve");
    let mut waiting: Vec<NodeId> = run.cluster.members().into_iter().collect();
    let served = async {
        loop {
            // A membership that was not known to be committed before may be now.
            if waiting.is_empty() && !run.cluster.members().is_empty() {
                return;
            }
            let mut left = Vec::new();
            for node in std::mem::take(&mut waiting) {
                if !serves(run, node).await {
                    left.push(node);
                }
            }
            waiting = left;
            madsim::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(bound, served).await.is_ok() {
        return Ok(());
    }
    let what = "the cluster does not serve although nothing is wrong";
    let expected = format!("a write through each member within {} s", bound.as_secs());
    Err(Violation::new("liveness", what, expected, format!("not through {waiting:?}; {}", standing(run))))
}

async fn serves(run: &Run, node: NodeId) -> bool {
    let key = Key::new(format!("live/{node}").into_bytes()).expect("the key is short");
    let value = Value::new(u64::MAX.to_be_bytes().to_vec()).expect("the value is short");
    let request = ClientRequest::Write(Command::put(key, value));
    let asked = run.cluster.network().ask(node, &request, Duration::from_millis(6_000)).await;
    matches!(asked, Ok(ClientReply::Written(Ok(_))))
}

/// Waits until all members have applied the same entries, and compares what they made of them.
pub async fn converges(run: &Run, bound: Duration) -> Result<(), Violation> {
    let equal = async {
        loop {
            let members = run.cluster.members();
            let views = run.cluster.views();
            let applied: Vec<_> = views
                .iter()
                .filter(|view| members.contains(&view.node))
                .map(|view| (view.applied, view.committed, view.revision))
                .collect();
            if applied.len() == members.len() && applied.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            madsim::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(bound, equal).await.is_ok() {
        run.cluster.look();
        run.cluster.read_states();
        return Ok(());
    }
    let what = "the replicas do not become equal although nothing is wrong";
    let expected = format!("the same applied entries on all within {} s", bound.as_secs());
    Err(Violation::new("liveness", what, expected, standing(run)))
}

fn standing(run: &Run) -> String {
    let line = |view: crate::invariants::View| {
        let (applied, committed) = (view.applied.map(|id| id.index), view.committed.map(|id| id.index));
        format!(
            "node {}: vote {}{}, committed {committed:?}, applied {applied:?}",
            view.node,
            view.vote,
            if view.leads { ", leads" } else { "" }
        )
    };
    let views: Vec<String> = run.cluster.views().into_iter().map(line).collect();
    format!("members {:?}; {}", run.cluster.members(), views.join("; "))
}
