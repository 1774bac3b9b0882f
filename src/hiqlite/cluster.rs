//! Forming the Hiqlite cluster and changing its members, by its own management calls.
//!
//! Hiqlite changes the membership a step at a time: to promote, to demote and to remove are calls of their
//! own. A change that fails on its way leaves what was done until then; to ask again goes on from there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::link::{Link, Stage};
use super::management::{CallError, Learner, Management};
use super::unsupported;
use super::view::View;
use crate::kv::interface::ClusterController;
use crate::kv::types::{
    ClusterError, ClusterId, ClusterStatus, KvError, MembershipChange, MembershipChanged, NodeId, NodeState,
    OutstandingTicket, Peer, Revision, Role, SecretHash, TicketId,
};
use crate::limits;

/// How an embedded node gets to found its cluster.
pub enum Founding {
    /// It may, and does once it is told so.
    OnInit(Arc<Notify>),
    /// It never does, for this reason.
    Never(String),
}

/// Forms the cluster and changes its members.
pub struct HiqliteCluster {
    link: Arc<Link>,
    management: Management,
    founding: Founding,
}

impl HiqliteCluster {
    /// Over this link, with these calls.
    pub fn new(link: Arc<Link>, management: Management, founding: Founding) -> Self {
        Self { link, management, founding }
    }

    fn view(&self) -> Result<View, ClusterError> {
        match self.link.stage() {
            Stage::Waiting { .. } => Err(KvError::NotInitialized.into()),
            Stage::Connecting { .. } | Stage::Up(_) => {
                self.link.view().map_err(|reason| KvError::NoQuorum { waited_ms: 0, reason }.into())
            }
        }
    }

    /// The leader's address, and the cluster as the leader sees it.
    async fn leader(&self, deadline: Instant) -> Result<(String, View), ClusterError> {
        let mut view = self.view()?;
        if view.leader().is_none() {
            let soon = deadline.min(Instant::now() + Duration::from_millis(limits::REQUEST_TIMEOUT_MS));
            let led = self.link.await_view(soon, |view| view.leader().is_some()).await;
            view = led.ok_or_else(|| KvError::NoQuorum {
                waited_ms: limits::REQUEST_TIMEOUT_MS,
                reason: "the Hiqlite cluster has no leader".to_owned(),
            })?;
        }
        let leader = view.leader().expect("it was just looked for");
        let addr = view.addresses(leader).map(|addresses| addresses.addr_api.clone());
        let addr = addr.ok_or(ClusterError::UnknownNode { node_id: leader })?;
        let asked = self.management.view(&addr, left(deadline)).await;
        Ok((addr.clone(), asked.map_err(|error| failed(leader, &error))?))
    }

    /// The membership as the leader has it.
    async fn membership(&self, deadline: Instant) -> Result<MembershipChanged, ClusterError> {
        Ok(self.leader(deadline).await?.1.membership())
    }

    /// Waits until a node takes the secret, for the time of a request: one that has just started opens its
    /// ports last.
    async fn await_answer(&self, addr: &str) -> Result<(), CallError> {
        let until = Instant::now() + Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
        let bound = Duration::from_millis(limits::HIQLITE_PING_TIMEOUT_MS);
        loop {
            match self.management.view(addr, bound).await {
                // It knows the secret, and has no cluster that it could tell of.
                Ok(_) | Err(CallError::Refused { .. }) => return Ok(()),
                Err(CallError::SecretRefused { addr }) => return Err(CallError::SecretRefused { addr }),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(limits::HIQLITE_LOOK_INTERVAL_MS)).await;
        }
    }

