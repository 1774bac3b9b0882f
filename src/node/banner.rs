//! What a node says when its ports are open: who it is, and what to try next.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::kv::types::{ClusterStatus, NodeState, Peer};

/// Who a node is, and what to try next.
#[derive(Clone, Debug)]
pub struct Banner {
    /// The node's id, key and addresses.
    pub peer: Peer,
    /// Where its HTTP API listens.
    pub http_addr: SocketAddr,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// How it stands.
    pub status: ClusterStatus,
    /// Whether it forgets everything at its end.
    pub in_memory: bool,
    /// Whether it comes to a cluster by itself, and makes none at anybody's word.
    pub makes_no_cluster: bool,
    /// How it takes part in a Hiqlite cluster, where that is its backend.
    pub hiqlite: Option<String>,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, http_addr, data_dir, status, in_memory, makes_no_cluster, hiqlite } = self;
        writeln!(f, "Aspen {} — node {}", env!("CARGO_PKG_VERSION"), peer.node_id)?;
        if let Some(hiqlite) = hiqlite {
            writeln!(f, "  hiqlite     {hiqlite}")?;
            writeln!(f, "  HTTP API    http://{http_addr}")?;
        } else {
            let addresses: Vec<String> = peer.info.addresses.iter().map(ToString::to_string).collect();
            writeln!(f, "  public key  {}", peer.info.public_key)?;
            writeln!(f, "  HTTP API    http://{http_addr}")?;
            match (addresses.is_empty(), &peer.info.relay_url) {
                (true, Some(relay)) => writeln!(f, "  iroh        by relay alone, {relay}")?,
                (..) => writeln!(f, "  iroh (UDP)  {}", addresses.join(", "))?,
            }
        }
        writeln!(f, "  data        {}", data_dir.display())?;
        writeln!(f, "  state       {}", status.detail)?;
        if *in_memory {
            writeln!(
                f,
                "  WARNING     --storage memory: all data, and this node's votes, are gone when it ends"
            )?;
        }
        let ticket = data_dir.join("endpoint");
        if status.state == NodeState::WaitingForInit && *makes_no_cluster {
            writeln!(f, "\nIts ticket, for its peers: {}", ticket.display())
        } else if status.state == NodeState::WaitingForInit {
            writeln!(f, "\nIts ticket, for other nodes: {}\nTry:", ticket.display())?;
            writeln!(
                f,
                "  aspen --addr {http_addr} init                                   # a cluster of this node"
            )?;
            writeln!(
                f,
                "  aspen --addr MEMBER member add-learner \"$(cat {})\"   # or join one",
                ticket.display()
            )
        } else {
            writeln!(f, "\nTry:")?;
            writeln!(f, "  aspen --addr {http_addr} put greeting hello")?;
            writeln!(f, "  aspen --addr {http_addr} get greeting")?;
            writeln!(f, "  curl -s http://{http_addr}/health")
        }
    }
}
