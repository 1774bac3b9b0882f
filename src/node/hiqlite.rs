//! A node on the control backend `hiqlite`: no iroh, no Raft of its own, and the same HTTP API.
//!
//! # Tiger Style
//! Hiqlite runs in tasks of its own. What it does not survive ends the node with the reason.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hiqlite::{Client, LogSync, Node, NodeConfig, RaftConfig};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::data_dir::{DataDir, HIQLITE_DIR};
use super::error::NodeError;
use super::parts::Parts;
use super::supervisor::{Part, PartResult, Supervision};
use super::systemd::Systemd;
use super::{Banner, Surroundings, stop_timeout, systemd};
use crate::api::{self, ApiState, PeerError, PeerExchange};
use crate::config::{Bootstrap, Config, HiqliteConfig, HiqliteMode, HiqliteTls, NetworkProfile};
use crate::hiqlite::ticket::Ticket;
use crate::hiqlite::{
    BACKEND, CallError, Founding, HiqliteCluster, HiqliteStore, Link, Management, Membership, Stage, View,
};
use crate::kv::interface::{ClusterController, NodeAgents};
use crate::kv::json::KnownPeer;
use crate::kv::token::HttpToken;
use crate::kv::types::{AgentError, AgentReply, AgentRequest, NodeId, NodeInfo, NodeView, Peer, SecretHash};
use crate::limits;
use crate::storage::log_redb::LOG_FILE;
use crate::storage::metadata::METADATA_FILE;
use crate::storage::state_redb::STATE_FILE;
use crate::transport;

/// A node that Hiqlite asks, besides itself, whether it is let in. Its id belongs to none.
const ECHO_ID: u64 = u64::MAX;

/// What the API shows of a member that is a client alone.
const CLIENT_TICKET: &str =
    "this process is a client of a Hiqlite cluster, and no member that could be added";

/// Runs a node on Hiqlite until `stop` is cancelled or a part of it fails for good.
pub(super) async fn run(
    around: Surroundings,
    stop: CancellationToken,
    announce: impl FnOnce(&Banner),
) -> Result<(), NodeError> {
    let Surroundings { figures, logs, settings, .. } = around;
    let config = settings.config;
    let data_dir = DataDir::open(&config.data_dir)?;
    let home = data_dir.path().join(HIQLITE_DIR);
    refuse_other_backend(data_dir.path(), &home, config.hiqlite.mode)?;
    let token = config.read_http_token()?.map(|secret| HttpToken::new(secret.expose())).transpose()?;
    transport::tls::choose_provider();
    let secret_api = config.read_hiqlite_secret_api()?.expose().to_owned();
    let tls = config.hiqlite.tls;
    let is_verified = tls == HiqliteTls::Verified;
    let management = Management::new(secret_api.clone(), tls != HiqliteTls::Off, is_verified);
    let management = management.map_err(NodeError::Hiqlite)?;

    let http = |source| NodeError::Http { addr: config.http_addr, source };
    let listener = TcpListener::bind(config.http_addr).await.map_err(http)?;
    let http_addr = listener.local_addr().map_err(http)?;

    let parts_stop = CancellationToken::new();
    let supervision = Supervision::start(parts_stop.clone()).await?;
    let (drained, http_stop) = (CancellationToken::new(), parts_stop.child_token());
    let parts = Parts { supervision: &supervision, stop: &parts_stop, http_stop: &http_stop };
    let node_id = config.node_id.unwrap_or(NodeId(1));
    let (link, founding, ticket) = match config.hiqlite.mode {
        HiqliteMode::Embedded => {
            let HiqliteConfig { raft_addr, api_addr, .. } = config.hiqlite;
            let ticket = Ticket { node_id, raft_addr, api_addr };
            let membership =
                Membership::open(&home, ticket).map_err(|error| NodeError::Hiqlite(error.to_string()))?;
            let (founding, founded) = founding(&config, node_id, &membership);
            let link = Arc::new(Link::new(node_id, true, first_stage(node_id, &membership)));
            let secret_raft = config.read_hiqlite_secret_raft()?.expose().to_owned();
            let raft = raft_config(config.network_profile);
            let settings = node_config(&ticket, &home, &membership, tls, raft, (secret_raft, secret_api));
            let part = embedded(settings, link.clone(), membership, ticket, founded, parts_stop.clone());
            supervision.run(Part::vital("hiqlite", part));
            (link, founding, ticket.to_string())
        }
        HiqliteMode::Remote => {
            let reason = "it was not reached yet".to_owned();
            let link = Arc::new(Link::new(node_id, false, Stage::Connecting { reason }));
            let nodes = config.hiqlite.nodes.clone();
            let client = RemoteClient { nodes, tls, secret_api, management: management.clone() };
            supervision.run(Part::vital("hiqlite", client.follow(link.clone(), parts_stop.clone())));
            let waits_for = "it is a client of a Hiqlite cluster, which its own nodes found".to_owned();
            (link, Founding::Never(waits_for), CLIENT_TICKET.to_owned())
        }
    };
    data_dir.write_endpoint_file(&ticket)?;

    let cluster = Arc::new(HiqliteCluster::new(link.clone(), management, founding));
    let state = ApiState {
        kv: Arc::new(HiqliteStore::new(link.clone())),
        cluster: cluster.clone(),
        agents: Arc::new(NoAgents),
        peers: Arc::new(Tickets { own: ticket }),
        render_metrics: Arc::new(move || figures.render()),
        // There is no such endpoint.
        render_iroh_metrics: Arc::new(String::new),
        token,
    };
    parts.http(listener, api::router(state), drained.clone());
    announce(&banner(&config, node_id, http_addr, data_dir.path(), &cluster));
    systemd::ready(&cluster.status());
    if let Some(systemd) = Systemd::find(None, cluster.clone(), logs) {
        parts.systemd(systemd);
    }

    tokio::select! {
        () = stop.cancelled() => {}
        () = parts_stop.cancelled() => {}
    }
    systemd::stopping();
    http_stop.cancel();
    // It serves on for most of its stop.
    let drain = tokio::time::timeout(stop_timeout(), drained.cancelled());
    let (in_work, ()) = tokio::join!(drain, shut_down(&link));
    if in_work.is_err() {
        tracing::warn!("requests were still in work {} ms after the stop", limits::STOP_TIMEOUT_MS);
    }
    parts_stop.cancel();
    supervision.stop().await;
    drop(data_dir);
    match supervision.failure() {
        Some(reason) => Err(NodeError::PartFailed(reason.to_owned())),
        None => Ok(()),
    }
}

