//! Settings read again while the node runs, as SIGHUP asks for: the log filter, and further peers.
//!
//! Everything else takes effect with the next start, and the log says what that is. Settings that are refused
//! change nothing.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::systemd;
use crate::config::Loaded;
use crate::kv::interface::ClusterController;
use crate::kv::service::cluster::RaftCluster;
use crate::telemetry::LogControl;
use crate::transport::peers::{DeclareError, PeerBook};

/// Reads all settings from where they came.
pub type LoadSettings = Arc<dyn Fn() -> Result<Loaded, anyhow::Error> + Send + Sync>;

/// How the settings of a running node are read again.
#[derive(Clone)]
pub struct SettingsSource {
    /// Reads them.
    pub load: LoadSettings,
    /// Told when they are to be read.
    pub asked: Arc<Notify>,
}

/// Puts settings in force that were read again.
#[derive(Clone)]
pub(super) struct Reload {
    pub source: SettingsSource,
    /// Those of the start, or read last.
    pub in_force: Arc<Mutex<Loaded>>,
    pub logs: LogControl,
    pub book: PeerBook,
    pub cluster: Arc<RaftCluster>,
}

impl Reload {
    /// Never ends.
    pub(super) async fn run(self) {
        loop {
            self.source.asked.notified().await;
            systemd::reloading();
            let load = self.source.load.clone();
            let loaded = tokio::task::spawn_blocking(move || load()).await;
            match loaded.map_err(anyhow::Error::from).and_then(|loaded| self.put_in_force(loaded?)) {
                Ok(()) => {}
                Err(error) => tracing::error!(
                    "the settings were not read again: {error}. Those in force stay; put the settings right, then \
                     send SIGHUP again (`systemctl reload`)"
                ),
            }
            systemd::ready(&self.cluster.status());
        }
    }

    fn put_in_force(&self, loaded: Loaded) -> Result<(), anyhow::Error> {
        let mut in_force = self.in_force.lock().expect("no code panics while it holds this lock");
        let changed = loaded.differing(&in_force);
        if changed.contains(&"log_filter") {
            let filter = &loaded.config.log_filter;
            let before = self.logs.configure(filter)?;
            tracing::info!("the log filter is '{filter}' now, and was '{before}'");
        }
        for setting in &loaded.config.peers {
            match self.book.declare_configured(super::ground::peer(setting)?) {
                Ok(()) | Err(DeclareError::Own(_)) => {}
                Err(error) => tracing::warn!("a peer is left out: {error}"),
            }
        }
        let gone = in_force.config.peers.iter().filter(|peer| !loaded.config.peers.contains(peer)).count();
        if gone > 0 {
            tracing::warn!(
                "{gone} peers that the settings name no more stay known until the next start; `aspen member remove` \
                 cuts a member off at once"
            );
        }
        let later: Vec<&str> =
            changed.iter().copied().filter(|key| !["log_filter", "peers"].contains(key)).collect();
        if later.is_empty() {
            tracing::info!("the settings were read again");
        } else {
            tracing::warn!(
                "the settings were read again; these take effect with the next start: {}",
                later.join(", ")
            );
        }
        *in_force = loaded;
        Ok(())
    }
}
