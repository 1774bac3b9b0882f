//! What systemd is told: ready, status, reloading, alive, stopping. Elsewhere the calls do nothing.
//!
//! A node says that it is alive only while Raft's core answers a question. A core that hangs, or a process
//! that is stopped, is started again by systemd when the unit's `WatchdogSec` is over.
//!
//! # Tiger Style
//! Asking the core is bounded by half the watchdog's time, so that one slow answer is no death sentence.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior};

use crate::kv::interface::ClusterController;
use crate::kv::types::{ClusterStatus, NodeState};
use crate::limits;
use crate::raft::RaftHandle;
use crate::telemetry::LogControl;

/// How systemd says where it listens.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The node's ports are open and its parts run.
pub fn ready(status: &ClusterStatus) {
    notify(&[NotifyState::Ready, NotifyState::Status(&sentence(status))]);
}

/// The node reads its settings again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The node stops.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("hands over, and stops")]);
}

/// Keeps systemd told what the node does, and that it is alive.
#[derive(Clone)]
pub(super) struct Systemd {
    /// Absent where a library has a core of its own: then the node is alive while it can say so.
    raft: Option<RaftHandle>,
    cluster: Arc<dyn ClusterController>,
    logs: LogControl,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// None where the process was not started by systemd with `Type=notify`.
    pub(super) fn find(
        raft: Option<RaftHandle>,
        cluster: Arc<dyn ClusterController>,
        logs: LogControl,
    ) -> Option<Self> {
        env::var_os(NOTIFY_SOCKET)?;
        Some(Self { raft, cluster, logs, watchdog: sd_notify::watchdog_enabled() })
    }

    /// Never ends.
    pub(super) async fn keep_told(self) {
        let status_interval = Duration::from_millis(limits::SYSTEMD_STATUS_INTERVAL_MS);
        // Three times as often as it has to be: one may be late, and one lost.
        let interval = self.watchdog.map_or(status_interval, |watchdog| (watchdog / 3).min(status_interval));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut named) = (String::new(), None);
        loop {
            ticks.tick().await;
            let status = self.cluster.status();
            let name = (status.node_id.0, status.term);
            if named != Some(name) {
                self.logs.name_node(status.node_id.0, status.term);
                named = Some(name);
            }
            let now = sentence(&status);
            if now != told {
                notify(&[NotifyState::Status(&now)]);
                told = now;
            }
            if let Some(watchdog) = self.watchdog {
                self.say_alive(watchdog / 2).await;
            }
        }
    }

    async fn say_alive(&self, bound: Duration) {
        let Some(raft) = &self.raft else {
            return notify(&[NotifyState::Watchdog]);
        };
        let asked = Instant::now();
        match tokio::time::timeout(bound, raft.with_raft_state(|_| ())).await {
            Ok(Ok(())) => notify(&[NotifyState::Watchdog]),
            // Raft has ended; its actor says why, and ends the node.
            Ok(Err(_)) => {}
            Err(_) => tracing::error!(
                "Raft has not answered for {} ms: systemd is not told that this node is alive, and will start it again",
                asked.elapsed().as_millis()
            ),
        }
    }
}

/// What `systemctl status` shows.
fn sentence(status: &ClusterStatus) -> String {
    let behind = match (status.committed_index, status.applied_index) {
        (Some(committed), applied) => committed.saturating_sub(applied.unwrap_or(0)),
        (None, _) => 0,
    };
    let mut text = status.detail.clone();
    if matches!(status.state, NodeState::Serving | NodeState::NoLeader | NodeState::Recovering) {
        text.push_str(&format!(", at revision {}", status.revision));
    }
    if behind > 0 {
        text.push_str(&format!(", {behind} entries behind"));
    }
    // A line break would end the field.
    text.replace('\n', " ")
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