/// A directory holds the data of one backend: two would each acknowledge writes that the other one never saw.
fn refuse_other_backend(dir: &Path, home: &Path, mode: HiqliteMode) -> Result<(), NodeError> {
    let other = [LOG_FILE, STATE_FILE, METADATA_FILE].into_iter().find(|name| dir.join(name).exists());
    if let Some(holds) = other {
        return Err(NodeError::OtherBackend { dir: dir.to_owned(), holds, backend: "raft" });
    }
    if mode == HiqliteMode::Remote && home.exists() {
        return Err(NodeError::OtherBackend {
            dir: dir.to_owned(),
            holds: HIQLITE_DIR,
            backend: "hiqlite with hiqlite.mode = \"embedded\"",
        });
    }
    Ok(())
}

/// Whether the node may found a cluster, and what tells its part to go on.
fn founding(config: &Config, node_id: NodeId, membership: &Membership) -> (Founding, Option<Arc<Notify>>) {
    if node_id != NodeId(1) {
        let waits_for =
            "Hiqlite founds a cluster on node 1; run `aspen init` there, and add this node with its ticket";
        return (Founding::Never(waits_for.to_owned()), None);
    }
    let founded = Arc::new(Notify::new());
    if config.bootstrap == Bootstrap::Auto || membership.is_known {
        founded.notify_one();
    }
    (Founding::OnInit(founded.clone()), Some(founded))
}

fn first_stage(node_id: NodeId, membership: &Membership) -> Stage {
    if membership.was_member() {
        return Stage::Connecting { reason: "the node replays its log after a start".to_owned() };
    }
    let reason = match node_id {
        NodeId(1) => format!("node {node_id} belongs to no cluster yet: run `aspen init` here to start one"),
        _ => format!(
            "node {node_id} belongs to no cluster yet: run `aspen member add-learner` with this node's ticket on a member"
        ),
    };
    Stage::Waiting { reason }
}

