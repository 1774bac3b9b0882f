//! Processes and machines that end, stand still, or lose track of time.

use std::sync::Arc;
use std::time::Duration;

use super::{last, tell, victim};
use crate::chance;
use crate::cluster::Cluster;
use crate::machine::{End, Machine};

pub(super) async fn crash(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    end_and_start(cluster, &machine, End::Kill).await;
}

pub(super) async fn crash_leader(cluster: &Cluster) {
    let Some(machine) = cluster.leader().and_then(|leader| cluster.machine(leader)) else { return };
    let end = chance::one_of(&[End::Kill, End::PowerCut]);
    tell(cluster, &machine, format_args!("{end:?} of the leader"));
    machine.end(end);
    // Also within the lease, in which nobody else is elected.
    last(5, 600).await;
    machine.start();
}

pub(super) async fn cut_power(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    end_and_start(cluster, &machine, End::PowerCut).await;
}

/// Cuts the power of machines at the same moment, for a time between two bounds in milliseconds.
pub async fn cut_power_of(machines: &[Arc<Machine>], min_ms: u64, max_ms: u64) {
    for machine in machines {
        machine.end(End::PowerCut);
    }
    last(min_ms, max_ms).await;
    for machine in machines {
        machine.start();
    }
}

async fn end_and_start(cluster: &Cluster, machine: &Arc<Machine>, end: End) {
    tell(cluster, machine, format_args!("{end:?}"));
    machine.end(end);
    last(20, 2_500).await;
    machine.start();
}

/// The power fails at some operation; the machine notices a moment later.
pub(super) async fn tear_write(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let operation = chance::between(1, 60);
    tell(cluster, &machine, format_args!("the power fails at operation {operation}"));
    machine.begin_disk_fault();
    machine.disk().cut_power_at(operation);
    last(50, 500).await;
    machine.end(End::PowerCut);
    machine.end_disk_fault();
    last(20, 1_500).await;
    machine.start();
}

pub(super) async fn black_out(cluster: &Cluster) {
    let machines = cluster.machines();
    for machine in &machines {
        tell(cluster, machine, "blackout");
        machine.end(End::PowerCut);
    }
    last(50, 1_000).await;
    for machine in &machines {
        machine.start();
        last(0, 200).await;
    }
}

pub(super) async fn pause(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    tell(cluster, &machine, "pause");
    machine.pause();
    last(50, 3_000).await;
    machine.resume();
}

/// As after a suspend: time has passed for everyone, and nobody has seen it.
pub(super) async fn jump_ahead(cluster: &Cluster) {
    let jump = Duration::from_millis(chance::between(100, 3_000));
    cluster.world().milestone(crate::network::CLIENTS, format_args!("FAULT clock jump of {jump:?}"));
    madsim::time::advance(jump);
}
