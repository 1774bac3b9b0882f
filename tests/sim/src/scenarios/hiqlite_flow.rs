//! The life of a small cluster, step by step: three nodes, a learner, its promotion, writes, leaders that
//! come and go, slow links. The same steps as the script that runs them on real nodes.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use aspen::kv::types::{MembershipChange, NodeId};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::mixed;
use crate::nemesis::{self, Fault};
use crate::network::CLIENTS;
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::Violation;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "hiqlite_flow",
    purpose: "init, a learner, its promotion, writes, leader churn, delays",
    settings,
    script,
};

const STEP_TIMEOUT: Duration = Duration::from_secs(20);

fn settings() -> Settings {
    Settings {
        voters: 3,
        clients: 3,
        // Each once, in this order.
        faults: vec![Fault::LeaderCrash, Fault::HandOver, Fault::Isolation, Fault::DelaySpike],
        delay_ms: (1, 8),
        sync_ms: (1, 5),
        ..mixed::settings()
    }
}

fn script(run: Run) -> BoxFuture<'static, Result<(), Violation>> {
    async move {
        let world = run.cluster.world().clone();
        world.milestone(CLIENTS, "step: init of three nodes");
        run.form().await?;
        let clients = run.start_clients();

        world.milestone(CLIENTS, "step: a learner joins");
        let learner = run.cluster.add_machine().id();
        change(&run, Some(learner), MembershipChange::default()).await?;
        world.milestone(CLIENTS, "step: the learner is promoted");
        let mut voters = run.cluster.voters();
        voters.insert(learner);
        change(&run, None, MembershipChange { voters: Some(voters), ..MembershipChange::default() }).await?;
        madsim::time::sleep(Duration::from_secs(2)).await;

        let under_way = Arc::new(AtomicUsize::new(0));
        for fault in run.cluster.settings().faults.clone() {
            world.milestone(CLIENTS, format_args!("step: {}", fault.name()));
            nemesis::inject(&run.cluster, fault, &under_way);
            madsim::time::sleep(Duration::from_secs(3)).await;
        }
        run.calm_down(&under_way).await?;
        run.finish(clients).await
    }
    .boxed()
}

/// Changes the membership, through the leader of the moment.
async fn change(run: &Run, join: Option<NodeId>, change: MembershipChange) -> Result<(), Violation> {
    let mut last = "nobody leads".to_owned();
    let asked = async {
        loop {
            if let Some(leader) = run.cluster.leader() {
                match run.cluster.reconfigure(leader, STEP_TIMEOUT, join, change.clone()).await {
                    Ok(()) => return,
                    Err(reason) => last = reason,
                }
            }
            madsim::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(STEP_TIMEOUT, asked).await.is_ok() {
        return Ok(());
    }
    let what = "the membership could not be changed although nothing is wrong";
    Err(Violation::new("liveness", what, "the change succeeds", last))
}
