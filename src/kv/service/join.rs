//! Letting new nodes in, on the leader: tickets, their redemption, and the votes of those who have caught up.
//!
//! # Tiger Style
//! - A secret that the state does not know costs no entry in the log.
//! - A node gets its vote only after it has been caught up and reachable for [`limits::PROMOTION_AFTER_MS`]
//!   without a break, and its data directory is noted before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::KvService;
use super::attempt::Attempt;
use crate::kv::clock::now_ms;
use crate::kv::forward::{Acquaintance, ForwardError, ForwardReply, ForwardRequest};
use crate::kv::types::{
    ClusterError, Command, JoinCall, JoinRefusal, KvError, MemberOp, MemberOpResult, MembershipChange,
    NodeId, OpResult, Peer, PublicKey, SecretHash, TicketId, WriteOp,
};
use crate::limits;
use crate::raft::membership::matched_index;
use crate::raft::observe::{self, Metrics, Route};
use crate::storage::record::encode_command;

impl KvService {
    /// Has tickets with this secret taken.
    pub(super) async fn issue_ticket(
        &self,
        hash: SecretHash,
        ttl_ms: u64,
        uses: u32,
    ) -> Attempt<ForwardReply> {
        let now_ms = now_ms();
        let expires_at_ms = now_ms.saturating_add(ttl_ms);
        let op = MemberOp::IssueTicket { hash, now_ms, expires_at_ms, uses };
        self.member_op(op).await.map(|_| ForwardReply::TicketIssued { expires_at_ms })
    }

    /// Has a ticket taken no more.
    pub(super) async fn revoke_ticket(&self, id: TicketId) -> Attempt<ForwardReply> {
        self.member_op(MemberOp::RevokeTicket { id }).await.map(|_| ForwardReply::TicketRevoked)
    }

    /// Gives a node that comes with a ticket its id, and makes it a member once it can be reached.
    pub(super) async fn let_node_in(&self, call: JoinCall, bound: Duration) -> Attempt<ForwardReply> {
        let JoinCall { hash, joiner, info } = call;
        match self.0.parts.reader.knows_ticket(&hash) {
            Ok(true) => {}
            Ok(false) => return Attempt::Done(Err(JoinRefusal::UnknownTicket.into())),
            Err(error) => return Attempt::Done(Err(KvError::Storage { reason: error.to_string() }.into())),
        }
        let redeemed = self.member_op(MemberOp::Redeem { hash, now_ms: now_ms(), joiner }).await;
        let node_id = match redeemed {
            Attempt::Done(Ok(MemberOpResult::Admitted { node_id })) => node_id,
            Attempt::Done(Ok(other)) => panic!("a redemption came to {other:?}"),
            Attempt::Done(Err(error)) => return Attempt::Done(Err(error)),
            Attempt::NotDelivered(reason) => return Attempt::NotDelivered(reason),
            Attempt::Unknown(reason) => return Attempt::Unknown(reason),
        };
        let joined = ForwardReply::Joined { node_id };
        match info {
            None => Attempt::Done(Ok(joined)),
            Some(info) => self.meet_and_add(Peer { node_id, info }, bound).await.map(|_| joined),
        }
    }

    /// Adds a node without a vote, once it has answered as itself. One that nobody knew and that is not added is
    /// let in no more: its ticket may be revoked, and no membership that could tell of its removal has it.
    pub(super) async fn meet_and_add(&self, peer: Peer, bound: Duration) -> Attempt<ForwardReply> {
        let met = self.0.parts.forwarder.introduce(&peer, limits::REQUEST_TIMEOUT_MS).await;
        let before = match met {
            Ok(before) => before,
            Err(
                ForwardError::Unreachable { node_id, reason } | ForwardError::NoAnswer { node_id, reason },
            ) => return Attempt::Done(Err(ClusterError::Unreachable { node_id, reason })),
        };
        let added = self.change(self.0.parts.operations.add_learner(peer.clone(), bound)).await;
        let is_refused = matches!(added, Attempt::Done(Err(_)) | Attempt::NotDelivered(_));
        if is_refused && before == Acquaintance::New && !self.has_member(&peer) {
            self.0.parts.forwarder.forget(&peer);
        }
        added
    }

    /// Whether a node is a member with its key: one that was added may still fail to catch up in time.
    fn has_member(&self, Peer { node_id, info }: &Peer) -> bool {
        observe::look(&self.0.parts.raft, |metrics| {
            let known = metrics.membership_config.get_node(node_id);
            known.is_some_and(|known| known.public_key == info.public_key)
        })
    }

