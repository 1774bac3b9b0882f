//! Three nodes of etcd, and the load on them by gRPC.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use aspen::bench::plan::RANGE_KEYS;
use aspen::bench::{Kind, Operation, OperationError, Session, Target};
use aspen::limits::HISTORY_DEFAULT_REVISIONS;
use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::{leader_first, until_ok};
use crate::process::{Process, cpu_s, free_port};

/// See the module.
pub struct EtcdCluster {
    nodes: Vec<Process>,
    endpoints: Vec<String>,
}

impl EtcdCluster {
    /// Starts the nodes, which are one cluster from the start.
    pub async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let peer_urls = (0..3).map(|_| Ok(format!("http://127.0.0.1:{}", free_port()?)));
        let peer_urls = peer_urls.collect::<anyhow::Result<Vec<String>>>()?;
        let named = peer_urls.iter().enumerate().map(|(at, url)| format!("n{at}={url}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let (mut nodes, mut endpoints) = (Vec::new(), Vec::new());
        for (at, peer_url) in peer_urls.iter().enumerate() {
            let client_url = format!("http://127.0.0.1:{}", free_port()?);
            let arguments = [
                ("--name", format!("n{at}")),
                ("--data-dir", dir.join(format!("n{at}")).display().to_string()),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url.clone()),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url.clone()),
                ("--initial-cluster", cluster.clone()),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
                // Its limit is 2 GB, which a long run on many keys reaches.
                ("--quota-backend-bytes", (8_u64 << 30).to_string()),
                // As much history as Aspen keeps.
                ("--auto-compaction-mode", "revision".to_owned()),
                ("--auto-compaction-retention", HISTORY_DEFAULT_REVISIONS.to_string()),
            ];
            let arguments: Vec<String> =
                arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
            nodes.push(Process::start(program, &arguments, dir.join(format!("n{at}.log")))?);
            endpoints.push(client_url);
        }
        let target = EtcdTarget { endpoints: endpoints.clone() };
        for (client, node) in nodes.iter().enumerate() {
            let up = until_ok("etcd starts", || async {
                let mut session = target.connect(client).await?;
                let key = "started".to_owned();
                Ok(session.run(&Operation { kind: Kind::Put, key, value: "yes".to_owned() }).await?)
            });
            up.await.with_context(|| node.last_words())?;
        }
        Ok(Self { nodes, endpoints })
    }

    /// What the load is put on: all nodes, the present leader first.
    pub async fn target(&self) -> anyhow::Result<Arc<EtcdTarget>> {
        let leader_at = until_ok("etcd has a leader", || self.leader_at()).await?;
        Ok(Arc::new(EtcdTarget { endpoints: leader_first(self.endpoints.clone(), leader_at) }))
    }

    async fn leader_at(&self) -> anyhow::Result<usize> {
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let status = Client::connect([endpoint], None).await?.status().await?;
            let member_id = status.header().context("a status names its member")?.member_id();
            ensure!(status.leader() != 0, "{endpoint} knows no leader");
            if status.leader() == member_id {
                return Ok(at);
            }
        }
        bail!("no node says that it leads")
    }

    /// Its version, by its own account.
    pub async fn version(&self) -> anyhow::Result<String> {
        let status = Client::connect([&self.endpoints[0]], None).await?.status().await?;
        Ok(status.version().to_owned())
    }

    /// Processor time of all nodes.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s(&self.nodes)
    }
}

/// The nodes under load: the clients are dealt out to them.
pub struct EtcdTarget {
    endpoints: Vec<String>,
}

/// One client's connection.
pub struct EtcdSession(Client);

impl Target for EtcdTarget {
    type Session = EtcdSession;

    async fn connect(&self, client: usize) -> Result<EtcdSession, OperationError> {
        let endpoint = &self.endpoints[client % self.endpoints.len()];
        Client::connect([endpoint], None).await.map(EtcdSession).map_err(failed)
    }
}

impl Session for EtcdSession {
    async fn run(&mut self, operation: &Operation) -> Result<(), OperationError> {
        let Operation { kind, key, value } = operation;
        let client = &mut self.0;
        match kind {
            Kind::Put => client.put(key.as_str(), value.as_str(), None).await.map(drop),
            Kind::Get => client.get(key.as_str(), None).await.map(drop),
            Kind::StaleGet => {
                client.get(key.as_str(), Some(GetOptions::new().with_serializable())).await.map(drop)
            }
            Kind::Range => {
                let limit = i64::try_from(RANGE_KEYS).expect("it is a small number");
                let options = GetOptions::new().with_from_key().with_limit(limit);
                client.get(key.as_str(), Some(options)).await.map(drop)
            }
            Kind::Txn => {
                let put = TxnOp::put(key.as_str(), value.as_str(), None);
                let compare = Compare::version(key.as_str(), CompareOp::Less, i64::MAX);
                client.txn(Txn::new().when([compare]).and_then([put])).await.map(drop)
            }
        }
        .map_err(failed)
    }
}

fn failed(error: etcd_client::Error) -> OperationError {
    OperationError(error.to_string())
}
