//! Changes of who belongs to the cluster, and what Raft does on demand.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen::kv::types::{MembershipChange, NodeId};

use super::{last, links, tell};
use crate::chance;
use crate::cluster::Cluster;
use crate::machine::End;

/// Voters that a cluster grows to.
const VOTERS_MAX: usize = 5;

/// Voters that a cluster shrinks to.
const VOTERS_MIN: usize = 3;

/// Time for one change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);

/// Times that a change which must come to pass is asked for.
const PERSISTENCE: u32 = 12;

pub(super) async fn join(cluster: &Cluster) {
    let Some(_turn) = cluster.try_change() else { return };
    let voters = cluster.voters();
    if voters.is_empty() || voters.len() >= VOTERS_MAX || cluster.machines().len() > VOTERS_MAX {
        return;
    }
    let machine = cluster.add_machine();
    tell(cluster, &machine, "joins");
    // Where that fails, it may still become one: an unanswered change can take effect.
    promote(cluster, machine.id(), None).await;
}

/// Makes a voter of a machine, perhaps in the place of another. Says whether it has become one.
async fn promote(cluster: &Cluster, id: NodeId, instead_of: Option<NodeId>) -> bool {
    for _ in 0..PERSISTENCE {
        if cluster.voters().contains(&id) {
            return true;
        }
        let Some(through) = any_voter(cluster) else {
            last(200, 500).await;
            continue;
        };
        let mut voters = cluster.voters();
        voters.insert(id);
        let remove: BTreeSet<NodeId> =
            instead_of.filter(|old| cluster.members().contains(old)).into_iter().collect();
        let change = MembershipChange { voters: Some(voters), remove, force: false };
        report(cluster, cluster.reconfigure(through, CHANGE_TIMEOUT, Some(id), change).await);
        last(50, 300).await;
    }
    cluster.voters().contains(&id)
}

/// Takes a machine that is no member any more out of service.
fn retire(cluster: &Cluster, id: NodeId) {
    if !cluster.members().contains(&id)
        && let Some(machine) = cluster.machine(id)
    {
        machine.destroy();
    }
}

async fn remove(cluster: &Cluster, id: NodeId) -> Result<(), String> {
    let through = any_voter(cluster).ok_or("nobody is up")?;
    if !cluster.members().contains(&id) {
        return Ok(());
    }
    let change = MembershipChange { voters: None, remove: BTreeSet::from([id]), force: false };
    let removed = cluster.reconfigure(through, CHANGE_TIMEOUT, None, change).await;
    report(cluster, removed.clone());
    removed
}

pub(super) async fn remove_leader(cluster: &Cluster) {
    let Some(_turn) = cluster.try_change() else { return };
    let voters = cluster.voters();
    let Some(leader) = cluster.leader().filter(|leader| voters.contains(leader)) else { return };
    if voters.len() <= VOTERS_MIN {
        return;
    }
    cluster.world().milestone(leader, "FAULT the leader is removed");
    if remove(cluster, leader).await.is_ok() {
        last(0, 2_000).await;
        retire(cluster, leader);
    }
}

/// The removed node does not hear of it, and stands for election when it is back.
pub(super) async fn remove_absent(cluster: &Cluster) {
    let Some(_turn) = cluster.try_change() else { return };
    let voters = cluster.voters();
    let others: Vec<NodeId> = voters.iter().filter(|id| Some(**id) != cluster.leader()).copied().collect();
    if voters.len() <= VOTERS_MIN || others.is_empty() {
        return;
    }
    let id = chance::one_of(&others);
    let (what, cuts) = (format!("isolation of {id} for its removal"), links::all_links(cluster, id));
    links::begin_cut(cluster, &what, &cuts);
    last(0, 400).await;
    let removed = remove(cluster, id).await;
    links::end_cut(cluster, &what, &cuts);
    last(500, 3_000).await;
    if removed.is_ok() {
        retire(cluster, id);
    }
}

/// A voter loses its disk; a new machine takes its place under a new id.
pub(super) async fn replace(cluster: &Cluster) {
    let Some(_turn) = cluster.try_change() else { return };
    let voters: Vec<NodeId> = cluster.voters().into_iter().collect();
    let disks = voters.iter().filter(|id| cluster.machine(**id).is_some()).count();
    // One disk at a time: the others hold what was committed.
    if voters.len() < VOTERS_MIN || disks < voters.len() {
        return;
    }
    let old = chance::one_of(&voters);
    let Some(machine) = cluster.machine(old) else { return };
    tell(cluster, &machine, "loses its disk");
    cluster.look();
    machine.destroy();
    let new = cluster.add_machine();
    while !promote(cluster, new.id(), Some(old)).await {
        last(100, 300).await;
    }
    loop {
        let members = cluster.members();
        // Where no membership is known to be committed, it may still be one of them.
        if !members.is_empty() && !members.contains(&old) {
            return;
        }
        remove(cluster, old).await.ok();
        last(100, 500).await;
    }
}

pub(super) async fn hand_over(cluster: &Cluster) {
    let Some(leader) = cluster.leader() else { return };
    let others: Vec<NodeId> = cluster.voters().into_iter().filter(|id| *id != leader).collect();
    let running = cluster.machine(leader).and_then(|machine| machine.running());
    let (Some(running), false) = (running, others.is_empty()) else { return };
    let to = chance::one_of(&others);
    cluster.world().milestone(leader, format_args!("FAULT hands over to {to}"));
    // Whether it works is Raft's business.
    running.raft.trigger().transfer_leader(to).await.ok();
}

pub(super) async fn snapshot(cluster: &Cluster) {
    let Some(machine) = super::victim(cluster) else { return };
    let Some(running) = machine.running() else { return };
    tell(cluster, &machine, "makes a snapshot now");
    running.raft.trigger().snapshot().await.ok();
    last(10, 200).await;
    if chance::happens(0.3) {
        machine.end(End::PowerCut);
        last(20, 500).await;
        machine.start();
    }
}

/// A voter that is up, the leader if there is one.
fn any_voter(cluster: &Cluster) -> Option<NodeId> {
    let up = |id: &NodeId| cluster.machine(*id).is_some_and(|machine| machine.running().is_some());
    let up: Vec<NodeId> = cluster.voters().into_iter().filter(up).collect();
    cluster.leader().or_else(|| (!up.is_empty()).then(|| chance::one_of(&up)))
}

fn report(cluster: &Cluster, changed: Result<(), String>) {
    match changed {
        Ok(()) => cluster.world().count("membership changes"),
        Err(reason) => {
            let none = crate::network::CLIENTS;
            cluster.world().milestone(none, format_args!("the membership was not changed: {reason}"));
        }
    }
}
