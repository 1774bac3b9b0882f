//! All machines of a run, and looking at them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::kv::interface::ClusterController;
use aspen::kv::types::{ClusterError, MembershipChange, NodeId};
use aspen::raft::types::StoredMembership;
use madsim::runtime::{Handle, NodeHandle};

use crate::invariants::{Event, View};
use crate::machine::{End, Machine};
use crate::network::{Network, Weather};
use crate::settings::Settings;
use crate::world::{World, lock};

/// Pause between two looks at all nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks between two readings of all states.
const LOOKS_PER_DIGEST: u64 = 12;

/// Time for the cluster to be formed.
const FORMING_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    world: World,
    network: Network,
    settings: Arc<Settings>,
    machines: Mutex<BTreeMap<NodeId, Arc<Machine>>>,
    changing: tokio::sync::Mutex<()>,
    /// What looks after the machines belongs to none of them.
    warden: NodeHandle,
}

impl Cluster {
    /// A cluster without machines.
    pub fn new(world: World, settings: Arc<Settings>) -> Self {
        let network = Network::new(world.clone());
        *network.weather() = Weather::fair(settings.delay_ms);
        let warden = Handle::current().create_node().name("warden").build();
        let (machines, changing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { world, network, settings, machines, changing, warden }))
    }

    /// What all parts of the run share.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// The network between the machines.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// What the run is made of.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// All machines that still exist, by id.
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        lock(&self.0.machines).values().filter(|machine| !machine.is_gone()).cloned().collect()
    }

    /// One machine.
    pub fn machine(&self, id: NodeId) -> Option<Arc<Machine>> {
        lock(&self.0.machines).get(&id).filter(|machine| !machine.is_gone()).cloned()
    }

    /// Adds a machine under the next id and starts it. It knows all others.
    pub fn add_machine(&self) -> Arc<Machine> {
        let mut machines = lock(&self.0.machines);
        let id = NodeId(machines.len() as u64 + 1);
        let known: BTreeSet<NodeId> = machines.keys().copied().collect();
        let inner = &self.0;
        let machine =
            Machine::new(id, inner.world.clone(), inner.network.clone(), inner.settings.clone(), known);
        machines.insert(id, machine.clone());
        drop(machines);
        machine.start();
        inner.warden.spawn(machine.clone().supervise());
        machine
    }

    /// Forms the cluster of the settings' size, and begins to look at it.
    ///
    /// # Errors
    /// If it does not come into being in time.
    pub async fn form(&self) -> Result<(), String> {
        let watched = self.clone();
        self.0.warden.spawn(async move { watched.watch().await });
        let machines: Vec<Arc<Machine>> = (0..self.0.settings.voters).map(|_| self.add_machine()).collect();
        let formed = async {
            let first = self.until_up(&machines[0]).await;
            first.init().await.map_err(|error| error.to_string())?;
            for machine in &machines[1..] {
                self.until_up(machine).await;
                first.add_learner(machine.peer()).await.map_err(|error| error.to_string())?;
            }
            let voters = machines.iter().map(|machine| machine.id()).collect();
            let change = MembershipChange { voters: Some(voters), ..MembershipChange::default() };
            first.change_membership(change).await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(FORMING_TIMEOUT, formed).await {
            Ok(formed) => formed.map(drop),
            Err(_) => Err(format!("not formed within {} ms", FORMING_TIMEOUT.as_millis())),
        }
    }

    async fn until_up(&self, machine: &Machine) -> Arc<dyn ClusterController> {
        loop {
            if let Some(running) = machine.running() {
                return running.cluster;
            }
            madsim::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Changes the membership through some node that is up, within a bound.
    ///
    /// # Errors
    /// What the cluster answers, or that no node is up or answers.
    pub async fn reconfigure(
        &self,
        through: NodeId,
        bound: Duration,
        join: Option<NodeId>,
        change: MembershipChange,
    ) -> Result<(), String> {
        let running = self.machine(through).and_then(|machine| machine.running());
        let cluster = running.ok_or("the node is down")?.cluster;
        let join = join.and_then(|id| self.machine(id)).map(|machine| machine.peer());
        // On the node, so that it ends with it.
        let node = Handle::current().get_node(crate::network::node_name(through).as_str());
        let task = node.expect("the node was made with the machine").spawn(async move {
            if let Some(peer) = join {
                cluster.add_learner(peer).await?;
            }
            if change == MembershipChange::default() {
                return Ok::<(), ClusterError>(());
            }
            cluster.change_membership(change).await.map(drop)
        });
        match tokio::time::timeout(bound, task).await {
            Ok(Ok(answer)) => answer.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("the node died".to_owned()),
            Err(_) => Err(format!("no answer within {} ms", bound.as_millis())),
        }
    }

    /// All running nodes as they are right now.
    pub fn views(&self) -> Vec<View> {
        self.machines().iter().filter_map(|machine| machine.view()).collect()
    }

    /// The node that leads under the highest vote.
    pub fn leader(&self) -> Option<NodeId> {
        let views = self.views();
        let leaders = views.iter().filter(|view| view.leads);
        leaders.max_by_key(|view| (view.vote.leader_id().term, view.node)).map(|view| view.node)
    }

    /// The voters of the newest membership that some running node knows to be committed.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.settled().map(|settled| settled.voter_ids().collect()).unwrap_or_default()
    }

    /// All members of that membership.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let settled = self.settled();
        settled.map(|settled| settled.nodes().map(|(id, _)| *id).collect()).unwrap_or_default()
    }

    fn settled(&self) -> Option<Arc<StoredMembership>> {
        let views = self.views().into_iter();
        views.map(|view| view.settled).max_by_key(|settled| *settled.log_id())
    }

    /// The right to change the membership: one fault at a time has it.
    pub fn try_change(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.0.changing.try_lock().ok()
    }

    /// Shows all nodes to the invariants now.
    pub fn look(&self) {
        self.0.world.saw(&Event::Looked(&self.views()));
    }

    /// Shows the invariants the states of all nodes now.
    pub fn read_states(&self) {
        for machine in self.machines() {
            let Some(running) = machine.running() else { continue };
            // A disk that fails ends the process by other ways.
            if let Ok(digest) = running.reader.digest() {
                self.0.world.saw(&Event::Digested { node: machine.id(), digest: &digest });
            }
        }
    }

    async fn watch(&self) {
        for look in 1.. {
            madsim::time::sleep(LOOK_INTERVAL).await;
            self.look();
            if look % LOOKS_PER_DIGEST == 0 {
                self.read_states();
            }
        }
    }

    /// Ends everything, so that nothing is left in memory.
    pub fn close(&self) {
        for machine in self.machines() {
            machine.end(End::Kill);
        }
        Handle::current().kill(self.0.warden.id());
        self.0.network.close();
    }
}
