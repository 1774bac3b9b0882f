//! Reads and writes over Raft: the first control backend.
//!
//! Every member takes every request. What needs the leader is forwarded to it, and sent again while
//! that is certain to be harmless. It must never send a write twice that could take effect twice, and
//! never answer a linearizable read from a state that a quorum may have left behind.
//!
//! # Tiger Style
//! - A request ends within [`limits::REQUEST_TIMEOUT_MS`], one on the membership within
//!   [`limits::MEMBERSHIP_TIMEOUT_MS`].
//! - A write without a session is delivered at most once.
//! - A forwarded request is never forwarded again.

mod admission;
mod attempt;
mod backup;
pub mod cluster;
pub mod disk;
pub mod founding;
pub mod history;
pub mod join;
mod read_index;
pub mod removal;
mod status;
mod transfer;
pub mod whereabouts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Instant, ReadPolicy};
use tokio::sync::Semaphore;

use self::attempt::{Attempt, Retry};
use self::read_index::ReadIndex;
use super::backup::BackupStream;
use super::forward::{ForwardError, ForwardHandler, ForwardReply, ForwardRequest, Forwarder};
use super::interface::KeyValueStore;
use super::types::{
    BackupOrigin, ClusterError, Command, Consistency, JoinCall, KeyRange, KvError, LeaderHint,
    MembershipChanged, NodeId, ReadReply, ReadRequest, Staleness, WriteReply,
};
use crate::limits;
use crate::raft::RaftHandle;
use crate::raft::construct::RaftTimings;
use crate::raft::freshness::Freshness;
use crate::raft::handover::DiskReports;
use crate::raft::observe::{self, Route};
use crate::raft::operations::{Operations, Unanswered};
use crate::raft::runtime;
use crate::raft::types::{Applied, Proposal};
use crate::storage::pressure::Pressure;
use crate::storage::record::encode_command;
use crate::storage::state::StateReader;

/// What the service is made of.
pub struct ServiceParts {
    /// The running Raft node.
    pub raft: RaftHandle,
    /// The operations on its membership.
    pub operations: Operations,
    /// Read access to its state.
    pub reader: StateReader,
    /// Its timings, which say when a leader has lost its quorum.
    pub timings: RaftTimings,
    /// The way to other members.
    pub forwarder: Arc<dyn Forwarder>,
    /// How old the applied state may be.
    pub freshness: Arc<Freshness>,
    /// How this node's disk is.
    pub disk: Arc<Pressure>,
}

/// The key-value service of one node. Clones share it.
#[derive(Clone)]
pub struct KvService(Arc<Inner>);

struct Inner {
    parts: ServiceParts,
    read_index: ReadIndex,
    recovered: AtomicBool,
    /// Set while the members let this node in no more.
    removed: AtomicBool,
    disk_reports: DiskReports,
    backups: Arc<Semaphore>,
}

impl KvService {
    /// Starts the service. It must be called inside a Tokio runtime.
    pub fn new(parts: ServiceParts) -> Self {
        Self(Arc::new_cyclic(|weak: &Weak<Inner>| {
            let weak = weak.clone();
            let read_index = ReadIndex::start(move || confirm_read_index(weak.clone()));
            Inner {
                parts,
                read_index,
                recovered: AtomicBool::new(false),
                removed: AtomicBool::new(false),
                disk_reports: DiskReports::default(),
                backups: Arc::new(Semaphore::new(limits::BACKUPS_MAX_COUNT)),
            }
        }))
    }

    /// Waits until the state includes all that was applied before the last stop, however long that
    /// takes; local reads are refused until then.
    pub async fn recover(&self) {
        let raft = &self.0.parts.raft;
        let last_at_start = observe::metrics(raft).last_log_index;
        let wait = raft.wait(None);
        let caught_up = wait.metrics(
            |metrics| {
                // A log that is longer than the leader's is cut back: its old end may never be applied.
                let target = last_at_start.min(metrics.last_log_index);
                metrics.cluster_committed.as_ref().map(|log_id| log_id.index()) >= target
                    && metrics.last_applied.as_ref().map(|log_id| log_id.index()) >= target
            },
            "the state catches up with the log",
        );
        if caught_up.await.is_ok() {
            self.0.recovered.store(true, Ordering::Release);
        }
    }