fn node_config(
    ticket: &Ticket,
    home: &Path,
    membership: &Membership,
    tls: HiqliteTls,
    raft_config: RaftConfig,
    (secret_raft, secret_api): (String, String),
) -> NodeConfig {
    let own =
        |id: u64| Node { id, addr_raft: ticket.raft_addr.to_string(), addr_api: ticket.api_addr.to_string() };
    let mut nodes = vec![own(ticket.node_id.0)];
    if ticket.node_id != NodeId(1) && !membership.was_member() {
        // A node that waits to be added asks all others without a pause, and would do nothing else where
        // there are none. This one, itself, has it pause between two times. The leader is never asked: who
        // comes in is decided there.
        nodes.push(own(ECHO_ID));
    }
    let tls = (tls != HiqliteTls::Off).then_some(hiqlite::tls::ServerTlsConfig::TlsAutoCertificates);
    NodeConfig {
        node_id: ticket.node_id.0,
        nodes,
        listen_addr_api: listen_ip(ticket.api_addr.ip()).into(),
        listen_addr_raft: listen_ip(ticket.raft_addr.ip()).into(),
        data_dir: home.to_string_lossy().into_owned().into(),
        // What is acknowledged is on disk.
        wal_sync: LogSync::Immediate,
        wal_size: limits::HIQLITE_WAL_BYTES,
        raft_config,
        tls_raft: tls.clone(),
        tls_api: tls,
        secret_raft,
        secret_api,
        // A vote is given by whoever asks for it.
        learner_only: true,
        ..NodeConfig::default()
    }
}

/// How long a leader may be silent. A follower waits for the longest election timeout, then for its own, and looks
/// at the clock every one and a half heartbeats. Whoever was connected to the old leader has to find the new one in
/// the seconds after that: Hiqlite's clients try five times, a second apart, and then every five seconds.
fn raft_config(profile: NetworkProfile) -> RaftConfig {
    let (election_timeout_min, election_timeout_max) = match profile {
        NetworkProfile::Lan => limits::HIQLITE_ELECTION_LAN_TIMEOUT_MS,
        NetworkProfile::Wan => limits::HIQLITE_ELECTION_WAN_TIMEOUT_MS,
    };
    RaftConfig {
        heartbeat_interval: limits::HIQLITE_HEARTBEAT_INTERVAL_MS,
        election_timeout_min,
        election_timeout_max,
        ..NodeConfig::default_raft_config(limits::HIQLITE_SNAPSHOT_EVERY_ENTRIES)
    }
}

/// As Hiqlite puts a port behind it.
fn listen_ip(ip: std::net::IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// Runs the embedded node.
async fn embedded(
    settings: NodeConfig,
    link: Arc<Link>,
    membership: Membership,
    ticket: Ticket,
    founded: Option<Arc<Notify>>,
    stop: CancellationToken,
) -> PartResult {
    if let Some(founded) = founded
        && stop.run_until_cancelled(founded.notified()).await.is_none()
    {
        return Ok(());
    }
    if !membership.is_known {
        membership.claim(ticket)?;
    }
    // In a task: what it takes for impossible is a panic.
    let starting = tokio::spawn(hiqlite::start_node(settings));
    let abort = starting.abort_handle();
    let Some(started) = stop.run_until_cancelled(starting).await else {
        abort.abort();
        return Ok(());
    };
    let client = started?.map_err(|error| anyhow::anyhow!("Hiqlite did not start: {error}"))?;
    membership.note_member()?;
    tracing::info!("the Hiqlite node has started");
    link.enter(Stage::Up(client));
    let mut ticks = ticks();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(link.refresh()).await;
    }
    Ok(())
}

/// Looks at the cluster come as often as this.
fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::HIQLITE_POLL_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Stops an embedded node in order, so that its next start need not make the database anew.
async fn shut_down(link: &Link) {
    let Some(client) = link.embedded_client() else { return };
    let bound = Duration::from_millis(limits::HIQLITE_STOP_TIMEOUT_MS);
    match tokio::time::timeout(bound, client.shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the Hiqlite node did not stop in order: {error}"),
        Err(_) => tracing::warn!("the Hiqlite node did not stop within {} ms", bound.as_millis()),
    }
}

/// A client of a cluster that runs elsewhere.
struct RemoteClient {
    nodes: Vec<String>,
    tls: HiqliteTls,
    secret_api: String,
    management: Management,
}

