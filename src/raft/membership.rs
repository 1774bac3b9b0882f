//! Operations on the membership, on the leader itself.
//!
//! # Tiger Style
//! - A new voter is one whose log is known to be close behind the leader's: a mistyped address never
//!   counts towards a quorum.
//! - The last voter is never removed, nor so many that too few are left that answer, unless forced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::ClientWriteResponse;

use super::RaftHandle;
use super::observe::{self, Metrics};
use super::types::TypeConfig;
use crate::kv::types::{
    ClusterError, KvError, LeaderHint, MembershipChange, MembershipChanged, NodeId, NodeInfo, Peer,
};
use crate::limits;

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;
type Written = Result<ClientWriteResponse<TypeConfig>, WriteError>;

/// Makes a cluster of this node and others, all of them voters. Nobody else may do so.
///
/// # Errors
/// [`ClusterError::AlreadyInitialized`].
pub async fn init(raft: &RaftHandle, own: Peer, others: Vec<Peer>) -> Result<(), ClusterError> {
    let node_id = own.node_id;
    let members = others.into_iter().chain([own]).map(|peer| (peer.node_id, peer.info));
    raft.initialize(members.collect::<BTreeMap<_, _>>()).await.map_err(|error| match error {
        RaftError::APIError(InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_)) => {
            ClusterError::AlreadyInitialized { node_id }
        }
        RaftError::Fatal(fatal) => KvError::Stopping { reason: fatal.to_string() }.into(),
    })
}

/// Adds a node without a vote and waits until it has caught up. Adding a member again is a no-op.
///
/// # Errors
/// [`ClusterError::NodeIdTaken`] for an id that another key has, and those of losing the leadership.
pub async fn add_learner(raft: &RaftHandle, peer: Peer) -> Result<MembershipChanged, ClusterError> {
    let metrics = observe::metrics(raft);
    if let Some(known) = metrics.membership_config.get_node(&peer.node_id) {
        if known.public_key != peer.info.public_key {
            return Err(ClusterError::NodeIdTaken { node_id: peer.node_id });
        }
        return Ok(current(&metrics));
    }
    let node_id = peer.node_id;
    let changed = within_bound(raft.add_learner(node_id, peer.info, false)).await?;
    // Once it has the entry that added it, it knows of its cluster.
    await_log_at(raft, node_id, changed.log_index, limits::CATCH_UP_TIMEOUT_MS).await?;
    Ok(changed)
}

/// Changes voters and members.
///
/// # Errors
/// [`ClusterError::NoVoters`], [`ClusterError::UnknownNode`], [`ClusterError::CatchingUp`] or
/// [`ClusterError::Unreachable`] for a new voter that is not caught up, and those of losing the leadership.
pub async fn change(raft: &RaftHandle, change: MembershipChange) -> Result<MembershipChanged, ClusterError> {
    let metrics = observe::metrics(raft);
    let current_voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
    let asked = change.voters.unwrap_or_else(|| current_voters.clone());
    let voters: BTreeSet<NodeId> = asked.difference(&change.remove).copied().collect();

    if voters.is_empty() {
        return Err(ClusterError::NoVoters);
    }
    for node_id in voters.iter().chain(&change.remove) {
        if metrics.membership_config.get_node(node_id).is_none() {
            return Err(ClusterError::UnknownNode { node_id: *node_id });
        }
    }
    for node_id in voters.difference(&current_voters) {
        let last = metrics.last_log_index.unwrap_or(0);
        let close = last.saturating_sub(limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES);
        await_log_at(raft, *node_id, close, limits::REQUEST_TIMEOUT_MS).await?;
    }
    if voters != current_voters
        && let Err(stake) = ensure_quorum(raft, &voters).await
    {
        if !change.force {
            return Err(stake);
        }
        tracing::warn!("a change of the membership is forced: {stake}");
    }

    let before = *metrics.membership_config.log_id();
    let voters = (voters != current_voters).then_some(voters);
    let changed = write_in_steps(raft, current(&metrics), voters, change.remove).await;
    let now = observe::look(raft, |metrics| *metrics.membership_config.log_id());
    changed.map_err(|error| if now == before { error } else { undecided(error) })
}

/// First the votes, in two entries, then the members.
async fn write_in_steps(
    raft: &RaftHandle,
    mut changed: MembershipChanged,
    voters: Option<BTreeSet<NodeId>>,
    remove: BTreeSet<NodeId>,
) -> Result<MembershipChanged, ClusterError> {
    if let Some(voters) = voters {
        changed = within_bound(raft.change_membership(voters, true)).await?;
    }
    if !remove.is_empty() {
        let remove = ChangeMembers::RemoveNodes(remove);
        changed = within_bound(raft.change_membership(remove, true)).await?;
    }
    Ok(changed)
}

/// What to say where a step failed behind one that was written: not that nothing was changed.
fn undecided(error: ClusterError) -> ClusterError {
    tracing::warn!("a change of the membership was written in part: {error}");
    KvError::OutcomeUnknown { waited_ms: 0 }.into()
}

/// The members that are not where the membership says, of those that have said where they are.
pub fn moved(metrics: &Metrics, peers: Vec<Peer>) -> Vec<Peer> {
    let has_moved = |peer: &Peer| {
        let known = metrics.membership_config.get_node(&peer.node_id);
        // Another key under this id is another node.
        known.is_some_and(|known| {
            known.public_key == peer.info.public_key && !is_same_place(known, &peer.info)
        })
    };
    peers.into_iter().filter(has_moved).collect()
}

