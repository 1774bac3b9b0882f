//! One simulated node: a disk that outlives its processes, and the processes, one after the other.
//!
//! A process is what a real node is made of: log, state, Raft, service and housekeeping. When its Raft
//! stops, the process ends and is started again, as systemd does it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::kv::service::cluster::RaftCluster;
use aspen::kv::service::{KvService, ServiceParts, history};
use aspen::kv::types::{NodeId, NodeInfo, Peer, PublicKey};
use aspen::raft::RaftHandle;
use aspen::raft::construct::{self, RaftSettings};
use aspen::raft::freshness::Freshness;
use aspen::raft::operations::Operations;
use aspen::raft::types::StoredMembership;
use aspen::storage::disk::SimulatedDisk;
use aspen::storage::log_redb::{LOG_FILE, RedbLog};
use aspen::storage::metadata::Metadata;
use aspen::storage::pressure::Pressure;
use aspen::storage::progress::Progress;
use aspen::storage::space::Space;
use aspen::storage::state::StateReader;
use aspen::storage::{StorageOptions, state_redb};
use madsim::runtime::Handle;
use openraft::async_runtime::WatchReceiver;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use crate::chance;
use crate::invariants::{Event, Found, View};
use crate::network::{Handlers, Members, Network, SimulatedForwarder, SimulatedNetwork, Station, node_name};
use crate::observed_log::ObservedLog;
use crate::settings::Settings;
use crate::world::{Violation, World, lock};

/// Page cache of one database: small, so that reads come from the disk as well.
const CACHE_BYTES: usize = 256 * 1024;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is killed; the disk keeps all that was written.
    Kill,
    /// Its machine loses power, and what was not synced may be gone.
    PowerCut,
}

/// See the module.
pub struct Machine {
    id: NodeId,
    world: World,
    network: Network,
    settings: Arc<Settings>,
    disk: SimulatedDisk,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the current process, or of the last one.
    life: u64,
    /// Whether it shall run.
    is_on: bool,
    is_paused: bool,
    /// It will never run again.
    is_gone: bool,
    /// Faults under way of the disk, which may end the process.
    disk_faults: u32,
    known: BTreeSet<NodeId>,
    running: Option<Running>,
}

/// A running process.
#[derive(Clone)]
pub struct Running {
    /// Which one.
    pub life: u64,
    /// Its end of the network.
    pub station: Arc<Station>,
    /// Its Raft.
    pub raft: RaftHandle,
    /// Operations on the cluster.
    pub cluster: Arc<RaftCluster>,
    /// Its state.
    pub reader: StateReader,
    progress: Arc<Progress>,
}

