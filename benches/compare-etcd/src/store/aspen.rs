//! Three nodes of Aspen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use aspen::bench::http::HttpTarget;
use aspen::kv::client::Address;
use tokio::process::Command;

use super::until_ok;
use crate::process::{Server, cpu_s, free_port};

/// See the module.
pub struct AspenCluster {
    nodes: Vec<Server>,
    target: Arc<HttpTarget>,
}

impl AspenCluster {
    /// Starts the nodes and makes them one cluster.
    pub async fn start(programs: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (mut nodes, mut addresses, mut tickets) = (Vec::new(), Vec::new(), Vec::<String>::new());
        for id in 1..=3 {
            let data_dir = dir.join(format!("n{id}"));
            let http = format!("127.0.0.1:{}", free_port()?);
            let mut arguments = vec![
                "--node-id".to_owned(),
                id.to_string(),
                "--data-dir".to_owned(),
                data_dir.display().to_string(),
                "--http-addr".to_owned(),
                http.clone(),
                "--iroh-addr".to_owned(),
                "127.0.0.1:0".to_owned(),
                "--log-filter".to_owned(),
                "warn".to_owned(),
            ];
            if let Some(first) = tickets.first() {
                arguments.extend(["--peer".to_owned(), first.clone()]);
            }
            nodes.push(Server::start(
                &programs.join("aspen-node"),
                &arguments,
                dir.join(format!("n{id}.log")),
            )?);
            addresses.push(http);
            let aspen = programs.join("aspen");
            let ticket = until_ok("Aspen starts", || run(&aspen, &addresses[id - 1..], &["ticket"])).await;
            tickets.push(ticket.with_context(|| nodes[id - 1].last_words())?.trim().to_owned());
        }
        let aspen = programs.join("aspen");
        for ticket in &tickets[1..] {
            let add = ["member", "add-learner", ticket];
            until_ok("a node joins", || run(&aspen, &addresses[..1], &add)).await?;
        }
        let promote = ["member", "promote", "2", "3"];
        until_ok("the nodes vote", || run(&aspen, &addresses[..1], &promote)).await?;
        let addresses =
            addresses.iter().map(|addr| addr.parse::<Address>()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { nodes, target: Arc::new(HttpTarget { addresses, token: None }) })
    }

    /// What the load is put on.
    pub fn target(&self) -> Arc<HttpTarget> {
        self.target.clone()
    }

    /// The processes of all nodes.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.nodes.iter().map(Server::pid).collect()
    }

    /// Processor time of all nodes.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s(&self.nodes)
    }
}

async fn run(aspen: &PathBuf, addresses: &[String], arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(aspen).arg("--addr").arg(addresses.join(",")).args(arguments).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
