//! Noticing that this node was removed: the members do not let it in any more.
//!
//! A node that is removed is sent nothing from then on, so its own log never tells it. What it must not do
//! is to stand for election again and again, or to leave its operator to guess.
//!
//! # Tiger Style
//! - Those that turned the node away are asked once more before it takes itself for removed.
//! - One line in the log when it begins and one when it ends, however often the node is turned away.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use tokio::time::MissedTickBehavior;

use super::KvService;
use crate::kv::types::{KvError, NodeId};
use crate::limits;
use crate::raft::observe;

/// Looks again and again whether others still let this node in. Runs until it is dropped.
pub async fn watch(service: KvService) {
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::REMOVAL_CHECK_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        service.call_where_silent().await;
        let before = service.0.removed.load(Ordering::Acquire);
        let by = match service.shut_out_by() {
            Some(by) if !before => service.ask_again(by).await,
            by => by,
        };
        service.0.removed.store(by.is_some(), Ordering::Release);
        match by {
            Some(by) if !before => tracing::error!(
                "this node ({}) was removed from its cluster: {} let it in no more. It stands for no election and serves nothing new. Stop it; to bring the machine back, let it join on an empty data directory with a ticket (`aspen ticket new`, `aspen-node --join`)",
                service.node_id(),
                join(&by)
            ),
            None if before => tracing::info!("this node is let in by the members again"),
            _ => {}
        }
    }
}

fn join(nodes: &BTreeSet<NodeId>) -> String {
    format!("nodes {}", observe::join(nodes.iter().copied()))
}

impl KvService {
    /// Whether this node was removed, as far as it knows.
    pub(super) fn is_removed(&self) -> bool {
        self.0.removed.load(Ordering::Acquire)
    }

    /// Refuses what a removed node cannot serve, now or later. Its state is of the past, so stale reads are too.
    pub(super) fn ensure_member(&self) -> Result<(), KvError> {
        if self.is_removed() { Err(KvError::Removed { node_id: self.node_id() }) } else { Ok(()) }
    }

    /// Calls the other voters where no leader is heard. One that has lost its vote before it was removed stands
    /// for no election, and would never call those that could turn it away.
    async fn call_where_silent(&self) {
        let parts = &self.0.parts;
        let silent_after = Duration::from_millis(parts.timings.quorum_lost_after_ms());
        let voters: Vec<NodeId> = observe::look(&parts.raft, |metrics| {
            let others = metrics.membership_config.voter_ids().filter(|voter| *voter != metrics.id);
            others.filter(|_| metrics.state == ServerState::Learner).collect()
        });
        if parts.freshness.last_heard().is_none_or(|silent| silent > silent_after) {
            futures::future::join_all(voters.into_iter().map(|voter| parts.forwarder.greet(voter))).await;
        }
    }

    /// Whether those that turned this node away still do, a while later: they may not have heard yet that it
    /// joined.
    async fn ask_again(&self, by: BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
        tokio::time::sleep(Duration::from_millis(limits::REMOVAL_ASK_AGAIN_AFTER_MS)).await;
        let forwarder = &self.0.parts.forwarder;
        futures::future::join_all(by.into_iter().map(|node_id| forwarder.greet(node_id))).await;
        self.shut_out_by()
    }

    /// The members that do not let this node in, if they are a majority of the other voters.
    fn shut_out_by(&self) -> Option<BTreeSet<NodeId>> {
        let by = self.0.parts.forwarder.shut_out_by();
        if by.is_empty() {
            return None;
        }
        let (others, against) = observe::look(&self.0.parts.raft, |metrics| {
            let others = metrics.membership_config.voter_ids().filter(|voter| *voter != metrics.id);
            let others: BTreeSet<NodeId> = others.collect();
            let against = others.intersection(&by).count();
            (others.len(), against)
        });
        (against * 2 > others).then_some(by)
    }
}