impl Machine {
    /// A machine with an empty disk, which does not run yet and knows other nodes.
    pub fn new(
        id: NodeId,
        world: World,
        network: Network,
        settings: Arc<Settings>,
        known: BTreeSet<NodeId>,
    ) -> Arc<Self> {
        Handle::current().create_node().name(node_name(id)).build();
        let disk = SimulatedDisk::new("/data", madsim::rand::random());
        disk.set_sync_time(millis(settings.sync_ms.0), millis(settings.sync_ms.1));
        let state = Mutex::new(State { known, ..State::default() });
        Arc::new(Self { id, world, network, settings, disk, state })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its disk.
    pub fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// How others know it.
    pub fn peer(&self) -> Peer {
        peer(self.id)
    }

    /// Its process, if it has come up.
    pub fn running(&self) -> Option<Running> {
        lock(&self.state).running.clone()
    }

    /// Whether a process runs or starts.
    pub fn is_on(&self) -> bool {
        lock(&self.state).is_on
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        lock(&self.state).is_paused
    }

    /// Whether it will never run again.
    pub fn is_gone(&self) -> bool {
        lock(&self.state).is_gone
    }

    /// From now on a process may end because of its disk.
    pub fn begin_disk_fault(&self) {
        lock(&self.state).disk_faults += 1;
    }

    /// A fault of the disk is over, and a new process runs or will.
    pub fn end_disk_fault(&self) {
        lock(&self.state).disk_faults -= 1;
    }

    /// Starts a process.
    pub fn start(self: &Arc<Self>) {
        let life = {
            let mut state = lock(&self.state);
            if state.is_on || state.is_gone {
                return;
            }
            state.is_on = true;
            state.life += 1;
            state.life
        };
        self.world.milestone(self.id, format_args!("starts process {life}"));
        self.disk.restore_power();
        let (handle, name) = (Handle::current(), node_name(self.id));
        handle.restart(name.as_str());
        let node = handle.get_node(name.as_str()).expect("the node was made with the machine");
        let machine = self.clone();
        node.spawn(async move {
            if let Err(error) = machine.clone().run(life).await {
                machine.stopped(life, &format!("{error:#}"));
            }
        });
    }

    /// Ends the process at once.
    pub fn end(&self, end: End) {
        let running = {
            let mut state = lock(&self.state);
            if !state.is_on {
                return;
            }
            (state.is_on, state.is_paused) = (false, false);
            state.running.take()
        };
        self.world.milestone(self.id, format_args!("ends: {end:?}"));
        // Before the tasks are dropped: what they would still write must not count.
        match end {
            End::Kill => self.disk.kill_process(),
            End::PowerCut => self.disk.cut_power(),
        }
        if let Some(running) = running {
            lock(&self.state).known = running.station.known();
            let (flushed, durable) = (running.progress.flushed(), running.progress.durable());
            self.world.saw(&Event::Ended { node: self.id, flushed, durable });
        }
        self.network.disconnect_station(self.id);
        let (handle, name) = (Handle::current(), node_name(self.id));
        handle.resume(name.as_str());
        handle.kill(name.as_str());
    }

    /// Ends it for good, with its disk.
    pub fn destroy(&self) {
        self.end(End::PowerCut);
        lock(&self.state).is_gone = true;
    }

    /// Lets it stand still.
    pub fn pause(&self) {
        lock(&self.state).is_paused = true;
        Handle::current().pause(node_name(self.id).as_str());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        if std::mem::take(&mut lock(&self.state).is_paused) {
            Handle::current().resume(node_name(self.id).as_str());
        }
    }

    /// The running process as it is right now.
    pub fn view(&self) -> Option<View> {
        let running = self.running()?;
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        Some(View {
            node: self.id,
            life: running.life,
            vote: metrics.vote,
            leads: metrics.state == openraft::ServerState::Leader && metrics.vote.is_committed(),
            committed: metrics.local_committed,
            applied: metrics.last_applied,
            revision: running.reader.revision(),
            flushed: running.progress.flushed(),
            durable: running.progress.durable(),
            purged: metrics.purged,
            membership: metrics.membership_config.clone(),
            settled: metrics.committed_membership_config.clone(),
        })
    }

    async fn run(self: Arc<Self>, life: u64) -> anyhow::Result<()> {
        let known = lock(&self.state).known.clone();
        let station = Arc::new(Station::new(self.id, life, known));
        self.network.connect_station(station.clone());

        let (disk, dir) = (self.disk.mount(), PathBuf::from("/data"));
        disk.create_dir_all(&dir)?;
        let metadata = Metadata::open_on(&*disk, &dir, Some(self.id), self.peer().info.public_key)?;
        let progress = Arc::new(Progress::default());
        let mut log = RedbLog::open_on(disk.clone(), &dir.join(LOG_FILE), CACHE_BYTES, progress.clone())?;
        let options = StorageOptions {
            cache_bytes: CACHE_BYTES as u64,
            checkpoint_interval: millis(self.settings.checkpoint_ms),
        };
        let state = state_redb::open_on(disk, &dir, options, progress.clone())?;
        let (reader, inbox) = (state.reader(), state.inbox());
        let found = found(&mut log, &reader).await?;
        self.world.note(self.id, format_args!("found {} entries, {:?}", found.entries.len(), found.state));
        self.world.saw(&Event::Started { node: self.id, life, found: &found });

        let settings = RaftSettings {
            node_id: self.id,
            timings: self.settings.timings(),
            snapshot_every_entries: self.settings.snapshot_every,
            log_kept_entries: self.settings.log_kept,
            replication_lag_max_entries: self.settings.lag_max,
        };
        let network = SimulatedNetwork::new(self.id, self.network.clone());
        let log = ObservedLog::new(log, self.id, self.world.clone());
        let raft = construct::start(&settings, network, log, state).await?;
        let freshness = Arc::new(Freshness::default());
        let service = KvService::new(ServiceParts {
            raft: raft.clone(),
            operations: Operations::on(raft.clone()),
            reader: reader.clone(),
            timings: settings.timings,
            forwarder: Arc::new(SimulatedForwarder::new(self.id, self.network.clone())),
            freshness: freshness.clone(),
            disk: Arc::new(Pressure::new(Arc::new(Space::endless()), progress.clone(), reader.clone())),
        });
        let own = self.peer();
        let cluster = RaftCluster::new(service.clone(), metadata, Arc::new(move || own.clone()));
        station.open(Handlers {
            raft: raft.clone(),
            inbox,
            service: service.clone(),
            freshness,
            reader: reader.clone(),
        });
        lock(&self.state).running = Some(Running {
            life,
            station: station.clone(),
            raft: raft.clone(),
            cluster: Arc::new(cluster),
            reader,
            progress,
        });

        let recovering = service.clone();
        tokio::spawn(async move { recovering.recover().await });
        tokio::spawn(history::keep_bounded(service, self.settings.keep_revisions));
        self.follow(life, raft, station).await;
        Ok(())
    }

    /// Follows Raft: lets members in, tells of leaders, and of its end.
    async fn follow(&self, life: u64, raft: RaftHandle, station: Arc<Station>) {
        let mut metrics = raft.metrics();
        let (mut members, mut leads) = (None, None);
        loop {
            let (membership, leader, fatal) = {
                let now = metrics.borrow_and_update();
                let leads = now.state == openraft::ServerState::Leader;
                let leader = now.current_leader.filter(|_| leads).map(|leader| (now.current_term, leader));
                (now.membership_config.clone(), leader, now.running_state.clone().err())
            };
            if let Some(fatal) = fatal {
                self.stopped(life, &fatal.to_string());
                return;
            }
            if leads != leader {
                if let Some((term, _)) = leader {
                    self.world.count("leaderships");
                    self.world.milestone(self.id, format_args!("leads in term {term}"));
                }
                leads = leader;
            }
            if members.as_ref() != Some(&membership) {
                self.world.milestone(self.id, membership_text(&membership));
                for removed in station.set_members(Members::of(&membership)) {
                    self.network.cut_off(self.id, removed);
                }
                members = Some(membership);
            }
            if metrics.changed().await.is_err() {
                self.stopped(life, "Raft has ended");
                return;
            }
        }
    }

    /// A process has come to its end by itself.
    fn stopped(&self, life: u64, reason: &str) {
        self.world.milestone(self.id, format_args!("process {life} stopped: {reason}"));
        self.world.count("processes stopped by their disk");
        let excused = lock(&self.state).disk_faults > 0 || !self.disk.is_on();
        if !excused {
            let what = format!("the process of node {} stopped although its disk works", self.id);
            let expected = "it runs until it is stopped";
            self.world.broken(Violation::new("a node stops only for its disk", what, expected, reason));
        }
    }

    /// Starts a process that has stopped by itself again, and again.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            madsim::time::sleep(chance::millis(100, 300)).await;
            let is_dead = {
                let state = lock(&self.state);
                let stopped =
                    |running: &Running| running.raft.metrics().borrow_watched().running_state.is_err();
                let failed = state.disk_faults > 0 && state.running.as_ref().is_none_or(stopped);
                state.is_on && !state.is_paused && failed
            };
            if is_dead {
                self.end(End::Kill);
                madsim::time::sleep(chance::millis(50, 500)).await;
                self.start();
            }
        }
    }
}

/// What a process finds before it begins.
async fn found(log: &mut RedbLog, reader: &StateReader) -> anyhow::Result<Found> {
    let mut entries = log.reader();
    Ok(Found {
        vote: entries.read_vote().await?,
        purged: log.get_log_state().await?.last_purged_log_id,
        entries: entries.try_get_log_entries(0..u64::MAX).await?,
        state: reader.digest()?,
    })
}

/// A membership by its ids: while it changes, with both sets of voters.
fn membership_text(membership: &StoredMembership) -> String {
    let ids = |nodes: BTreeSet<NodeId>| nodes.iter().map(|id| format!("n{id}")).collect::<Vec<_>>().join(" ");
    let joint = membership.membership().get_joint_config();
    let voters: Vec<String> = joint.iter().map(|voters| ids(voters.clone())).collect();
    let learners = ids(membership.membership().learner_ids().collect());
    format!("membership: voters [{}], learners [{learners}]", voters.join("] and ["))
}

/// How others know a node.
pub fn peer(id: NodeId) -> Peer {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.0.to_be_bytes());
    Peer { node_id: id, info: NodeInfo { public_key: PublicKey(key), ..NodeInfo::default() } }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
