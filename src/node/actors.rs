//! The part of a node that keeps the actors of all members within call.

use std::sync::Arc;

use futures::future::pending;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Mutex, mpsc};

use crate::cluster::links;
use crate::cluster::node_server::{NodeServerHandle, ProcessName};
use crate::cluster::sessions::Sessions;
use crate::kv::types::ClusterId;
use crate::raft::RaftHandle;
use crate::storage::metadata::Metadata;
use crate::transport::Transport;
use crate::transport::actor::ActorStream;

/// What it works with. Clones share it; one of them runs at a time.
#[derive(Clone)]
pub(super) struct Actors {
    pub process: ProcessName,
    pub sessions: Sessions,
    pub opened: Arc<Mutex<mpsc::Receiver<ActorStream>>>,
    pub raft: RaftHandle,
    pub metadata: Metadata,
    pub transport: Transport,
}

impl Actors {
    /// Runs as soon as the node belongs to a cluster, and as long as the node server does.
    pub async fn run(self) -> Result<(), anyhow::Error> {
        let cluster_id = self.cluster_id().await;
        let mut opened = self.opened.lock().await;
        let (server, ended) = NodeServerHandle::start(self.process, cluster_id, self.sessions).await?;
        // Whoever gives this part up ends the node server with it.
        let _server = server.stop_on_drop();
        tokio::select! {
            () = links::keep(self.transport, server.clone(), &mut opened) => pending().await,
            _ = ended => anyhow::bail!("the node server of the actors has ended"),
        }
    }

    /// Waits for the node to belong to a cluster.
    async fn cluster_id(&self) -> ClusterId {
        let mut metrics = self.raft.metrics();
        loop {
            // It is noted before the node has members.
            if let Some(cluster_id) = self.metadata.cluster_id() {
                return cluster_id;
            }
            if metrics.changed().await.is_err() {
                // Raft has ended; its actor says why.
                pending::<()>().await;
            }
        }
    }
}
