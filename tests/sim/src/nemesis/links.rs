//! Links that are cut, lossy, slow or unruly.

use aspen::kv::types::NodeId;

use super::{last, tell, victim};
use crate::chance;
use crate::cluster::Cluster;
use crate::network::{CLIENTS, Weather};

type Cuts = Vec<(NodeId, NodeId)>;

pub(super) async fn partition(cluster: &Cluster) {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for machine in cluster.machines() {
        if chance::happens(0.5) { one.push(machine.id()) } else { other.push(machine.id()) }
    }
    let cuts = one.iter().flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect();
    cut(cluster, &format!("{one:?} | {other:?}"), cuts).await;
}

pub(super) async fn isolate(cluster: &Cluster) {
    let leader = cluster.leader().and_then(|leader| cluster.machine(leader));
    let chosen = if chance::happens(0.6) { leader.or_else(|| victim(cluster)) } else { victim(cluster) };
    let Some(machine) = chosen else { return };
    cut(cluster, &format!("isolation of {}", machine.id()), all_links(cluster, machine.id())).await;
}

/// Both directions of all links of a node, but those of clients.
pub(super) fn all_links(cluster: &Cluster, id: NodeId) -> Cuts {
    let others = cluster.machines().into_iter().map(|machine| machine.id()).filter(|other| *other != id);
    others.flat_map(|other| [(id, other), (other, id)]).collect()
}

pub(super) async fn cut_one_way(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let others = cluster.machines().into_iter().map(|other| other.id()).filter(|id| *id != machine.id());
    let others: Vec<NodeId> = others.filter(|_| chance::happens(0.6)).collect();
    let outwards = chance::happens(0.5);
    let way = |other: NodeId| if outwards { (machine.id(), other) } else { (other, machine.id()) };
    let cuts: Cuts = others.into_iter().map(way).collect();
    cut(cluster, &format!("one-way {cuts:?}"), cuts).await;
}

async fn cut(cluster: &Cluster, what: &str, cuts: Cuts) {
    begin_cut(cluster, what, &cuts);
    last(100, 4_000).await;
    end_cut(cluster, what, &cuts);
}

pub(super) fn begin_cut(cluster: &Cluster, what: &str, cuts: &[(NodeId, NodeId)]) {
    cluster.world().milestone(CLIENTS, format_args!("FAULT cut: {what}"));
    let mut weather = cluster.network().weather();
    cuts.iter().for_each(|(from, to)| weather.cut(*from, *to));
}

pub(super) fn end_cut(cluster: &Cluster, what: &str, cuts: &[(NodeId, NodeId)]) {
    cluster.world().milestone(CLIENTS, format_args!("mended: {what}"));
    let mut weather = cluster.network().weather();
    cuts.iter().for_each(|(from, to)| weather.mend(*from, *to));
}

pub(super) async fn lose(cluster: &Cluster) {
    let share = chance::one_of(&[0.02, 0.1, 0.3]);
    change(cluster, "loss", share, |weather| &mut weather.loss).await;
}

pub(super) async fn duplicate(cluster: &Cluster) {
    let share = chance::one_of(&[0.1, 0.5]);
    change(cluster, "duplication", share, |weather| &mut weather.duplication).await;
}

pub(super) async fn reorder(cluster: &Cluster) {
    let share = chance::one_of(&[0.1, 0.4]);
    change(cluster, "reordering", share, |weather| &mut weather.reordering).await;
}

/// Adds to a share for a while.
async fn change(cluster: &Cluster, what: &str, by: f64, share: fn(&mut Weather) -> &mut f64) {
    cluster.world().milestone(CLIENTS, format_args!("FAULT {what} of {by}"));
    *share(&mut cluster.network().weather()) += by;
    last(300, 4_000).await;
    *share(&mut cluster.network().weather()) -= by;
    cluster.world().milestone(CLIENTS, format_args!("{what} is over"));
}

pub(super) async fn delay(cluster: &Cluster) {
    let by = chance::one_of(&[20, 100, 400]);
    cluster.world().milestone(CLIENTS, format_args!("FAULT delay of {by} ms more"));
    cluster.network().weather().delay_ms.1 += by;
    last(200, 2_000).await;
    cluster.network().weather().delay_ms.1 -= by;
    cluster.world().milestone(CLIENTS, "delay is over");
}

pub(super) async fn slow_down(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let by = chance::one_of(&[10, 50, 200]);
    tell(cluster, &machine, format_args!("links slower by {by} ms"));
    *cluster.network().weather().slow.entry(machine.id()).or_default() += by;
    last(300, 5_000).await;
    *cluster.network().weather().slow.entry(machine.id()).or_default() -= by;
    tell(cluster, &machine, "links fast again");
}