impl RemoteClient {
    /// Keeps the view of the cluster up to date, and connects once it is there.
    async fn follow(self, link: Arc<Link>, stop: CancellationToken) -> PartResult {
        let mut ticks = ticks();
        let mut connecting = None;
        loop {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                return Ok(());
            }
            let Some((view, ())) =
                stop.run_until_cancelled(futures::future::join(self.look(), link.refresh())).await
            else {
                return Ok(());
            };
            let is_there = view.as_ref().is_ok_and(|view| view.leader().is_some());
            if let Err(reason) = &view {
                tracing::debug!("the Hiqlite cluster does not answer: {reason}");
            }
            link.saw(view);
            // Before it is there, the client would wait for it without an end and say nothing.
            if is_there && connecting.is_none() {
                connecting = Some(tokio::spawn(self.connect(link.clone())));
            }
            if connecting.as_ref().is_some_and(|task| task.is_finished() && !link.is_up()) {
                connecting = None;
            }
        }
    }

    /// The newest of the views that the nodes have.
    async fn look(&self) -> Result<View, String> {
        let bound = Duration::from_millis(limits::HIQLITE_PING_TIMEOUT_MS);
        let asked = self.nodes.iter().map(|addr| self.management.view(addr, bound));
        let mut newest: Option<View> = None;
        let mut reasons = Vec::new();
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(view) => {
                    let rank = |view: &View| {
                        (view.leader().is_some(), view.term(), view.since_quorum_ms().is_some())
                    };
                    if newest.as_ref().is_none_or(|newest| rank(&view) > rank(newest)) {
                        newest = Some(view);
                    }
                }
                Err(reason) => reasons.push(reason),
            }
        }
        newest.ok_or_else(|| CallError::told(&reasons))
    }

    fn connect(&self, link: Arc<Link>) -> impl Future<Output = ()> + Send + 'static {
        let (nodes, secret) = (self.nodes.clone(), self.secret_api.clone());
        let (tls, no_verify) = (self.tls != HiqliteTls::Off, self.tls != HiqliteTls::Verified);
        async move {
            match Client::remote(nodes, tls, no_verify, secret, false, None).await {
                Ok(client) => link.enter(Stage::Up(client)),
                Err(error) => tracing::warn!("cannot connect to the Hiqlite cluster: {error}"),
            }
        }
    }
}

fn banner(
    config: &Config,
    node_id: NodeId,
    http_addr: std::net::SocketAddr,
    data_dir: &Path,
    cluster: &HiqliteCluster,
) -> Banner {
    let HiqliteConfig { mode, raft_addr, api_addr, nodes, .. } = &config.hiqlite;
    let backend = match mode {
        HiqliteMode::Embedded => format!("embedded, raft on {raft_addr}, API on {api_addr}"),
        HiqliteMode::Remote => format!("client of {}", nodes.join(", ")),
    };
    Banner {
        peer: Peer { node_id, info: NodeInfo::default() },
        http_addr,
        data_dir: data_dir.to_owned(),
        status: cluster.status(),
        in_memory: false,
        makes_no_cluster: node_id != NodeId(1) || *mode == HiqliteMode::Remote,
        hiqlite: Some(backend),
    }
}

/// Nodes of Hiqlite have no agents of Aspen's.
struct NoAgents;

#[async_trait]
impl NodeAgents for NoAgents {
    async fn overview(&self) -> Vec<NodeView> {
        Vec::new()
    }

    async fn ask(&self, _: NodeId, _: AgentRequest) -> Result<AgentReply, AgentError> {
        Err(AgentError::UnsupportedByBackend { backend: BACKEND.to_owned() })
    }
}

/// Tickets of embedded nodes.
struct Tickets {
    own: String,
}

#[async_trait]
impl PeerExchange for Tickets {
    fn ticket(&self) -> String {
        self.own.clone()
    }

    fn known_peers(&self) -> Vec<KnownPeer> {
        Vec::new()
    }

    fn parse_ticket(&self, ticket: &str) -> Result<Peer, PeerError> {
        let parsed: Ticket = ticket.parse().map_err(|error: crate::hiqlite::ticket::ParseTicketError| {
            PeerError::BadTicket { ticket: ticket.to_owned(), reason: error.to_string() }
        })?;
        Ok(parsed.into())
    }

    fn draw_join_ticket(&self) -> Option<(String, SecretHash)> {
        // The cluster refuses to issue it, and says why.
        Some((String::new(), SecretHash([0; 32])))
    }

    async fn add_peers(&self, _: Vec<Peer>) -> Result<(), PeerError> {
        Err(PeerError::UnsupportedByBackend { backend: BACKEND.to_owned() })
    }
}