    /// Waits until the leader has brought a member's log as far as its own, but for what it may be behind. A vote
    /// of one that it does not reach would be missing from then on.
    async fn await_log(&self, node_id: NodeId, deadline: Instant) -> Result<(), ClusterError> {
        let waited_ms = limits::REQUEST_TIMEOUT_MS;
        let until = deadline.min(Instant::now() + Duration::from_millis(waited_ms));
        loop {
            let (_, view) = self.leader(deadline).await?;
            let needed = view.last_log_index().saturating_sub(limits::PROMOTION_LAG_MAX_ENTRIES);
            let matched = view.matched_index(node_id);
            if matched >= Some(needed) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(match (matched, view.addresses(node_id)) {
                    (Some(matched), _) => ClusterError::CatchingUp { node_id, matched, needed, waited_ms },
                    (None, addresses) => {
                        let at = addresses.map_or("", |addresses| &addresses.addr_raft);
                        let reason = format!(
                            "it is a member without a vote, and the leader has not brought it anything at {at} \
                             within {waited_ms} ms. Start it with the hiqlite.secret_raft_file and the hiqlite.tls of \
                             the others, or remove it"
                        );
                        ClusterError::Unreachable { node_id, reason }
                    }
                });
            }
            tokio::time::sleep(Duration::from_millis(limits::HIQLITE_LOOK_INTERVAL_MS)).await;
        }
    }

    async fn add(&self, peer: &Peer, deadline: Instant) -> Result<(), ClusterError> {
        let (leader, view) = self.leader(deadline).await?;
        let [raft_addr, api_addr] = peer.info.addresses[..] else {
            return Err(ClusterError::Unreachable {
                node_id: peer.node_id,
                reason: "its ticket names no addresses of a Hiqlite node".to_owned(),
            });
        };
        let (addr_raft, addr_api) = (raft_addr.to_string(), api_addr.to_string());
        if let Some(known) = view.addresses(peer.node_id) {
            let is_same = known.addr_raft == addr_raft && known.addr_api == addr_api;
            if !is_same {
                return Err(ClusterError::NodeIdTaken { node_id: peer.node_id });
            }
            return self.await_log(peer.node_id, deadline).await;
        }
        self.await_answer(&addr_api).await.map_err(|error| failed(peer.node_id, &error))?;
        let learner = Learner { node_id: peer.node_id.0, addr_api, addr_raft };
        let added = self.management.add_learner(&leader, &learner, left(deadline)).await;
        added.map_err(|error| failed(peer.node_id, &error))?;
        self.await_log(peer.node_id, deadline).await
    }

    /// Gives votes to those that have none and shall.
    async fn promote(&self, voters: &BTreeSet<NodeId>, deadline: Instant) -> Result<(), ClusterError> {
        let (leader, view) = self.leader(deadline).await?;
        let current = view.voters();
        if voters.is_subset(&current) {
            return Ok(());
        }
        for node_id in voters.difference(&current) {
            self.await_log(*node_id, deadline).await?;
        }
        // One that is not named would leave: those that are to go do so later, one by one.
        let all: Vec<NodeId> = current.union(voters).copied().collect();
        let set = self.management.set_voters(&leader, &all, left(deadline)).await;
        set.map_err(|error| failed(view.node_id(), &error))
    }

    /// Takes a node's vote, and removes it unless it stays.
    async fn demote(&self, node_id: NodeId, stays: bool, deadline: Instant) -> Result<(), ClusterError> {
        let (leader, view) = self.leader(deadline).await?;
        let is_done = if stays { !view.voters().contains(&node_id) } else { !view.is_member(node_id) };
        if is_done {
            return Ok(());
        }
        let left_ = self.management.leave(&leader, node_id, stays, left(deadline)).await;
        left_.map_err(|error| failed(node_id, &error))
    }

    /// Refuses voters of which too few answer.
    async fn check_quorum(&self, voters: &BTreeSet<NodeId>, view: &View) -> Result<(), ClusterError> {
        let bound = Duration::from_millis(limits::HIQLITE_PING_TIMEOUT_MS);
        let asked = voters.iter().map(async |id| {
            let addr = view.addresses(*id).map(|addresses| addresses.addr_api.as_str());
            let answers = match addr {
                Some(addr) => self.management.answers(addr, bound).await,
                None => false,
            };
            (*id, answers)
        });
        let silent: BTreeSet<NodeId> =
            join_all(asked).await.into_iter().filter(|(_, answers)| !answers).map(|(id, _)| id).collect();
        let needed = voters.len() / 2 + 1;
        if voters.len() - silent.len() < needed {
            return Err(ClusterError::QuorumAtStake { voters: voters.clone(), silent, needed });
        }
        Ok(())
    }

    async fn change(&self, change: &MembershipChange, deadline: Instant) -> Result<(), ClusterError> {
        let (_, view) = self.leader(deadline).await?;
        let current = view.voters();
        let voters = change.voters.clone().unwrap_or_else(|| current.clone());
        let voters: BTreeSet<NodeId> = voters.difference(&change.remove).copied().collect();
        let mut named = change.voters.iter().flatten().chain(&change.remove);
        if let Some(stranger) = named.find(|id| !view.is_member(**id)) {
            return Err(ClusterError::UnknownNode { node_id: *stranger });
        }
        if voters.is_empty() {
            return Err(ClusterError::NoVoters);
        }
        if !change.force {
            self.check_quorum(&voters, &view).await?;
        }
        self.promote(&voters, deadline).await?;
        // The leader last: whatever is left to do would have to wait for another one.
        let leader = view.node_id();
        let goes = |id: &NodeId| !voters.contains(id) || change.remove.contains(id);
        let mut going: Vec<NodeId> = current.union(&change.remove).copied().filter(goes).collect();
        going.sort_by_key(|id| *id == leader);
        for node_id in going {
            self.demote(node_id, !change.remove.contains(&node_id), deadline).await?;
        }
        Ok(())
    }
}

