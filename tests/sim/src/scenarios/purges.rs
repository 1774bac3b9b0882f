//! A log that is purged often and a state that is saved seldom, with power cuts right after purges: what
//! is purged from the log must be in the state on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::raft::types::LogId;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::mixed;
use crate::chance;
use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::nemesis::{self, Fault};
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::Violation;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "purges",
    purpose: "purges under load, with seldom checkpoints and power cuts right after purges",
    settings,
    script,
};

const ROUNDS: u64 = 12;

/// Time in which the clients write enough for a snapshot, unless faults keep them from it.
const PURGE_TIMEOUT: Duration = Duration::from_secs(4);

const POLL: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    let (snapshot_every, log_kept) = (chance::one_of(&[8, 15, 30]), chance::one_of(&[1, 3]));
    Settings {
        clients: chance::between(4, 8),
        think_ms: (2, 25),
        // What else a purge may happen in the middle of.
        faults: vec![Fault::DiskStall, Fault::TornWrite, Fault::SlowNode, Fault::Isolation, Fault::Snapshot],
        snapshot_every,
        log_kept,
        lag_max: snapshot_every + log_kept + 5,
        // Most are longer than the run: then snapshots alone save the state.
        checkpoint_ms: chance::one_of(&[2_000, 15_000, 60_000]),
        ..mixed::settings()
    }
}

fn script(run: Run) -> BoxFuture<'static, Result<(), Violation>> {
    async move {
        run.form().await?;
        let clients = run.start_clients();
        let under_way = Arc::new(AtomicUsize::new(0));
        for _ in 0..ROUNDS {
            if chance::happens(0.4) {
                nemesis::inject(&run.cluster, chance::one_of(&run.cluster.settings().faults), &under_way);
            }
            let purged = until_purge(&run.cluster).await;
            // Into the purge, or what follows it.
            madsim::time::sleep(chance::millis(0, 30)).await;
            let victims = if chance::happens(0.3) { run.cluster.machines() } else { purged };
            let running = victims.into_iter().filter(|machine| machine.is_on()).collect();
            cut_power(&run.cluster, running).await;
        }
        run.calm_down(&under_way).await?;
        run.finish(clients).await
    }
    .boxed()
}

/// Waits until logs are purged further, and says on which machines. None if that takes too long.
async fn until_purge(cluster: &Cluster) -> Vec<Arc<Machine>> {
    let mut before = purged(cluster);
    let advanced = async {
        loop {
            madsim::time::sleep(POLL).await;
            let now = purged(cluster);
            let has_advanced = |(id, to): (&NodeId, &Option<LogId>)| {
                let known = before.get(id).is_some_and(|before| to > before);
                known.then_some(*id)
            };
            let advanced: Vec<NodeId> = now.iter().filter_map(has_advanced).collect();
            if !advanced.is_empty() {
                return advanced;
            }
            // A process that has come up since shows where it begins.
            before.extend(now);
        }
    };
    let advanced = tokio::time::timeout(PURGE_TIMEOUT, advanced).await.unwrap_or_default();
    advanced.into_iter().filter_map(|id| cluster.machine(id)).collect()
}

fn purged(cluster: &Cluster) -> BTreeMap<NodeId, Option<LogId>> {
    cluster.views().into_iter().map(|view| (view.node, view.purged)).collect()
}

/// Cuts the power of machines at the same moment, for a while, and says how far their logs were purged.
async fn cut_power(cluster: &Cluster, machines: Vec<Arc<Machine>>) {
    for machine in &machines {
        let purged = machine.view().and_then(|view| view.purged);
        let purged = purged.map_or_else(|| "nowhere".to_owned(), |to| format!("up to {to}"));
        cluster.world().milestone(machine.id(), format_args!("FAULT power cut, log purged {purged}"));
        cluster.world().count(format!("fault: {}", Fault::PowerCut.name()));
    }
    nemesis::cut_power_of(&machines, 5, 800).await;
}
