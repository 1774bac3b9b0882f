//! One running node: its parts are started in order, and stopped in reverse.
//!
//! Nothing opens before the configuration is valid, no port before the data directory is this node's
//! alone. A part that fails for good ends the node with the reason.

mod actors;
pub mod arenas;
mod banner;
pub mod care;
pub mod data_dir;
mod error;
mod founder;
mod free_space;
mod ground;
#[cfg(feature = "hiqlite")]
mod hiqlite;
mod host;
pub mod identity;
pub mod join;
pub mod open_files;
mod parts;
mod peers;
mod raft_start;
mod reload;
mod static_start;
pub mod supervisor;
mod systemd;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ractor::Actor;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_util::sync::CancellationToken;

use self::actors::Actors;
pub use self::banner::Banner;
use self::data_dir::DataDir;
pub use self::error::NodeError;
use self::ground::Ground;
use self::host::ProcessHost;
use self::parts::Parts;
use self::peers::Exchange;
use self::reload::Reload;
pub use self::reload::SettingsSource;
use self::static_start::StaticStart;
use self::supervisor::Supervision;
use self::systemd::Systemd;
use crate::api::{self, ApiState};
use crate::cluster::agent::{AgentParts, NodeAgent};
use crate::cluster::agents::Agents;
use crate::cluster::node_server::ProcessName;
use crate::cluster::sessions::Sessions;
use crate::config::{Bootstrap, Config, Loaded, Storage};
use crate::kv::interface::ClusterController;
use crate::kv::service::cluster::RaftCluster;
use crate::kv::service::founding::FoundingProgress;
use crate::kv::service::{KvService, ServiceParts};
use crate::limits;
use crate::metrics::Metrics;
use crate::raft::RaftHandle;
use crate::raft::actor::RaftActor;
use crate::raft::construct::RaftStartError;
use crate::raft::freshness::Freshness;
use crate::raft::operations::Operations;
use crate::storage::metadata::Metadata;
use crate::telemetry::LogControl;
use crate::transport::Transport;
use crate::transport::server::Handlers;
use crate::transport::ticket::NodeTicket;

/// What a node shares with the rest of its process.
pub struct Surroundings {
    /// The figures of the process.
    pub figures: Metrics,
    /// Its logs.
    pub logs: LogControl,
    /// The settings of the node.
    pub settings: Loaded,
    /// How they are read again.
    pub source: SettingsSource,
}

/// Runs a node until `stop` is cancelled or a part of it fails for good. `announce` is told once its
/// ports are open.
///
/// # Errors
/// [`NodeError`], which says what to do.
pub async fn run(
    around: Surroundings,
    stop: CancellationToken,
    announce: impl FnOnce(&Banner),
) -> Result<(), NodeError> {
    #[cfg(feature = "hiqlite")]
    if around.settings.config.control_backend == crate::config::ControlBackend::Hiqlite {
        return Box::pin(hiqlite::run(around, stop, announce)).await;
    }
    // The parts go on while this node, which was told to stop, hands the leadership over.
    let parts_stop = CancellationToken::new();
    let node = Node::start(around, &stop, parts_stop.clone()).await?;
    announce(&node.banner());
    systemd::ready(&node.cluster.status());
    tokio::select! {
        () = stop.cancelled() => {
            systemd::stopping();
            tokio::select! {
                () = node.service.leave() => {}
                () = parts_stop.cancelled() => {}
            }
        }
        () = parts_stop.cancelled() => systemd::stopping(),
    }
    node.stop(&parts_stop).await
}

/// The running parts.
struct Node {
    // Held for its lock until everything else has stopped.
    data_dir: DataDir,
    supervision: Supervision,
    transport: Transport,
    cluster: Arc<RaftCluster>,
    service: KvService,
    http_addr: SocketAddr,
    /// Has the HTTP server answer what it has begun, and take nothing new.
    http_stop: CancellationToken,
    /// Cancelled once it has.
    drained: CancellationToken,
    config: Config,
    /// Whether it was given a ticket to join a cluster with.
    joins: bool,
}