/// Whether two lists of addresses lead to the same places, in whatever order.
fn is_same_place(known: &NodeInfo, said: &NodeInfo) -> bool {
    let addresses = |info: &NodeInfo| info.addresses.iter().copied().collect::<BTreeSet<_>>();
    (known.http_addr, &known.relay_url) == (said.http_addr, &said.relay_url)
        && addresses(known) == addresses(said)
}

/// Writes into the membership where members are. Whose vote counts stays as it is, and so do the keys that
/// they are known by.
///
/// # Errors
/// Those of losing the leadership, and of another change that is under way.
pub async fn note_addresses(raft: &RaftHandle, peers: Vec<Peer>) -> Result<MembershipChanged, ClusterError> {
    let metrics = observe::metrics(raft);
    let moved = moved(&metrics, peers);
    if moved.is_empty() {
        return Ok(current(&metrics));
    }
    let nodes = moved.into_iter().map(|peer| (peer.node_id, peer.info)).collect();
    within_bound(raft.change_membership(ChangeMembers::SetNodes(nodes), true)).await
}

/// A voter that has been silent for longer may be gone.
fn answered_within(raft: &RaftHandle) -> Duration {
    Duration::from_millis(raft.config().election_timeout_max)
}

/// Whether enough of these voters answer for them to take writes. A leader that was just elected has not
/// heard of all of them yet, so it listens for a while.
async fn ensure_quorum(raft: &RaftHandle, voters: &BTreeSet<NodeId>) -> Result<(), ClusterError> {
    let lately = answered_within(raft);
    let silent = |metrics: &Metrics| -> BTreeSet<NodeId> {
        voters.iter().filter(|voter| !observe::answers(metrics, **voter, lately)).copied().collect()
    };
    let needed = voters.len() / 2 + 1;
    let enough = |metrics: &Metrics| voters.len() - silent(metrics).len() >= needed;
    if raft.wait(Some(lately)).metrics(enough, "a majority of the voters answers").await.is_ok() {
        return Ok(());
    }
    let silent = silent(&observe::metrics(raft));
    Err(ClusterError::QuorumAtStake { voters: voters.clone(), silent, needed })
}

/// The membership in the metrics, in the form of an answer.
pub fn current(metrics: &Metrics) -> MembershipChanged {
    let membership = metrics.membership_config.membership();
    MembershipChanged {
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        log_index: metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index()),
    }
}

/// Waits until a node is known to have the log up to `index`, and has answered what it was sent since this
/// began: that it answered a moment ago says nothing about a node that has just gone.
async fn await_log_at(
    raft: &RaftHandle,
    node_id: NodeId,
    index: u64,
    bound_ms: u64,
) -> Result<(), ClusterError> {
    let wait = raft.wait(Some(Duration::from_millis(bound_ms)));
    let begun = Instant::now();
    let reached = |metrics: &Metrics| {
        matched_index(metrics, node_id) >= Some(index) && observe::answers(metrics, node_id, begun.elapsed())
    };
    let Err(error) = wait.metrics(reached, "the node catches up").await else { return Ok(()) };
    tracing::debug!("waiting for node {node_id} ended: {error}");
    let metrics = observe::metrics(raft);
    if !observe::answers(&metrics, node_id, answered_within(raft)) {
        let reason = format!("it has not answered the leader within {bound_ms} ms");
        return Err(ClusterError::Unreachable { node_id, reason });
    }
    let matched = matched_index(&metrics, node_id).unwrap_or(0);
    Err(ClusterError::CatchingUp { node_id, matched, needed: index, waited_ms: bound_ms })
}

/// The last log index that a node is known to have on disk. Only a leader knows.
pub fn matched_index(metrics: &Metrics, node_id: NodeId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&node_id)?;
    matched.as_ref().map(|log_id| log_id.index())
}

async fn within_bound(written: impl Future<Output = Written>) -> Result<MembershipChanged, ClusterError> {
    let bound = Duration::from_millis(limits::MEMBERSHIP_TIMEOUT_MS);
    let Ok(written) = tokio::time::timeout(bound, written).await else {
        return Err(KvError::OutcomeUnknown { waited_ms: limits::MEMBERSHIP_TIMEOUT_MS }.into());
    };
    let response = written.map_err(translate)?;
    let membership = response.membership.expect("a membership change answers with the membership");
    Ok(MembershipChanged {
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        log_index: response.log_id.index(),
    })
}

fn translate(error: WriteError) -> ClusterError {
    let error = match error {
        RaftError::APIError(error) => error,
        RaftError::Fatal(fatal) => return KvError::Stopping { reason: fatal.to_string() }.into(),
    };
    match error {
        ClientWriteError::ForwardToLeader(to) => match (to.leader_id, to.leader_node) {
            (Some(node_id), node) => KvError::NotLeader {
                leader: LeaderHint { node_id, http_addr: node.and_then(|node| node.http_addr) },
                reason: "the leadership changed".to_owned(),
            }
            .into(),
            (None, _) => no_leader("the leadership was lost").into(),
        },
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            ClusterError::ChangeInProgress
        }
        // Over in a moment, as after the leadership was handed over: it is worth another attempt.
        ClientWriteError::ChangeMembershipError(error @ ChangeMembershipError::UncommittedLeaderLog(_)) => {
            no_leader(&error.to_string()).into()
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_)) => {
            ClusterError::NoVoters
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(missing)) => {
            ClusterError::UnknownNode { node_id: missing.node_id }
        }
        ClientWriteError::ChangeMembershipError(other) => no_leader(&other.to_string()).into(),
        ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => {
            KvError::OutcomeUnknown { waited_ms: 0 }.into()
        }
    }
}

fn no_leader(reason: &str) -> KvError {
    KvError::NoQuorum { waited_ms: 0, reason: reason.to_owned() }
}
