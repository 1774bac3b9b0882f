//! Faults, at random and several at a time.
//!
//! # Tiger Style
//! At most [`AT_ONCE`] faults at a time. A majority of disks survives every run: no more than one voter
//! is lost with its disk before its place is taken.

mod disk;
mod links;
mod membership;
mod processes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::chance;
use crate::cluster::Cluster;
use crate::machine::Machine;

pub use self::processes::cut_power_of;

/// Faults at a time.
const AT_ONCE: usize = 3;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A process is killed.
    Crash,
    /// A process is killed while it leads.
    LeaderCrash,
    /// A node loses power, and what was not synced may be gone.
    PowerCut,
    /// A node loses power in the middle of an operation on its disk.
    TornWrite,
    /// All nodes lose power at the same moment.
    Blackout,
    /// A node stands still.
    Pause,
    /// Syncs of a disk take very long.
    DiskStall,
    /// An operation on a disk fails.
    DiskError,
    /// A disk is full.
    DiskFull,
    /// The nodes fall into two groups.
    Partition,
    /// A node is cut off.
    Isolation,
    /// Nothing passes from one node to some others, but back.
    OneWayCut,
    /// Requests and answers get lost.
    Loss,
    /// Requests arrive twice.
    Duplication,
    /// Messages overtake each other.
    Reordering,
    /// All links become slow.
    DelaySpike,
    /// One node's links become slow.
    SlowNode,
    /// The clock jumps ahead.
    ClockJump,
    /// A node joins and becomes a voter.
    Join,
    /// The leader is removed.
    RemoveLeader,
    /// A follower that is cut off is removed, and comes back to the network.
    RemoveAbsent,
    /// A voter loses its disk, and another node takes its place.
    Replace,
    /// Leadership is handed over.
    HandOver,
    /// A snapshot is made now.
    Snapshot,
}

impl Fault {
    /// The fault's name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::LeaderCrash => "leader crash",
            Self::PowerCut => "power cut",
            Self::TornWrite => "torn write",
            Self::Blackout => "blackout",
            Self::Pause => "pause",
            Self::DiskStall => "disk stall",
            Self::DiskError => "disk error",
            Self::DiskFull => "disk full",
            Self::Partition => "partition",
            Self::Isolation => "isolation",
            Self::OneWayCut => "one-way cut",
            Self::Loss => "loss",
            Self::Duplication => "duplication",
            Self::Reordering => "reordering",
            Self::DelaySpike => "delay spike",
            Self::SlowNode => "slow node",
            Self::ClockJump => "clock jump",
            Self::Join => "join",
            Self::RemoveLeader => "remove leader",
            Self::RemoveAbsent => "remove absent",
            Self::Replace => "replace",
            Self::HandOver => "hand over",
            Self::Snapshot => "snapshot",
        }
    }

    /// Lets the fault come and go. It ends with everything as it was, or as it is meant to stay.
    async fn strike(self, cluster: &Cluster) {
        match self {
            Self::Crash => processes::crash(cluster).await,
            Self::LeaderCrash => processes::crash_leader(cluster).await,
            Self::PowerCut => processes::cut_power(cluster).await,
            Self::TornWrite => processes::tear_write(cluster).await,
            Self::Blackout => processes::black_out(cluster).await,
            Self::Pause => processes::pause(cluster).await,
            Self::DiskStall => disk::stall(cluster).await,
            Self::DiskError => disk::fail(cluster).await,
            Self::DiskFull => disk::fill(cluster).await,
            Self::Partition => links::partition(cluster).await,
            Self::Isolation => links::isolate(cluster).await,
            Self::OneWayCut => links::cut_one_way(cluster).await,
            Self::Loss => links::lose(cluster).await,
            Self::Duplication => links::duplicate(cluster).await,
            Self::Reordering => links::reorder(cluster).await,
            Self::DelaySpike => links::delay(cluster).await,
            Self::SlowNode => links::slow_down(cluster).await,
            Self::ClockJump => processes::jump_ahead(cluster).await,
            Self::Join => membership::join(cluster).await,
            Self::RemoveLeader => membership::remove_leader(cluster).await,
            Self::RemoveAbsent => membership::remove_absent(cluster).await,
            Self::Replace => membership::replace(cluster).await,
            Self::HandOver => membership::hand_over(cluster).await,
            Self::Snapshot => membership::snapshot(cluster).await,
        }
    }
}

/// Injects the faults of the settings until it is dropped. Those under way end by themselves.
pub async fn torment(cluster: Cluster, under_way: Arc<AtomicUsize>) {
    let (faults, every_ms) = (cluster.settings().faults.clone(), cluster.settings().fault_every_ms);
    if faults.is_empty() {
        return;
    }
    loop {
        madsim::time::sleep(chance::millis(every_ms.0, every_ms.1)).await;
        let fault = chance::one_of(&faults);
        if under_way.load(Ordering::Relaxed) >= AT_ONCE {
            continue;
        }
        inject(&cluster, fault, &under_way);
    }
}

/// Begins one fault, which ends by itself.
pub fn inject(cluster: &Cluster, fault: Fault, under_way: &Arc<AtomicUsize>) {
    cluster.world().count(format!("fault: {}", fault.name()));
    let (cluster, under_way) = (cluster.clone(), under_way.clone());
    under_way.fetch_add(1, Ordering::Relaxed);
    tokio::spawn(async move {
        fault.strike(&cluster).await;
        under_way.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Lets a fault last.
async fn last(from_ms: u64, to_ms: u64) {
    madsim::time::sleep(chance::millis(from_ms, to_ms)).await;
}

/// A machine that runs now.
fn victim(cluster: &Cluster) -> Option<Arc<Machine>> {
    let running: Vec<_> =
        cluster.machines().into_iter().filter(|machine| machine.is_on() && !machine.is_paused()).collect();
    (!running.is_empty()).then(|| chance::one_of(&running))
}

fn tell(cluster: &Cluster, machine: &Machine, what: impl std::fmt::Display) {
    cluster.world().milestone(machine.id(), format_args!("FAULT {what}"));
}
