//! Members come and go while clients write: joins, removals of leaders and of absent nodes, lost disks.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::mixed;
use crate::nemesis::Fault;
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::Violation;

pub(super) const SCENARIO: Scenario =
    Scenario { name: "churn", purpose: "members that come, go, and are replaced", settings, script };

fn settings() -> Settings {
    Settings {
        faults: vec![
            Fault::Join,
            Fault::Join,
            Fault::RemoveLeader,
            Fault::RemoveAbsent,
            Fault::RemoveAbsent,
            Fault::Replace,
            Fault::Isolation,
            Fault::Crash,
        ],
        voters: 5,
        fault_every_ms: (200, 900),
        ..mixed::settings()
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
