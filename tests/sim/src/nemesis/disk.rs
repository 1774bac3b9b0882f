//! Disks that are slow, fail, or are full.

use std::time::Duration;

use super::{last, tell, victim};
use crate::chance;
use crate::cluster::Cluster;
use crate::machine::End;

pub(super) async fn stall(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let (from, to) = chance::one_of(&[(20, 80), (100, 600), (1_000, 3_000)]);
    tell(cluster, &machine, format_args!("syncs take {from} to {to} ms"));
    machine.disk().set_sync_time(Duration::from_millis(from), Duration::from_millis(to));
    last(300, 4_000).await;
    let (from, to) = cluster.settings().sync_ms;
    machine.disk().set_sync_time(Duration::from_millis(from), Duration::from_millis(to));
    tell(cluster, &machine, "syncs are fast again");
}

/// An operation fails once. Whether or not the process has noticed, it is started again.
pub(super) async fn fail(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let operation = chance::between(1, 80);
    tell(cluster, &machine, format_args!("the disk fails at operation {operation}"));
    machine.begin_disk_fault();
    machine.disk().fail_at(operation);
    last(200, 2_000).await;
    machine.disk().clear_due_fault();
    machine.end(End::Kill);
    machine.end_disk_fault();
    last(20, 500).await;
    machine.start();
}

pub(super) async fn fill(cluster: &Cluster) {
    let Some(machine) = victim(cluster) else { return };
    let room = chance::between(0, 64 * 1024);
    tell(cluster, &machine, format_args!("{room} bytes are left on the disk"));
    machine.begin_disk_fault();
    machine.disk().set_capacity(Some(machine.disk().allocated_bytes() + room));
    last(300, 2_500).await;
    machine.disk().set_capacity(None);
    machine.end(End::Kill);
    machine.end_disk_fault();
    last(20, 500).await;
    machine.start();
    tell(cluster, &machine, "the disk has room again");
}
