//! Real `aspen-node` processes on loopback, each with its own data directory and ports of its own
//! choice, stopped when dropped.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use aspen::kv::client::{Address, KvClient};
use aspen::kv::types::{ClusterStatus, NodeId, NodeState, Peer, Role};
use aspen::transport::ticket::NodeTicket;

/// The longest that anything in these tests waits for something to become true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One node: its data directory, and its process while it runs.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its data directory.
    pub dir: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
    /// Kept across restarts, so that clients find the node again.
    http_addr: SocketAddr,
    /// Kept across restarts, unless the node is made to move.
    iroh_addr: SocketAddr,
}

/// Any free port on loopback.
fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Node {
    /// A node that is not started yet. `flags` go behind those that place it on loopback.
    pub fn new(id: u64, base: &Path, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            id,
            dir: base.join(format!("n{id}")),
            flags,
            process: None,
            http_addr: any_port(),
            iroh_addr: any_port(),
        }
    }

    /// Adds flags for the starts to come.
    pub fn with_flags<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Starts the process and waits until it answers over HTTP.
    pub fn start(&mut self) {
        self.spawn();
        let until = Instant::now() + PATIENCE;
        while self.ticket().is_none() {
            if let Some(status) = self.exited() {
                panic!("node {} ended at once with {status}:\n{}", self.id, self.log());
            }
            assert!(Instant::now() < until, "node {} wrote no ticket:\n{}", self.id, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.http_addr = self.http();
        self.iroh_addr = self.peer().info.addresses[0];
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        // The ticket of an earlier process would send us to ports that are gone.
        std::fs::remove_file(self.dir.join("endpoint")).ok();
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log opens");
        let child = Command::new(env!("CARGO_BIN_EXE_aspen-node"))
            .args(["--node-id", &self.id.to_string()])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["--http-addr", &self.http_addr.to_string()])
            .args(["--iroh-addr", &self.iroh_addr.to_string(), "--log-format", "text"])
            .args(&self.flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("the node's binary starts");
        self.process = Some(child);
    }

    /// Has the node come back at another iroh port at its next start.
    pub fn move_at_next_start(&mut self) {
        self.iroh_addr = any_port();
    }

    /// Ends the process as a power cut of the process would.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("the node runs");
        child.kill().expect("the process can be killed");
        child.wait().expect("the process can be waited for");
    }

    /// Ends the process as systemd would, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("the node runs");
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success(), "SIGTERM was not sent to node {}", self.id);
        wait_for_exit(&mut child)
            .unwrap_or_else(|| panic!("node {} ignores SIGTERM:\n{}", self.id, self.log()))
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("the node runs");
        wait_for_exit(&mut child).unwrap_or_else(|| panic!("node {} still runs:\n{}", self.id, self.log()))
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let child = self.process.as_mut()?;
        child.try_wait().expect("the process can be asked")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    /// Whether the process was started and not ended by the test.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// All that the node has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn ticket(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.join("endpoint")).ok().map(|text| text.trim().to_owned())
    }

    /// The ticket as others need it.
    pub fn endpoint(&self) -> String {
        self.ticket().expect("a started node has written its ticket")
    }

    /// What the ticket says.
    pub fn peer(&self) -> Peer {
        let ticket: NodeTicket = self.endpoint().parse().expect("the ticket is valid");
        ticket.into()
    }

    /// Where its HTTP API listens.
    pub fn http(&self) -> SocketAddr {
        self.peer().info.http_addr.expect("the ticket holds the HTTP address")
    }

    /// A client of this node alone.
    pub fn client(&self) -> KvClient {
        client_of([self.http()])
    }

    /// The cluster as this node sees it.
    pub async fn status(&self) -> ClusterStatus {
        self.client()
            .status()
            .await
            .unwrap_or_else(|error| panic!("node {}: {error}\n{}", self.id, self.log()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- node {}\n{}", self.id, self.log());
        }
    }
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the process can be asked") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// A client of several nodes.
pub fn client_of(nodes: impl IntoIterator<Item = SocketAddr>) -> KvClient {
    KvClient::builder()
        .addresses(nodes.into_iter().map(Address::from))
        .build()
        .expect("the addresses are valid")
}

/// Several nodes that form one cluster. The directory goes when this is dropped.
pub struct Cluster {
    /// The nodes, by id from 1.
    pub nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` nodes and makes them voters of one cluster.
    pub async fn start(count: u64, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut nodes = vec![Node::new(1, dir.path(), flags).with_flags(["--bootstrap", "auto"])];
        nodes[0].start();
        for id in 2..=count {
            let mut node =
                Node::new(id, dir.path(), flags).with_flags(["--peer".to_owned(), nodes[0].endpoint()]);
            node.start();
            nodes.push(node);
        }
        let first = nodes[0].client();
        eventually("node 1 leads", async || nodes[0].status().await.role == Role::Leader).await;
        for node in &nodes[1..] {
            first.add_learner(node.endpoint()).await.expect("a learner can be added");
        }
        if count > 1 {
            first.set_voters((1..=count).map(NodeId).collect()).await.expect("learners can be promoted");
        }
        Self { nodes, _dir: dir }
    }

    /// A client of all nodes that run.
    pub fn client(&self) -> KvClient {
        client_of(self.running().map(Node::http))
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Waits until the nodes that run agree on a leader, and says which it is (as an index of `nodes`).
    pub async fn leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            for (index, node) in self.nodes.iter().enumerate() {
                if !node.is_running() {
                    continue;
                }
                let status = node.status().await;
                if status.role == Role::Leader && status.state == NodeState::Serving {
                    return index;
                }
            }
            assert!(Instant::now() < until, "no node leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