    fn is_recovered(&self) -> bool {
        self.0.recovered.load(Ordering::Acquire)
    }

    fn route(&self) -> Route {
        observe::look(&self.0.parts.raft, |metrics| {
            // A deposed leader whose disk hangs cannot note the new term, and goes on calling itself leader.
            match self.0.parts.freshness.leader_after(metrics.current_term) {
                Some(leader) if leader != metrics.id => Route::Remote(leader),
                _ => observe::route(metrics, &self.0.parts.timings),
            }
        })
    }

    fn node_id(&self) -> NodeId {
        observe::look(&self.0.parts.raft, |metrics| metrics.id)
    }

    /// Has the leader serve a request, wherever it is, and tries again while that is harmless.
    async fn lead_or_forward(
        &self,
        request: ForwardRequest,
        repeatable: bool,
        bound_ms: u64,
    ) -> Result<ForwardReply, ClusterError> {
        let mut retry = Retry::within_ms(bound_ms);
        loop {
            self.ensure_member().map_err(|removed| retry.refusal(removed.into()))?;
            let attempt = match self.route() {
                Route::Local => self.serve_here(request.clone(), retry.left_ms()).await,
                Route::Remote(leader) => self.ask(leader, request.clone(), retry.left_ms()).await,
                Route::NoLeader(reason) => Attempt::NotDelivered(reason),
                Route::NotInitialized => return Err(KvError::NotInitialized.into()),
                Route::Stopped(reason) => return Err(KvError::Stopping { reason }.into()),
            };
            if let Some(reply) = retry.settle(attempt, repeatable).await? {
                return Ok(reply);
            }
        }
    }

    /// Serves a request on this node, which leads as far as it knows.
    async fn serve_here(&self, request: ForwardRequest, bound_ms: u64) -> Attempt<ForwardReply> {
        let bound = Duration::from_millis(bound_ms);
        let served = async {
            match request {
                ForwardRequest::Propose(proposal) => self.propose(proposal).await.map(ForwardReply::Proposed),
                ForwardRequest::ReadIndex => self.read_index_here().await.map(ForwardReply::ReadIndex),
                ForwardRequest::ReportDisk { node_id, status } => {
                    self.0.disk_reports.note(node_id, status, std::time::Instant::now());
                    Attempt::Done(Ok(ForwardReply::Noted))
                }
                ForwardRequest::AddLearner(peer) => self.meet_and_add(peer, bound).await,
                ForwardRequest::IssueTicket { hash, ttl_ms, uses } => {
                    self.issue_ticket(hash, ttl_ms, uses).await
                }
                ForwardRequest::Join(call) => self.let_node_in(call, bound).await,
                ForwardRequest::RevokeTicket { id } => self.revoke_ticket(id).await,
                ForwardRequest::TransferLeader(to) => {
                    Attempt::Done(self.hand_over(to).await.map(|node_id| ForwardReply::Leads { node_id }))
                }
                ForwardRequest::ChangeMembership(change) if self.leave_the_lead(&change).await => {
                    Attempt::NotDelivered("the leader hands over, as it is to lose its vote".to_owned())
                }
                ForwardRequest::ChangeMembership(change) => {
                    // A vote hangs on a data directory, which must be known before.
                    self.note_incarnations().await;
                    self.change(self.0.parts.operations.change(change, bound)).await
                }
            }
        };
        match tokio::time::timeout(bound, served).await {
            Ok(attempt) => attempt,
            Err(_) => Attempt::Unknown(format!("the leader did not finish within {bound_ms} ms")),
        }
    }

    async fn propose(&self, proposal: Proposal) -> Attempt<WriteReply> {
        // Held until the write is applied, or nobody waits for it any more.
        let _admitted = match self.let_in(&proposal).await {
            Ok(admitted) => admitted,
            Err(refused) => return refused,
        };
        match self.0.parts.raft.client_write(proposal).await {
            Ok(written) => match written.data {
                Applied::Command(result) => Attempt::Done(result.map_err(ClusterError::from)),
                Applied::Nothing => {
                    panic!("applying a command gave no reply; its log id is {}", written.log_id)
                }
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Attempt::NotDelivered("the leadership changed".to_owned())
            }
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }

    async fn read_index_here(&self) -> Attempt<u64> {
        match self.0.parts.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Attempt::Done(Ok(linearizer.read_log_id().index())),
            Err(RaftError::APIError(error)) => Attempt::NotDelivered(error.to_string()),
            Err(RaftError::Fatal(fatal)) => Attempt::Done(Err(stopping(&fatal.to_string()).into())),
        }
    }

