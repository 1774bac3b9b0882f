//! Handing the leadership over: because somebody asks for it, because the leader is removed, or because it
//! stops.
//!
//! # Tiger Style
//! The leadership is handed to a voter that answers, and to nobody if there is none. A word gets through to it
//! within [`limits::HANDOVER_GREETING_TIMEOUT_MS`], unless that holds for none. Whoever waits for it
//! waits no longer than [`RaftTimings::quorum_lost_after_ms`](crate::raft::construct::RaftTimings).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::KvService;
use crate::kv::types::{ClusterError, KvError, MembershipChange, NodeId};
use crate::limits;
use crate::raft::handover;
use crate::raft::observe::{self, Metrics};

impl KvService {
    /// Hands the leadership, which this node has, over to a voter, or to the best one there is, and says who
    /// leads then.
    ///
    /// # Errors
    /// [`ClusterError::UnknownNode`] or [`ClusterError::NotHandedOver`].
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, ClusterError> {
        let (own, metrics) = (self.node_id(), observe::metrics(&self.0.parts.raft));
        let to = match to {
            Some(to) if to == own => return Ok(own),
            Some(to) => {
                self.ensure_can_lead(&metrics, to)?;
                to
            }
            None => {
                let best = self.best_successor().ok_or_else(|| {
                    let reason = "no other voter has answered it lately".to_owned();
                    ClusterError::NotHandedOver { node_id: own, reason }
                })?;
                self.within_reach(best, self.unwell()).await
            }
        };
        self.hand_over_to(to).await
    }

    /// Hands over before this node is removed, if others can do without it. Returns whether it did.
    pub(super) async fn leave_the_lead(&self, change: &MembershipChange) -> bool {
        let own = self.node_id();
        let stays = change.voters.as_ref().is_none_or(|voters| voters.contains(&own));
        if stays && !change.remove.contains(&own) {
            return false;
        }
        let successor = handover::successor_without(
            &observe::metrics(&self.0.parts.raft),
            &change.remove,
            self.answered_within(),
        );
        let Some(to) = successor else { return false };
        let to = self.within_reach(to, change.remove.clone()).await;
        tracing::info!("node {own} hands the leadership over to node {to}, as it is to lose its vote");
        match self.hand_over_to(to).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!("the leadership was not handed over: {error}");
                false
            }
        }
    }

    /// Hands over because this node stops, if it leads and somebody else can. It ends within its bound.
    pub async fn leave(&self) {
        if observe::look(&self.0.parts.raft, |metrics| metrics.current_leader != Some(metrics.id)) {
            return;
        }
        let Some(best) = self.await_successor().await else { return };
        let to = self.within_reach(best, self.unwell()).await;
        let started = Instant::now();
        match self.hand_over_to(to).await {
            Ok(leader) => tracing::info!(
                "handed the leadership over to node {leader} within {} ms, as this node stops",
                started.elapsed().as_millis()
            ),
            Err(error) => tracing::warn!("this node stops without having handed over: {error}"),
        }
    }

    /// One whose disk is well, in a cluster that can do without this node; or else the best that answers.
    fn best_successor(&self) -> Option<NodeId> {
        let answering = || {
            let metrics = observe::metrics(&self.0.parts.raft);
            handover::successor_without(&metrics, &BTreeSet::new(), self.answered_within())
        };
        self.successor(&self.0.disk_reports.unwell(Instant::now())).or_else(answering)
    }

    /// The same. A leader that was just elected, or a member that has just come back, may not have been heard
    /// from yet.
    async fn await_successor(&self) -> Option<NodeId> {
        let raft = &self.0.parts.raft;
        let has_others =
            |metrics: &Metrics| metrics.membership_config.voter_ids().any(|voter| voter != metrics.id);
        if !observe::look(raft, has_others) {
            return None;
        }
        let lately = self.answered_within();
        let answers =
            |metrics: &Metrics| handover::successor_without(metrics, &BTreeSet::new(), lately).is_some();
        // Whether it came or not: the best there is then.
        raft.wait(Some(lately)).metrics(answers, "another voter answers").await.ok();
        self.best_successor()
    }

    fn unwell(&self) -> BTreeSet<NodeId> {
        self.0.disk_reports.unwell(Instant::now()).into_keys().collect()
    }

    /// The best one if a word gets through to it at once, or else the next best of which that holds, `unfit` ones
    /// apart. The log of one that has just come back may be filled already over a connection of its own, while
    /// the one by which it is told to lead is still being made; and whom the leadership was offered to cannot be
    /// changed.
    pub(super) async fn within_reach(&self, best: NodeId, unfit: BTreeSet<NodeId>) -> NodeId {
        let bound = Duration::from_millis(limits::HANDOVER_GREETING_TIMEOUT_MS);
        let (mut passed_over, mut next) = (unfit, Some(best));
        while let Some(to) = next {
            let greeted = tokio::time::timeout(bound, self.0.parts.forwarder.greet(to)).await;
            if greeted == Ok(true) {
                return to;
            }
            passed_over.insert(to);
            let metrics = observe::metrics(&self.0.parts.raft);
            next = handover::successor_without(&metrics, &passed_over, self.answered_within());
        }
        best
    }

    fn answered_within(&self) -> Duration {
        Duration::from_millis(self.0.parts.timings.election_timeout_max_ms)
    }

    fn ensure_can_lead(&self, metrics: &Metrics, to: NodeId) -> Result<(), ClusterError> {
        if metrics.membership_config.get_node(&to).is_none() {
            return Err(ClusterError::UnknownNode { node_id: to });
        }
        let own = metrics.id;
        let not = |reason: String| Err(ClusterError::NotHandedOver { node_id: own, reason });
        if !metrics.membership_config.voter_ids().any(|voter| voter == to) {
            return not(format!("node {to} has no vote"));
        }
        if !observe::answers(metrics, to, self.answered_within()) {
            return not(format!("node {to} has not answered it lately"));
        }
        Ok(())
    }

    async fn hand_over_to(&self, to: NodeId) -> Result<NodeId, ClusterError> {
        let raft = &self.0.parts.raft;
        let own = self.node_id();
        let bound = Duration::from_millis(self.0.parts.timings.quorum_lost_after_ms());
        let asked = raft.trigger().transfer_leader(to).await;
        asked.map_err(|fatal| KvError::Stopping { reason: fatal.to_string() })?;
        let taken = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != own);
        match raft.wait(Some(bound)).metrics(taken, "another node leads").await {
            Ok(metrics) => Ok(metrics.current_leader.unwrap_or(to)),
            Err(_) => {
                let reason = format!("node {to} did not take it within {} ms", bound.as_millis());
                Err(ClusterError::NotHandedOver { node_id: own, reason })
            }
        }
    }
}
