//! A cluster of one, made of a survivor where a majority is lost for good.
//!
//! The survivor keeps all that it holds, its last entries included, of which it cannot know whether they
//! were committed: an entry that was not is a write that nobody was told of, or that somebody waited for in
//! vain; one that was is a promise. It becomes the only member by an entry of its own, in a term above all
//! that it has seen, moves the revision on beyond what the lost ones may have told their clients, and gets another cluster id, so that no member of the lost cluster talks to it again:
//! whoever comes back would hold another history under the same name. The caller holds the directory's lock.
//!
//! # Tiger Style
//! The order makes a crash harmless. The cluster id changes first, together with a mark by which the node
//! does not start: there is no moment at which it could be the only member of the *old* cluster. A recovery
//! that was cut short is completed by the next one, under the id that it had drawn.

use std::path::Path;

use openraft::EntryPayload;

use super::damage::Damage;
use super::log_redb::recover::{Ends, append_sole_member};
use super::log_redb::survey::{LogFacts, LogSurvey};
use super::log_redb::{LOG_FILE, OpenLogError};
use super::metadata::{Metadata, MetadataError, Recovery};
use super::record::encode_command;
use super::state_redb::STATE_FILE;
use super::verify::{self, Report, Survey, VerifyError, state};
use crate::kv::types::{
    ClusterId, Command, NodeId, NodeInfo, PublicKey, RestoreId, RestoreStep, Revision, WriteOp,
};
use crate::raft::types::{LogId, Proposal, StoredMembership};

/// Why a recovery did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory could not be looked at.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Something in the directory is damaged, or cannot be read.
    #[error("{}. A cluster must not be made of what is not whole: {}", .0, way_out(.0))]
    Damaged(Damage),
    /// The node belongs to no cluster.
    #[error("the node belongs to no cluster, so there is nothing to recover: start it, and run `aspen init`")]
    NoCluster,
    /// The metadata could not be changed.
    #[error("{0}. Solve that, then run the recovery again: it goes on where it stopped")]
    Metadata(#[from] MetadataError),
    /// The log could not be continued.
    #[error("{0}. Solve that, then run the recovery again: it goes on where it stopped")]
    Log(#[from] OpenLogError),
}

fn way_out(damage: &Damage) -> &'static str {
    if damage.is_damage() {
        "`aspen-node repair` makes a state anew; where the log is damaged, take another survivor, or restore a backup"
    } else {
        "see to the disk and to who may read the file, then run the recovery again"
    }
}

impl RecoverError {
    /// Whether nothing was changed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Verify(_) | Self::Damaged(_) | Self::NoCluster)
    }
}

/// A member of the cluster, as the survivor knew it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastMember {
    /// Its id.
    pub node_id: NodeId,
    /// How it was known.
    pub info: NodeInfo,
    /// Whether it had a vote.
    pub is_voter: bool,
}

/// What the survivor holds, and what a recovery would make of it.
pub struct RecoveryPlan {
    /// What was found in the directory.
    pub report: Report,
    /// The survivor.
    pub node_id: NodeId,
    /// The cluster that lost its quorum, as far as the directory still knows.
    pub from: Option<ClusterId>,
    /// The members by the last entry that says who they are, which need not be committed.
    pub members: Vec<LastMember>,
    /// The last entry in the log.
    pub last: Option<LogId>,
    /// The last entry that the survivor knows to be committed.
    pub committed: Option<LogId>,
    /// The revision of what it holds, with all of its log applied.
    pub revision: Revision,
    /// The keys in it.
    pub keys: u64,
    /// Whether an earlier recovery was cut short.
    pub is_unfinished: bool,
    applied: Option<LogId>,
    to: Option<ClusterId>,
    public_key: PublicKey,
    /// Not the log itself: it must not be open while it is changed.
    log: LogFacts,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// The entry that made the node its only member.
    pub log_id: LogId,
}