    /// Runs an operation on the membership, if the disk has room for it.
    async fn change(
        &self,
        operation: impl Future<Output = Result<Result<MembershipChanged, ClusterError>, Unanswered>>,
    ) -> Attempt<ForwardReply> {
        let _admitted = match self.let_membership_in().await {
            Ok(admitted) => admitted,
            Err(refused) => return refused,
        };
        match operation.await {
            Ok(Ok(changed)) => Attempt::Done(Ok(ForwardReply::Membership(changed))),
            Ok(Err(error)) => Attempt::of_refusal(error),
            Err(Unanswered::Stopping(reason)) => Attempt::Done(Err(stopping(&reason).into())),
            Err(error @ Unanswered::Lost) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Asks the leader on another node.
    async fn ask(&self, leader: NodeId, request: ForwardRequest, bound_ms: u64) -> Attempt<ForwardReply> {
        // A leader that died leaves its connection silent for seconds: a new one is heard of sooner.
        let deposed = self.0.parts.freshness.deposed(&self.0.parts.raft, leader);
        let answer = tokio::select! {
            biased;
            answer = self.0.parts.forwarder.forward(leader, request, bound_ms) => answer,
            () = deposed => return Attempt::Unknown(format!("node {leader} lost the leadership")),
        };
        match answer {
            Ok(Ok(reply)) => Attempt::Done(Ok(reply)),
            Ok(Err(error)) => Attempt::of_refusal(error),
            Err(error @ ForwardError::Unreachable { .. }) => Attempt::NotDelivered(error.to_string()),
            Err(error @ ForwardError::NoAnswer { .. }) => Attempt::Unknown(error.to_string()),
        }
    }

    /// Waits until this node has applied all that was committed when the call began.
    async fn await_linearizable(&self) -> Result<(), KvError> {
        #[cfg(madsim)]
        if crate::planted::has(crate::planted::Bug::StaleReadAsLinearizable) {
            return Ok(());
        }
        let started = std::time::Instant::now();
        let bound = Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
        let no_quorum = |reason: &str| KvError::NoQuorum {
            waited_ms: limits::REQUEST_TIMEOUT_MS,
            reason: reason.to_owned(),
        };

        let confirmed = tokio::time::timeout(bound, self.0.read_index.confirm()).await;
        let index = confirmed.map_err(|_| no_quorum("no leader confirmed the read"))??;
        let left = bound.saturating_sub(started.elapsed());
        let applied = tokio::time::timeout(left, self.0.parts.reader.applied(index)).await;
        applied.map_err(|_| no_quorum("this node lags behind the leader"))
    }

    fn staleness(&self) -> Result<Staleness, KvError> {
        if !observe::look(&self.0.parts.raft, observe::is_initialized) {
            return Err(KvError::NotInitialized);
        }
        self.ensure_member()?;
        if !self.is_recovered() {
            return Err(KvError::Recovering);
        }
        Ok(Staleness { age_ms: self.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)) })
    }

    /// Time since this node was known to be up to date. A leader is, as long as a quorum follows it.
    fn age(&self) -> Option<Duration> {
        observe::look(&self.0.parts.raft, |metrics| match observe::route(metrics, &self.0.parts.timings) {
            Route::Local => {
                // What earlier leaders have committed is applied once an entry of its own is.
                let own =
                    metrics.last_applied.filter(|applied| applied.leader_id == *metrics.vote.leader_id());
                own?;
                Some(metrics.last_quorum_acked.map_or(Duration::ZERO, |acked| Instant::elapsed(&*acked)))
            }
            _ => self.0.parts.freshness.age(self.0.parts.reader.applied_index()),
        })
    }
}

#[async_trait]
impl KeyValueStore for KvService {
    async fn write(&self, command: Command) -> Result<WriteReply, KvError> {
        command.validate()?;
        let repeatable = command.session.is_some() || command.is_idempotent();
        let request = ForwardRequest::Propose(encode_command(&command)?);
        match self.lead_or_forward(request, repeatable, limits::REQUEST_TIMEOUT_MS).await {
            Ok(ForwardReply::Proposed(reply)) => Ok(reply),
            Ok(other) => panic!("a proposal was answered with {other:?}"),
            Err(error) => Err(kv_error(error)),
        }
    }