impl Node {
    async fn start(
        around: Surroundings,
        asked_to_stop: &CancellationToken,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        let ground = Ground::prepare(around.settings.config.clone(), asked_to_stop).await?;
        let transport = ground.transport.clone();
        let node = Self::start_on(ground, around, stop).await;
        if node.is_err() {
            transport.close().await;
        }
        node
    }

    /// Starts what needs the ground below it.
    async fn start_on(
        ground: Ground,
        around: Surroundings,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        let Ground { config, data_dir, metadata, transport, token, come_in, listener, http_addr, relay } =
            ground;
        let Surroundings { figures, logs, settings, source } = around;
        let timings = raft_start::timings(&config);
        let started = raft_start::start(&config, &data_dir, &metadata, &transport, timings).await?;
        let supervision = Supervision::start(stop.clone()).await?;
        let (actor, _) = Actor::spawn(None, RaftActor, started.raft.clone()).await?;
        supervision.adopt(actor.get_cell(), "raft");

        let freshness = Arc::new(Freshness::default());
        let service = KvService::new(ServiceParts {
            raft: started.raft.clone(),
            operations: Operations::of(actor),
            reader: started.reader.clone(),
            timings,
            forwarder: Arc::new(transport.clone()),
            freshness: freshness.clone(),
            disk: started.disk.clone(),
        });
        let own = transport.clone();
        let own_peer = Arc::new(move || own.own_peer());
        let cluster = RaftCluster::new(service.clone(), metadata.clone(), own_peer);
        let founding = transport.founders().map(|founders| {
            (
                founders.clone(),
                FoundingProgress::new(format!("asks its peers, to found a cluster of nodes {founders}")),
            )
        });
        let cluster = Arc::new(match &founding {
            Some((_, progress)) => cluster.founding(progress.clone()),
            None if metadata.came_in() => cluster.founding(FoundingProgress::new(
                "it was let into a cluster with a ticket, and waits to be made a member there",
            )),
            None => cluster,
        });
        let settings = Arc::new(Mutex::new(settings));
        let host = ProcessHost {
            logs: logs.clone(),
            settings: settings.clone(),
            figures: figures.clone(),
            transport: transport.clone(),
            data_dir: data_dir.path().to_owned(),
        };
        let agent = NodeAgent::start(Arc::new(AgentParts {
            raft: started.raft.clone(),
            service: service.clone(),
            reader: started.reader.clone(),
            cluster: cluster.clone(),
            transport: transport.clone(),
            host: Arc::new(host),
            started: Instant::now(),
        }))
        .await?;
        supervision.adopt(agent.get_cell(), "agent");
        let sessions = Sessions::default();
        let agents = Agents::new(agent, sessions.clone(), transport.clone(), cluster.clone());
        let (actors, opened) = mpsc::channel(limits::ACTOR_STREAMS_WAITING_MAX_COUNT);
        let exchange = Arc::new(Exchange::new(transport.clone(), metadata.clone()));

        data_dir.write_endpoint_file(&NodeTicket(transport.own_peer()).to_string())?;
        let (drained, joins) = (CancellationToken::new(), come_in.is_some());
        // Of its own: clients get their answers while the other parts, which answer them, still run.
        let http_stop = stop.child_token();
        let parts = Parts { supervision: &supervision, stop: &stop, http_stop: &http_stop };
        let handlers = Handlers {
            raft: started.raft.clone(),
            inbox: started.inbox,
            forward: Arc::new(service.clone()),
            store: Arc::new(service.clone()),
            freshness,
            reader: started.reader.clone(),
            disk: started.disk,
            actors,
        };
        parts.transport(transport.clone(), handlers);
        if let Some(listener) = relay {
            parts.relay(transport.clone(), listener);
        }
        let (iroh, transports) = (transport.clone(), figures.clone());
        let state = ApiState {
            kv: Arc::new(service.clone()),
            cluster: cluster.clone(),
            peers: exchange,
            agents: Arc::new(agents),
            render_metrics: {
                let figures = figures.clone();
                Arc::new(move || figures.render())
            },
            render_iroh_metrics: Arc::new(move || {
                transports.render_transport() + &iroh.metrics_text().unwrap_or_default()
            }),
            token,
        };
        parts.http(listener, api::router(state), drained.clone());
        parts.recovery(service.clone());
        parts.promotion(service.clone());
        if let Some(come_in) = come_in {
            parts.come_in(come_in, transport.clone(), started.raft.clone(), metadata.clone());
        }
        parts.disk(service.clone());
        parts.removal(service.clone());
        parts.history(service.clone(), config.kv.history_revisions);
        let every_bytes = config.raft.snapshot_every_bytes;
        parts.log_bounds(started.raft.clone(), started.reader.clone(), every_bytes);
        parts.membership(started.raft.clone(), transport.clone());
        if founder::founds_by_itself(&config, joins) {
            parts.founder(started.raft.clone());
        }
        parts.vouching(transport.clone());
        let process = ProcessName {
            node_id: metadata.node_id(),
            incarnation: metadata.incarnation(),
            boot: transport.boot(),
        };
        parts.actors(Actors {
            process,
            sessions,
            opened: Arc::new(AsyncMutex::new(opened)),
            raft: started.raft.clone(),
            metadata: metadata.clone(),
            transport: transport.clone(),
        });
        parts.peers(transport.clone(), metadata.clone());
        if let Some((founders, progress)) = founding {
            let (transport, raft) = (transport.clone(), started.raft.clone());
            let (metadata, cluster) = (metadata.clone(), cluster.clone());
            parts.static_start(StaticStart { transport, raft, metadata, cluster, founders, progress });
        }
        parts.endpoint_file(transport.clone(), data_dir.path().to_owned());
        parts.whereabouts(transport.clone());
        parts.addresses_of_members(service.clone());
        if let Some(scrubber) = started.scrubber {
            parts.damage(scrubber.clone());
            parts.scrub(scrubber, Duration::from_secs(config.storage_options.scrub_interval_s));
        }
        parts.figures(figures, started.raft.clone(), started.reader);
        let book = transport.book().clone();
        parts.reload(Reload {
            source,
            in_force: settings,
            logs: logs.clone(),
            book,
            cluster: cluster.clone(),
        });
        if let Some(systemd) = Systemd::find(Some(started.raft.clone()), cluster.clone(), logs) {
            parts.systemd(systemd);
        }

        let node = Self {
            data_dir,
            supervision,
            transport,
            cluster,
            service,
            http_addr,
            http_stop,
            drained,
            config,
            joins,
        };
        node.bootstrap(&started.raft, &metadata).await?;
        Ok(node)
    }

