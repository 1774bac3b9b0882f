//! What a run does: a name, settings drawn from the seed, and a script.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use madsim::runtime::{Handle, NodeHandle};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::nemesis;
use crate::network::Weather;
use crate::oracle::Oracle;
use crate::scenarios;
use crate::settings::Settings;
use crate::world::{Violation, lock};

/// Time for faults that are under way to end.
const CALM_TIMEOUT: Duration = Duration::from_secs(90);

/// Time in which a cluster without faults serves again through every node, and all replicas are equal.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(40);

/// A kind of run.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, in commands and files.
    pub name: &'static str,
    /// What it is there for.
    pub purpose: &'static str,
    /// Draws the settings, from the seed.
    pub settings: fn() -> Settings,
    /// Runs.
    pub script: fn(Run) -> BoxFuture<'static, Result<(), Violation>>,
}

impl Scenario {
    /// The scenario with a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        scenarios::ALL.iter().find(|scenario| scenario.name == name)
    }
}

/// A run as its script sees it.
#[derive(Clone)]
pub struct Run {
    /// The cluster, not formed yet.
    pub cluster: Cluster,
    /// What its clients know.
    pub oracle: Arc<Mutex<Oracle>>,
}

impl Run {
    /// Forms the cluster.
    ///
    /// # Errors
    /// If it does not come into being.
    pub async fn form(&self) -> Result<(), Violation> {
        self.cluster.form().await.map_err(|reason| {
            Violation::new("liveness", "the cluster was not formed", "it is formed without faults", reason)
        })
    }

    /// Lets clients work.
    pub fn start_clients(&self) -> Clients {
        let node = Handle::current().create_node().name("clients").build();
        let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let at_work = (1..=self.cluster.settings().clients)
            .map(|number| {
                let client = Client::new(number, self.cluster.clone(), self.oracle.clone());
                node.spawn(client.run(is_over.clone()))
            })
            .collect();
        Clients { node, is_over, at_work }
    }

    /// Torments the cluster for the time that the settings say, and mends all.
    ///
    /// # Errors
    /// If a fault does not come to its end.
    pub async fn torment(&self) -> Result<(), Violation> {
        let under_way = Arc::new(AtomicUsize::new(0));
        let time = Duration::from_millis(self.cluster.settings().faulty_ms);
        let torment = nemesis::torment(self.cluster.clone(), under_way.clone());
        tokio::time::timeout(time, torment.then(|()| std::future::pending::<()>())).await.ok();
        self.cluster.world().milestone(crate::network::CLIENTS, "no further faults");
        self.calm_down(&under_way).await
    }

    /// Waits for the faults under way to end, and mends what is left.
    ///
    /// # Errors
    /// If one does not end.
    pub async fn calm_down(&self, under_way: &AtomicUsize) -> Result<(), Violation> {
        let calm = async {
            while under_way.load(Ordering::Relaxed) > 0 {
                madsim::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(CALM_TIMEOUT, calm).await.is_err() {
            let what = "a change of the membership does not come to its end";
            let found = format!("not within {} s", CALM_TIMEOUT.as_secs());
            return Err(Violation::new("liveness", what, "it succeeds with a majority there", found));
        }
        let delay_ms = self.cluster.settings().delay_ms;
        *self.cluster.network().weather() = Weather::fair(delay_ms);
        for machine in self.cluster.machines() {
            machine.resume();
            machine.start();
        }
        Ok(())
    }

    /// Waits until the cluster serves through every member and all replicas are equal, and checks what
    /// can be checked at the end only.
    ///
    /// # Errors
    /// What does not come true in time, or is not as it should be.
    pub async fn finish(&self, clients: Clients) -> Result<(), Violation> {
        clients.stop().await;
        scenarios::liveness::serves_everywhere(self, LIVENESS_TIMEOUT).await?;
        scenarios::liveness::converges(self, LIVENESS_TIMEOUT).await?;
        lock(&self.oracle).check_history()
    }
}

/// Clients at work.
pub struct Clients {
    node: NodeHandle,
    is_over: Arc<std::sync::atomic::AtomicBool>,
    at_work: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Lets each client end its operation, and one last look at what it counted on.
    async fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.at_work {
            client.await.ok();
        }
        Handle::current().kill(self.node.id());
    }
}