    async fn read(&self, request: ReadRequest) -> Result<ReadReply, KvError> {
        request.validate()?;
        let staleness = match request.consistency {
            Consistency::Linearizable => {
                self.await_linearizable().await?;
                None
            }
            Consistency::Stale => Some(self.staleness()?),
        };
        let reader = self.0.parts.reader.clone();
        let (revision, range) = match &request.range {
            KeyRange::Key(_) if !reader.waits_for_disk() => reader.read(&request)?,
            // A scan takes long enough to be in the way of other tasks, and so does who waits for the disk.
            _ => runtime::blocking(move || reader.read(&request))
                .await
                .map_err(|error| KvError::Storage { reason: error.to_string() })??,
        };
        Ok(ReadReply { revision, range, staleness })
    }

    async fn backup(&self, origin: BackupOrigin) -> Result<BackupStream, KvError> {
        self.begin_backup(origin).await
    }
}

#[async_trait]
impl ForwardHandler for KvService {
    async fn handle(&self, request: ForwardRequest) -> Result<ForwardReply, ClusterError> {
        let bound_ms = match &request {
            ForwardRequest::Propose(_)
            | ForwardRequest::ReadIndex
            | ForwardRequest::ReportDisk { .. }
            | ForwardRequest::IssueTicket { .. }
            | ForwardRequest::RevokeTicket { .. } => limits::REQUEST_TIMEOUT_MS,
            ForwardRequest::AddLearner(_)
            | ForwardRequest::ChangeMembership(_)
            | ForwardRequest::Join(_)
            | ForwardRequest::TransferLeader(_) => limits::MEMBERSHIP_TIMEOUT_MS,
        };
        match self.route() {
            Route::Local => self.serve_here(request, bound_ms).await.into_result(bound_ms),
            Route::Remote(node_id) => {
                let metrics = observe::metrics(&self.0.parts.raft);
                let http_addr = metrics.membership_config.get_node(&node_id).and_then(|node| node.http_addr);
                let leader = LeaderHint { node_id, http_addr };
                Err(KvError::NotLeader { leader, reason: "another node leads".to_owned() }.into())
            }
            Route::NoLeader(reason) => Err(KvError::NoQuorum { waited_ms: 0, reason }.into()),
            Route::NotInitialized => Err(KvError::NotInitialized.into()),
            Route::Stopped(reason) => Err(KvError::Stopping { reason }.into()),
        }
    }

    async fn join(&self, call: JoinCall) -> Result<NodeId, ClusterError> {
        // To come in again with the same ticket changes nothing.
        let repeatable = true;
        // An id is one write; to be made a member includes catching up.
        let bound_ms = match call.info {
            None => limits::REQUEST_TIMEOUT_MS,
            Some(_) => limits::MEMBERSHIP_TIMEOUT_MS,
        };
        match self.lead_or_forward(ForwardRequest::Join(call), repeatable, bound_ms).await? {
            ForwardReply::Joined { node_id } => Ok(node_id),
            other => panic!("a node that comes in was answered with {other:?}"),
        }
    }
}

/// One round of read index for all reads that wait for it.
async fn confirm_read_index(service: Weak<Inner>) -> Result<u64, KvError> {
    let Some(inner) = service.upgrade() else {
        return Err(stopping("the service has ended"));
    };
    let request = ForwardRequest::ReadIndex;
    match KvService(inner).lead_or_forward(request, true, limits::REQUEST_TIMEOUT_MS).await {
        Ok(ForwardReply::ReadIndex(index)) => Ok(index),
        Ok(other) => panic!("a read index was answered with {other:?}"),
        Err(error) => Err(kv_error(error)),
    }
}

fn stopping(reason: &str) -> KvError {
    KvError::Stopping { reason: reason.to_owned() }
}

/// Reads and writes meet only errors of reads and writes; another node that runs a newer version may
/// still answer with something else.
fn kv_error(error: ClusterError) -> KvError {
    match error {
        ClusterError::Kv(error) => error,
        other => KvError::NoQuorum { waited_ms: 0, reason: other.to_string() },
    }
}