    /// A new node that knows nobody makes a cluster of its own, unless it is told to wait.
    async fn bootstrap(&self, raft: &RaftHandle, metadata: &Metadata) -> Result<(), NodeError> {
        // Asked of Raft itself: right after a start its metrics do not tell yet.
        let is_new = !raft.is_initialized().await.map_err(RaftStartError::from)?;
        if founder::founds_by_itself(&self.config, self.joins) && is_new && metadata.peers().is_empty() {
            self.cluster.init().await.map_err(NodeError::Bootstrap)?;
        }
        Ok(())
    }

    fn banner(&self) -> Banner {
        Banner {
            peer: self.transport.own_peer(),
            http_addr: self.http_addr,
            data_dir: self.data_dir.path().to_owned(),
            status: self.cluster.status(),
            in_memory: self.config.storage == Storage::Memory,
            makes_no_cluster: self.config.bootstrap == Bootstrap::Static || self.joins,
            hiqlite: None,
        }
    }

    async fn stop(self, parts_stop: &CancellationToken) -> Result<(), NodeError> {
        let limit = stop_timeout();
        self.http_stop.cancel();
        if tokio::time::timeout(limit, self.drained.cancelled()).await.is_err() {
            tracing::warn!("requests were still in work {} ms after the stop", limit.as_millis());
        }
        parts_stop.cancel();
        self.supervision.stop().await;
        self.transport.close().await;
        match self.supervision.failure() {
            Some(reason) => Err(NodeError::PartFailed(reason.to_owned())),
            None => Ok(()),
        }
    }
}

/// How long each step of a stop may take.
fn stop_timeout() -> Duration {
    Duration::from_millis(limits::STOP_TIMEOUT_MS)
}
