//! The log of a stopped node, continued by a membership of that node alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use redb::Durability;

use super::open::{self, OpenLogError};
use super::survey::LogFacts;
use super::{LOG, META, PURGED, VOTE};
use crate::kv::types::{NodeId, NodeInfo};
use crate::limits;
use crate::raft::types::{Entry, LogId, Proposal, TypeConfig, Vote};
use crate::storage::codec;
use crate::storage::database::guarded;
use crate::storage::disk::{Disk, RealDisk};

type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;

/// Where log and state end.
pub(in crate::storage) struct Ends<'s> {
    pub(in crate::storage) log: &'s LogFacts,
    pub(in crate::storage) applied: Option<LogId>,
}

/// Appends an entry that makes `node_id` the only member, behind all others, in a term above all that the
/// log and the vote have seen; behind it `command`; and the vote for that term: all or none. Returns the id
/// of the first of them.
pub(in crate::storage) fn append_sole_member(
    path: &Path,
    ends: Ends<'_>,
    node_id: NodeId,
    info: NodeInfo,
    command: Proposal,
) -> Result<LogId, OpenLogError> {
    let Ends { log, applied } = ends;
    let last = log.last.max(applied);
    let voted = log.vote.map_or(0, |vote| vote.leader_id.term());
    let term = voted.max(last.map_or(0, |last| last.leader_id.term)) + 1;
    let index = last.map_or(0, |last| last.index + 1);
    let id = |index| LogId::new(LeaderId::new(term, node_id), index);
    let membership = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, info)]));
    let membership = membership.expect("the voter has its node");
    let entries = [
        Entry { log_id: id(index), payload: EntryPayload::Membership(membership) },
        Entry { log_id: id(index + 1), payload: EntryPayload::Normal(command) },
    ];
    let vote = Vote::new_committed(term, node_id);

    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = open::file(&disk, path, limits::METADATA_CACHE_BYTES)?;
    guarded(path, || {
        let mut transaction = opened.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(VOTE, codec::seal(&vote).as_slice())?;
            // A state that came as a snapshot is ahead of the log, which then begins behind it.
            if let Some(applied) = applied.filter(|applied| Some(*applied) > log.last) {
                meta.insert(PURGED, codec::seal(&applied).as_slice())?;
            }
            let mut log = transaction.open_table(LOG)?;
            for entry in &entries {
                log.insert(entry.log_id.index, codec::seal(entry).as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    })?;
    Ok(id(index))
}
