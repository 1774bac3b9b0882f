//! Nodes on the control backend `hiqlite`: embedded ones, and clients of those.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::node::Node;

/// Where an embedded node's API listens, for clients of it.
pub struct Embedded {
    /// The node.
    pub node: Node,
    /// Its API.
    pub api_addr: SocketAddr,
}

/// TCP ports on loopback that are free at the moment, for servers whose addresses are told before they start.
fn free_tcp_ports<const N: usize>() -> [SocketAddr; N] {
    // All are held until all are known, or two could be the same.
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port on loopback is free"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address"))
}

/// A file with a secret.
pub fn secret(base: &Path, name: &str, text: &str) -> PathBuf {
    let path = base.join(name);
    fs::write(&path, text).expect("a file can be written");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode can be set");
    path
}

fn on_hiqlite(id: u64, base: &Path, http_addr: SocketAddr) -> Node {
    secret(base, "secret-raft", "ASecretOfTheNodes");
    secret(base, "secret-api", "ASecretOfTheClients");
    let path = |name: &str| base.join(name).to_str().expect("the name is UTF-8").to_owned();
    Node::new(id, base, &["--control-backend", "hiqlite", "--bootstrap", "manual"])
        .at_http_addr(http_addr)
        .with_env("ASPEN_HIQLITE__SECRET_RAFT_FILE", &path("secret-raft"))
        .with_env("ASPEN_HIQLITE__SECRET_API_FILE", &path("secret-api"))
}

impl Embedded {
    /// An embedded node that is not started yet.
    pub fn new(id: u64, base: &Path) -> Self {
        let [http_addr, raft_addr, api_addr] = free_tcp_ports();
        let node = on_hiqlite(id, base, http_addr)
            .with_env("ASPEN_HIQLITE__RAFT_ADDR", &raft_addr.to_string())
            .with_env("ASPEN_HIQLITE__API_ADDR", &api_addr.to_string());
        Self { node, api_addr }
    }

    /// Sets a variable of the environment for the starts to come.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.node = self.node.with_env(name, value);
        self
    }

    /// One that has founded its cluster.
    pub fn founded(base: &Path) -> Self {
        Self::new(1, base).found()
    }

    /// Starts it, and has it found its cluster.
    pub fn found(mut self) -> Self {
        self.node.start();
        self.node.post("/init", &json!({})).ok();
        self
    }

    /// Adds a node, which must run, as a learner.
    pub fn add(&self, other: &Node) -> Value {
        self.node.post("/add-learner", &json!({ "ticket": other.endpoint() })).ok()
    }
}

/// A client of these nodes' cluster.
pub fn remote(id: u64, base: &Path, nodes: &[SocketAddr]) -> Node {
    let [http_addr] = free_tcp_ports();
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    on_hiqlite(id, base, http_addr)
        .with_env("ASPEN_HIQLITE__MODE", "remote")
        .with_env("ASPEN_HIQLITE__NODES", &nodes.join(","))
}