fn deadline() -> Instant {
    // The answer of the last call must still get out.
    let bound = limits::MEMBERSHIP_TIMEOUT_MS - limits::HIQLITE_PING_TIMEOUT_MS;
    Instant::now() + Duration::from_millis(bound)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn failed(node_id: NodeId, error: &CallError) -> ClusterError {
    match error {
        CallError::Refused { reason, .. } if reason.contains("InProgress") => ClusterError::ChangeInProgress,
        _ => ClusterError::Unreachable { node_id, reason: CallError::told(std::slice::from_ref(error)) },
    }
}

/// The errors of a time that is up, in place of none at all.
async fn within<T>(work: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
    let bound = limits::MEMBERSHIP_TIMEOUT_MS;
    let done = tokio::time::timeout(Duration::from_millis(bound), work).await;
    done.unwrap_or(Err(KvError::OutcomeUnknown { waited_ms: bound }.into()))
}

#[async_trait]
impl ClusterController for HiqliteCluster {
    async fn init(&self) -> Result<ClusterStatus, ClusterError> {
        if let Ok(view) = self.link.view() {
            return Err(ClusterError::AlreadyInitialized { node_id: view.node_id() });
        }
        match &self.founding {
            Founding::Never(waits_for) => {
                return Err(ClusterError::MakesNoCluster { waits_for: waits_for.clone() });
            }
            Founding::OnInit(founded) => founded.notify_one(),
        }
        let bound = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
        let deadline = Instant::now() + bound;
        let led = self.link.await_view(deadline, |view| view.leader().is_some()).await;
        led.ok_or(KvError::OutcomeUnknown { waited_ms: limits::MEMBERSHIP_TIMEOUT_MS })?;
        let client = self.link.client(deadline).await?;
        self.link.make_tables(&client, deadline).await?;
        Ok(self.status())
    }

    async fn add_learner(&self, peer: Peer) -> Result<MembershipChanged, ClusterError> {
        let deadline = deadline();
        within(async {
            self.add(&peer, deadline).await?;
            self.membership(deadline).await
        })
        .await
    }

    async fn issue_ticket(&self, _: SecretHash, _: u64, _: u32) -> Result<u64, ClusterError> {
        Err(unsupported("join tickets").into())
    }

    async fn tickets(&self) -> Result<Vec<OutstandingTicket>, ClusterError> {
        Err(unsupported("join tickets").into())
    }

    async fn revoke_ticket(&self, _: TicketId) -> Result<(), ClusterError> {
        Err(unsupported("join tickets").into())
    }

    async fn replace(&self, old: NodeId, new: Peer) -> Result<MembershipChanged, ClusterError> {
        let deadline = deadline();
        within(async {
            let (_, view) = self.leader(deadline).await?;
            if !view.is_member(old) {
                return Err(ClusterError::UnknownNode { node_id: old });
            }
            self.add(&new, deadline).await?;
            if view.voters().contains(&old) {
                self.promote(&[new.node_id].into(), deadline).await?;
            }
            self.demote(old, false, deadline).await?;
            self.membership(deadline).await
        })
        .await
    }

    async fn transfer_leader(&self, _: Option<NodeId>) -> Result<NodeId, ClusterError> {
        Err(unsupported("transfer of the leadership").into())
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, ClusterError> {
        let deadline = deadline();
        within(async {
            self.change(&change, deadline).await?;
            self.membership(deadline).await
        })
        .await
    }

    fn status(&self) -> ClusterStatus {
        let view = self.link.view();
        let (state, detail) = state(&self.link, &view);
        let node_id = self.link.node_id;
        let mut status = ClusterStatus {
            node_id,
            cluster_id: None,
            state,
            detail,
            role: Role::Learner,
            term: 0,
            leader: None,
            revision: self.link.revision(),
            compacted_revision: Revision(0),
            last_log_index: None,
            committed_index: None,
            applied_index: None,
            snapshot_index: None,
            purged_index: None,
            disk: None,
            members: Vec::new(),
        };
        if let Ok(view) = view {
            // It keeps no history: only the newest revision can be read.
            status.compacted_revision = status.revision;
            [status.last_log_index, status.applied_index, status.snapshot_index, status.purged_index] =
                view.indexes();
            status.role = if self.link.is_embedded { view.role() } else { Role::Learner };
            status.term = view.term();
            status.leader = view.leader();
            status.members = view.members();
        }
        status
    }

    /// Hiqlite gives its clusters none.
    fn cluster_id(&self) -> Option<ClusterId> {
        None
    }
}

fn state(link: &Link, view: &Result<View, String>) -> (NodeState, String) {
    let id = link.node_id;
    let view = match (link.stage(), view) {
        (Stage::Waiting { reason }, _) => return (NodeState::WaitingForInit, reason),
        (_, Err(reason)) => return (NodeState::NoLeader, reason.clone()),
        (_, Ok(view)) => view,
    };
    if view.is_stopped() {
        return (NodeState::Stopping, "Hiqlite has stopped".to_owned());
    }
    if link.is_embedded && !view.is_member(id) {
        let detail = format!("node {id} was removed from the cluster: stop it, and empty its data directory");
        return (NodeState::Removed, detail);
    }
    let Some(leader) = view.leader() else {
        let detail =
            "the Hiqlite cluster has no leader; waiting for a majority of the voters to reach each other";
        return (NodeState::NoLeader, detail.to_owned());
    };
    let term = view.term();
    let detail = if !link.is_embedded {
        format!("a client of the Hiqlite cluster that node {leader} leads in term {term}")
    } else if leader == id {
        format!("node {id} leads in term {term}")
    } else {
        format!("node {id} follows {leader} in term {term}")
    };
    match link.stage() {
        Stage::Up(_) => (NodeState::Serving, detail),
        Stage::Waiting { reason } | Stage::Connecting { reason } => (NodeState::NoLeader, reason),
    }
}