/// Looks at the survivor. It changes nothing.
///
/// # Errors
/// Where nothing can be made of it.
pub fn plan(dir: &Path) -> Result<RecoveryPlan, RecoverError> {
    let Survey { report, log, state: facts, public_key, recovery, .. } = verify::survey(dir)?;
    if let Some(damage) = report.damage.first() {
        return Err(RecoverError::Damaged(damage.clone()));
    }
    let (Some(log), Some(facts), Some(node_id), Some(public_key)) = (log, facts, report.node_id, public_key)
    else {
        return Err(RecoverError::NoCluster);
    };
    let membership = last_membership(&log, facts.membership).map_err(RecoverError::Damaged)?;
    let members = members(&membership);
    if report.cluster_id.is_none() || members.is_empty() {
        return Err(RecoverError::NoCluster);
    }
    let replayed = state::after_replay(&dir.join(STATE_FILE), facts.applied, &log);
    let (revision, keys) = replayed.map_err(RecoverError::Damaged)?;
    let from = recovery.map_or(report.cluster_id, |recovery| recovery.from);
    // A snapshot that has just come is ahead of the log, and of what the log says to be committed.
    let last = log.facts.last.max(facts.applied);
    let committed = log.facts.committed.max(facts.applied);
    let is_unfinished = recovery.is_some();
    let to = recovery.map(|recovery| recovery.to);
    Ok(RecoveryPlan {
        report,
        node_id,
        from,
        members,
        last,
        committed,
        revision,
        keys,
        is_unfinished,
        applied: facts.applied,
        to,
        public_key,
        log: log.facts.clone(),
    })
}

/// The last membership in the log, or that of the state where the log has none.
fn last_membership(log: &LogSurvey, of_state: StoredMembership) -> Result<StoredMembership, Damage> {
    let mut found = of_state;
    // What the log says before that, the state says as well.
    let first = (*found.log_id()).max(log.facts.purged);
    let mut next = first.map_or(0, |id| id.index + 1);
    while log.facts.last.is_some_and(|last| next <= last.index) {
        for entry in log.entries(next..u64::MAX)? {
            next = entry.log_id.index + 1;
            if let EntryPayload::Membership(membership) = entry.payload {
                found = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
    }
    Ok(found)
}

/// The command behind the membership. What the others acknowledged and the survivor lacks has revisions, and
/// clients that have seen them.
fn move_on() -> Proposal {
    let step = RestoreStep::MoveOn { id: RestoreId::random() };
    encode_command(&Command::new(WriteOp::Restore(step))).expect("the command is small")
}

fn members(membership: &StoredMembership) -> Vec<LastMember> {
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let member = |(node_id, info): (&NodeId, &NodeInfo)| LastMember {
        node_id: *node_id,
        info: info.clone(),
        is_voter: voters.contains(node_id),
    };
    let mut members: Vec<LastMember> = membership.nodes().map(member).collect();
    members.sort_by_key(|member| member.node_id);
    members
}

impl RecoveryPlan {
    /// Entries that the survivor holds and does not know to be committed, first and last.
    pub fn uncommitted(&self) -> Option<(u64, u64)> {
        let first = self.committed.map_or(0, |committed| committed.index + 1);
        self.last.filter(|last| last.index >= first).map(|last| (first, last.index))
    }

    /// Makes the new cluster.
    ///
    /// # Errors
    /// [`RecoverError`]; what was begun is completed by the next call.
    pub fn carry_out(&self) -> Result<Recovered, RecoverError> {
        let dir = &self.report.data_dir;
        let cluster_id = self.to.unwrap_or_else(ClusterId::random);
        let metadata = Metadata::open_existing(dir)?;
        metadata.begin_recovery(Recovery { from: self.from, to: cluster_id })?;
        let own = self.members.iter().find(|member| member.node_id == self.node_id);
        let info = own.map_or_else(NodeInfo::default, |member| member.info.clone());
        let info = NodeInfo { public_key: self.public_key, ..info };
        let ends = Ends { log: &self.log, applied: self.applied };
        let log_id = append_sole_member(&dir.join(LOG_FILE), ends, self.node_id, info, move_on())?;
        metadata.end_recovery()?;
        Ok(Recovered { cluster_id, log_id })
    }
}

#[cfg(test)]
mod tests;
