//! Watches this node's disk, and keeps the leadership away from it while it is not well.
//!
//! A leader hands over, if the others can do without it; a follower tells the leader. Neither campaigns
//! while somebody else can lead, yet each does once nobody has for a while: a full cluster still has to
//! take deletes.
//!
//! # Tiger Style
//! - One line in the log when the disk's state changes, however long it stays.
//! - A node that is well sends nothing and asks nothing of others.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::KvService;
use crate::kv::forward::ForwardRequest;
use crate::kv::types::{DiskState, DiskStatus, NodeId};
use crate::limits;
use crate::raft::handover::{self, Unwell};
use crate::raft::observe::{self, Route};

/// Looks at the disk again and again. Runs until it is dropped.
pub async fn watch(service: KvService) {
    let mut watch = Watch::new(Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::DISK_WATCH_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A leader that hears late of a full disk has sent it more by then.
        tokio::select! {
            biased;
            () = service.0.parts.disk.space().turned() => {}
            _ = ticks.tick() => {}
        }
        watch.look(&service, Instant::now()).await;
    }
}

struct Watch {
    started: Instant,
    last: DiskState,
    handed_over: Option<Instant>,
    reported: Option<Instant>,
    report: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(report) = &self.report {
            report.abort();
        }
    }
}

impl Watch {
    fn new(started: Instant) -> Self {
        Self { started, last: DiskState::Well, handed_over: None, reported: None, report: None }
    }

    async fn look(&mut self, service: &KvService, now: Instant) {
        let disk = &service.0.parts.disk;
        disk.space().look();
        let status = disk.status(now);
        publish(&status);
        if status.state != self.last {
            say(service.node_id(), self.last, &status);
            self.last = status.state;
            self.reported = None;
        }
        let may_campaign = self.may_campaign(service, &status, now) && !service.is_removed();
        service.0.parts.raft.runtime_config().elect(may_campaign);
        if !status.state.may_lead() {
            match service.route() {
                Route::Remote(leader) => self.report(service, leader, status, now),
                _ => self.hand_over(service, now).await,
            }
        }
    }

    /// Whether this node may stand for election.
    fn may_campaign(&self, service: &KvService, status: &DiskStatus, now: Instant) -> bool {
        let parts = &service.0.parts;
        let leaderless = parts.freshness.last_heard().unwrap_or(now - self.started);
        let others_could = Duration::from_millis(parts.timings.quorum_lost_after_ms()) * 2;
        status.state.may_lead() || (parts.disk.hanging(now).is_none() && leaderless >= others_could)
    }

    async fn hand_over(&mut self, service: &KvService, now: Instant) {
        let again_after = Duration::from_millis(service.0.parts.timings.quorum_lost_after_ms());
        if self.handed_over.is_some_and(|at| now - at < again_after) {
            return;
        }
        let unwell = service.0.disk_reports.unwell(now);
        let Some(best) = service.successor(&unwell) else { return };
        let successor = service.within_reach(best, unwell.into_keys().collect()).await;
        self.handed_over = Some(now);
        let own = service.node_id();
        tracing::warn!(
            "node {own} hands the leadership over to node {successor}, for its own disk is {}",
            self.last.as_str()
        );
        metrics::counter!("aspen_disk_handovers_total").increment(1);
        let trigger = service.0.parts.raft.trigger();
        let bound = Duration::from_millis(limits::DISK_WATCH_INTERVAL_MS);
        match tokio::time::timeout(bound, trigger.transfer_leader(successor)).await {
            Ok(Ok(())) => {}
            // Its actor says why.
            Ok(Err(fatal)) => tracing::debug!("the leadership was not handed over: {fatal}"),
            Err(_) => tracing::warn!("Raft took no request to hand over within {} ms", bound.as_millis()),
        }
    }

    /// Tells the leader, beside the watch: it may be slow to answer.
    fn report(&mut self, service: &KvService, leader: NodeId, status: DiskStatus, now: Instant) {
        let interval = Duration::from_millis(limits::DISK_REPORT_INTERVAL_MS);
        if self.reported.is_some_and(|at| now - at < interval) {
            return;
        }
        self.reported = Some(now);
        let forwarder = service.0.parts.forwarder.clone();
        let request = ForwardRequest::ReportDisk { node_id: service.node_id(), status };
        let report = tokio::spawn(async move {
            let sent = forwarder.forward(leader, request, limits::DISK_REPORT_INTERVAL_MS).await;
            if let Err(error) = sent {
                tracing::debug!("the leader was not told of this node's disk: {error}");
            }
        });
        // A report that is still on its way is out of date.
        if let Some(older) = self.report.replace(report) {
            older.abort();
        }
    }
}

impl KvService {
    /// Whether this node's disk lets it lead.
    pub(super) fn is_well(&self) -> bool {
        self.0.parts.disk.status(Instant::now()).state.may_lead()
    }

    /// The node that this one, which leads, should hand over to if its disk is not well.
    pub(super) fn successor(&self, unwell: &Unwell) -> Option<NodeId> {
        let answered_within = Duration::from_millis(self.0.parts.timings.election_timeout_max_ms);
        handover::successor(&observe::metrics(&self.0.parts.raft), unwell, answered_within)
    }
}

fn publish(status: &DiskStatus) {
    let flag = |is: bool| f64::from(u8::from(is));
    metrics::gauge!("aspen_disk_free_bytes").set(status.free_bytes.unwrap_or(0) as f64);
    metrics::gauge!("aspen_disk_reserve_bytes").set(status.reserve_bytes.unwrap_or(0) as f64);
    let refusing = matches!(status.state, DiskState::Full | DiskState::Exhausted);
    metrics::gauge!("aspen_disk_is_refusing").set(flag(refusing));
    metrics::gauge!("aspen_disk_is_stalled").set(flag(status.state == DiskState::Stalled));
    metrics::gauge!("aspen_storage_fsync_under_way_seconds").set(status.sync_ms as f64 / 1_000.0);
}

fn say(own: NodeId, before: DiskState, status: &DiskStatus) {
    let (free, reserve) = (status.free_bytes.unwrap_or(0), status.reserve_bytes.unwrap_or(0));
    let sync_ms = status.sync_ms;
    match status.state {
        DiskState::Well => {
            tracing::info!("the disk of node {own} is well again, after it was {}", before.as_str());
        }
        DiskState::Slow => tracing::warn!(
            "a sync of node {own}'s disk has been under way for {sync_ms} ms: the disk is slow. Look at what else uses it, and at its health"
        ),
        DiskState::Stalled => tracing::error!(
            "the disk of node {own} is stalled (a sync has been under way for {sync_ms} ms): the node must not lead. Look at the disk's health; if it does not come back, restart the node on another one"
        ),
        DiskState::Full => tracing::warn!(
            "the disk of node {own} is full: {free} bytes are free, and {reserve} are kept for deletes and compaction. Writes that add data are refused until there is room; reads go on"
        ),
        DiskState::Exhausted => tracing::error!(
            "the disk of node {own} is all but full: {free} bytes are free, of {reserve} that should be. Make room: it takes neither deletes nor entries from a leader any more"
        ),
    }
}
