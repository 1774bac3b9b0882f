//! Nodes of Aspen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aspen::bench::http::{HttpNodes, HttpTarget};
use aspen::kv::client::{Address, KvClient};
use aspen::limits::BENCH_CLIENTS_MAX_COUNT;
use tokio::process::Command;

use super::{leader_first, until_ok, until_ok_within};
use crate::process::{Process, cpu_s, free_port};

/// Time for a node to catch up with millions of keys.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// A cluster, whose nodes end with it.
pub struct AspenCluster {
    programs: PathBuf,
    dir: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    server: Process,
    http: String,
    ticket: String,
}

impl AspenCluster {
    /// Starts three nodes and makes them one cluster.
    pub async fn start(programs: &Path, dir: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::alone(programs, dir).await?;
        cluster.grow_to(3).await?;
        Ok(cluster)
    }

    /// Starts one node, which is a cluster of its own.
    pub async fn alone(programs: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut cluster = Self { programs: programs.to_owned(), dir: dir.to_owned(), nodes: Vec::new() };
        let first = cluster.start_node(1).await?;
        cluster.nodes.push(first);
        Ok(cluster)
    }

    /// Adds nodes with a vote, one after another. Returns the longest that one took to catch up and get it.
    pub async fn grow_to(&mut self, count: usize) -> anyhow::Result<Duration> {
        let mut longest = Duration::ZERO;
        for number in self.nodes.len() + 1..=count {
            let node = self.start_node(number).await?;
            let ticket = node.ticket.clone();
            self.nodes.push(node);
            let began = Instant::now();
            let add = ["member", "add-learner", &ticket];
            until_ok("a node is added", || self.aspen(&add)).await?;
            // A vote is given to a node that has caught up, and to no other.
            let id = number.to_string();
            let promote = ["member", "promote", &id];
            until_ok_within(CATCH_UP_TIMEOUT, "a node gets its vote", || self.aspen(&promote)).await?;
            longest = longest.max(began.elapsed());
        }
        Ok(longest)
    }

    /// Kills a node, counted from 1, and starts it again. Returns the time until it serves.
    pub async fn crash(&mut self, number: usize) -> anyhow::Result<Duration> {
        self.nodes[number - 1].server.kill().await?;
        let began = Instant::now();
        self.nodes[number - 1] = self.start_node(number).await?;
        let addr = &self.nodes[number - 1].http;
        until_ok("the node serves", || run(&self.programs, addr, &["status"])).await?;
        Ok(began.elapsed())
    }

    /// Stops the nodes in order, and leaves their data.
    pub async fn stop(self) -> anyhow::Result<()> {
        for node in self.nodes {
            node.server.stop().await?;
        }
        Ok(())
    }

    /// What the load is put on: all nodes, the present leader first.
    pub async fn target(&self) -> anyhow::Result<Arc<HttpTarget>> {
        let leader_at = until_ok("Aspen has a leader", || self.leader_at()).await?;
        let addresses = leader_first(self.addresses(), leader_at);
        let nodes = HttpNodes { addresses, token: None, cluster_id: None };
        // A connection for each client, however many there are: each is opened when it is needed.
        Ok(Arc::new(HttpTarget::new(nodes, BENCH_CLIENTS_MAX_COUNT)))
    }

    async fn leader_at(&self) -> anyhow::Result<usize> {
        let client = KvClient::builder().addresses(self.addresses()).build()?;
        let leader = client.status().await?.leader.context("no node leads")?;
        // Nodes are numbered from 1, in the order in which they came.
        let at = usize::try_from(leader.0)?.checked_sub(1).filter(|at| *at < self.nodes.len());
        at.with_context(|| format!("node {leader} leads, which this did not start"))
    }

    fn addresses(&self) -> Vec<Address> {
        self.nodes.iter().map(|node| node.http.parse().expect("an address that this made")).collect()
    }

    /// The processes of all nodes.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.nodes.iter().map(|node| node.server.pid()).collect()
    }

    /// Processor time of all nodes.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s(self.nodes.iter().map(|node| &node.server))
    }

    /// The most memory that a node has had resident since it started.
    pub fn memory_max_bytes(&self) -> anyhow::Result<u64> {
        let memory = self.nodes.iter().map(|node| node.server.memory_max_bytes());
        Ok(memory.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().unwrap_or(0))
    }

    /// Where a node, counted from 1, keeps its data.
    pub fn data_dir(dir: &Path, number: usize) -> PathBuf {
        dir.join(format!("n{number}"))
    }

    async fn start_node(&self, number: usize) -> anyhow::Result<Node> {
        let http = format!("127.0.0.1:{}", free_port()?);
        let mut arguments = vec![
            "--node-id".to_owned(),
            number.to_string(),
            "--data-dir".to_owned(),
            Self::data_dir(&self.dir, number).display().to_string(),
            "--http-addr".to_owned(),
            http.clone(),
            "--iroh-addr".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--log-filter".to_owned(),
            "warn".to_owned(),
        ];
        if let Some(first) = self.nodes.first().filter(|_| number > 1) {
            arguments.extend(["--peer".to_owned(), first.ticket.clone()]);
        }
        let log = self.dir.join(format!("n{number}.log"));
        let server = Process::start(&self.programs.join("aspen-node"), &arguments, log)?;
        let ticket = until_ok("Aspen starts", || run(&self.programs, &http, &["ticket"])).await;
        let ticket = ticket.with_context(|| server.last_words())?.trim().to_owned();
        Ok(Node { server, http, ticket })
    }

    async fn aspen(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(&self.programs, &self.nodes[0].http, arguments).await
    }
}

/// Runs `aspen` against a node.
async fn run(programs: &Path, addr: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new(programs.join("aspen")).arg("--addr").arg(addr).args(arguments).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
