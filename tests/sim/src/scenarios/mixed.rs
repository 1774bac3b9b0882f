//! Everything at once: clients, all faults, changing memberships, snapshots and purges.

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::chance;
use crate::nemesis::Fault;
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::Violation;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "mixed", purpose: "all faults, composed at random", settings, script };

/// Faults, the more frequent ones named more than once.
const FAULTS: &[Fault] = &[
    Fault::Crash,
    Fault::LeaderCrash,
    Fault::LeaderCrash,
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::TornWrite,
    Fault::Blackout,
    Fault::Pause,
    Fault::DiskStall,
    Fault::DiskStall,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::Partition,
    Fault::Partition,
    Fault::Isolation,
    Fault::Isolation,
    Fault::OneWayCut,
    Fault::Loss,
    Fault::Duplication,
    Fault::Reordering,
    Fault::DelaySpike,
    Fault::SlowNode,
    Fault::ClockJump,
    Fault::Join,
    Fault::Join,
    Fault::RemoveLeader,
    Fault::RemoveAbsent,
    Fault::Replace,
    Fault::HandOver,
    Fault::Snapshot,
];

/// What mixed runs have in common; other scenarios begin here.
pub(super) fn settings() -> Settings {
    let snapshot_every = chance::one_of(&[15, 40, 120]);
    let log_kept = chance::one_of(&[1, 5, 12]);
    Settings {
        voters: chance::one_of(&[3, 3, 3, 5]),
        clients: chance::between(3, 6),
        think_ms: chance::one_of(&[(5, 40), (20, 120)]),
        faulty_ms: 12_000,
        fault_every_ms: chance::one_of(&[(100, 700), (300, 1_500)]),
        faults: FAULTS.to_vec(),
        heartbeat_ms: 60,
        election_ms: (250, 500),
        snapshot_every,
        log_kept,
        lag_max: snapshot_every + log_kept + chance::one_of(&[5, 40]),
        checkpoint_ms: chance::one_of(&[100, 500, 2_000]),
        keep_revisions: chance::one_of(&[20, 100, 100_000]),
        delay_ms: chance::one_of(&[(1, 4), (1, 12), (5, 40)]),
        sync_ms: chance::one_of(&[(1, 3), (1, 10), (5, 30)]),
    }
}

fn script(run: Run) -> BoxFuture<'static, Result<(), Violation>> {
    async move {
        run.form().await?;
        let clients = run.start_clients();
        run.torment().await?;
        run.finish(clients).await
    }
    .boxed()
}