    /// Notes the data directories of members that have said hello, as far as they are not known yet.
    pub(super) async fn note_incarnations(&self) {
        let Ok(known) = self.0.parts.reader.admitted() else { return };
        let is_known = |node_id: NodeId, key: &PublicKey| {
            known.iter().any(|(id, admitted)| *id == node_id && admitted.public_key == *key)
        };
        let forwarder = &self.0.parts.forwarder;
        let members: Vec<_> = observe::look(&self.0.parts.raft, |metrics| {
            let members = metrics.membership_config.nodes();
            let unknown = members.filter(|(node_id, info)| !is_known(**node_id, &info.public_key));
            unknown
                .filter_map(|(node_id, info)| {
                    Some((*node_id, info.public_key, forwarder.incarnation_of(&info.public_key)?))
                })
                .collect()
        });
        if members.is_empty() {
            return;
        }
        let noted = self.member_op(MemberOp::NoteIncarnations { members }).await;
        if let Err(error) = noted.into_result(limits::REQUEST_TIMEOUT_MS) {
            tracing::debug!("the data directories of members were not noted: {error}");
        }
    }

    async fn member_op(&self, op: MemberOp) -> Attempt<MemberOpResult> {
        let command = Command::new(WriteOp::Member(op));
        let proposal = match encode_command(&command) {
            Ok(proposal) => proposal,
            Err(error) => return Attempt::Done(Err(error.into())),
        };
        match self.propose(proposal).await {
            Attempt::Done(Ok(reply)) => match reply.results.into_iter().next() {
                Some(OpResult::Member(MemberOpResult::Refused(refusal))) => {
                    Attempt::Done(Err(refusal.into()))
                }
                Some(OpResult::Member(result)) => Attempt::Done(Ok(result)),
                other => panic!("an operation on members was answered with {other:?}"),
            },
            Attempt::Done(Err(error)) => Attempt::Done(Err(error)),
            Attempt::NotDelivered(reason) => Attempt::NotDelivered(reason),
            Attempt::Unknown(reason) => Attempt::Unknown(reason),
        }
    }
}

/// Gives nodes that wait for a vote theirs, while this node leads. Runs until it is dropped.
pub async fn promote(service: KvService) {
    let mut steady = Steady::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(limits::PROMOTION_CHECK_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if service.route() != Route::Local {
            steady = Steady::default();
            continue;
        }
        service.note_incarnations().await;
        let Some(node_id) = steady.next(&service, Instant::now()) else { continue };
        let metrics = observe::metrics(&service.0.parts.raft);
        let voters = metrics.membership_config.voter_ids().chain([node_id]).collect();
        let change = MembershipChange { voters: Some(voters), ..MembershipChange::default() };
        let request = ForwardRequest::ChangeMembership(change);
        match service.serve_here(request, limits::MEMBERSHIP_TIMEOUT_MS).await.into_result(0) {
            Ok(_) => tracing::info!("node {node_id} has caught up and got its vote"),
            Err(error) => tracing::warn!("node {node_id} has caught up and got no vote yet: {error}"),
        }
    }
}

/// Since when those that wait for a vote have been caught up and reachable.
#[derive(Default)]
struct Steady(BTreeMap<NodeId, Instant>);

impl Steady {
    /// One that has been for long enough, if there is one.
    fn next(&mut self, service: &KvService, now: Instant) -> Option<NodeId> {
        let admitted = service.0.parts.reader.admitted().ok()?;
        let answered_within = Duration::from_millis(service.0.parts.timings.election_timeout_max_ms);
        observe::look(&service.0.parts.raft, |metrics| {
            let membership = &metrics.membership_config;
            let waits = admitted.iter().filter(|(node_id, admitted)| {
                let key = membership.get_node(node_id).map(|info| info.public_key);
                admitted.wants_vote
                    && key == Some(admitted.public_key)
                    && !membership.voter_ids().any(|voter| voter == *node_id)
            });
            let steady =
                waits.map(|(node_id, _)| *node_id).filter(|id| is_steady(metrics, *id, answered_within));
            let before = std::mem::take(&mut self.0);
            self.0 = steady.map(|id| (id, before.get(&id).copied().unwrap_or(now))).collect();
        });
        let long_enough = Duration::from_millis(limits::PROMOTION_AFTER_MS);
        self.0.iter().find(|(_, since)| now - **since >= long_enough).map(|(node_id, _)| *node_id)
    }
}

fn is_steady(metrics: &Metrics, node_id: NodeId, answered_within: Duration) -> bool {
    let is_reachable = observe::answers(metrics, node_id, answered_within);
    let close = metrics.last_log_index.unwrap_or(0).saturating_sub(limits::PROMOTION_LAG_MAX_ENTRIES);
    is_reachable && matched_index(metrics, node_id) >= Some(close)
}
