//! Many elections, with power cuts right after votes: what was voted must outlive them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::mixed;
use crate::chance;
use crate::nemesis::{self, Fault};
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::Violation;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "elections",
    purpose: "elections, with power cuts right after votes and within the lease",
    settings,
    script,
};

const ROUNDS: u64 = 12;

fn settings() -> Settings {
    Settings {
        voters: chance::one_of(&[3, 5]),
        clients: 2,
        faults: vec![Fault::LeaderCrash, Fault::Isolation, Fault::HandOver],
        ..mixed::settings()
    }
}

fn script(run: Run) -> BoxFuture<'static, Result<(), Violation>> {
    async move {
        run.form().await?;
        let clients = run.start_clients();
        let under_way = Arc::new(AtomicUsize::new(0));
        for _ in 0..ROUNDS {
            let fault = chance::one_of(&run.cluster.settings().faults);
            nemesis::inject(&run.cluster, fault, &under_way);
            // As long as an election takes, or shorter: the votes of the next round are fresh then.
            madsim::time::sleep(chance::millis(100, 1_200)).await;
            let machines = run.cluster.machines();
            let chosen: Vec<_> = machines.into_iter().filter(|_| chance::happens(0.5)).collect();
            nemesis::cut_power_of(&chosen, 1, 30).await;
        }
        run.calm_down(&under_way).await?;
        run.finish(clients).await
    }
    .boxed()
}
