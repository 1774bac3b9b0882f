//! Log ids, entries and requests that a scenario makes up, as some leader could have sent them.

use std::collections::BTreeSet;

use aspen::kv::types::{NodeId, NodeInfo};
use aspen::raft::types::{Entry, LogId, TypeConfig, Vote};
use openraft::Membership;
use openraft::alias::LeaderIdOf;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

/// The node that pretends to lead where there is no real leader.
pub const STRANGER: u64 = 9;

/// The id of an entry that a node proposed as the leader of a term.
pub fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderIdOf::<TypeConfig> { term, node_id: NodeId(node) }, index }
}

/// The id of an entry of the stranger's.
pub fn strange(term: u64, index: u64) -> LogId {
    log_id(term, STRANGER, index)
}

/// Empty entries of the stranger's: their terms, from the index on.
pub fn blanks(from: u64, terms: &[u64]) -> Vec<Entry> {
    (from..).zip(terms).map(|(index, term)| Entry::new_blank(strange(*term, index))).collect()
}

/// An entry with a uniform membership.
pub fn membership_entry(log_id: LogId, voters: &[u64]) -> Entry {
    let voters: BTreeSet<_> = voters.iter().copied().map(NodeId).collect();
    Entry::new_membership(log_id, Membership::<NodeId, NodeInfo>::new_with_defaults(vec![voters], []))
}

/// An append from the stranger, as the leader of term 5.
pub fn append(
    prev: Option<LogId>,
    entries: Vec<Entry>,
    commit: Option<LogId>,
) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote::new_committed(5, NodeId(STRANGER));
    AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: commit }
}

/// A request for a vote which the lease of a living leader does not hold up, as in a transfer of the
/// leadership.
pub fn urgent_vote(term: u64, candidate: u64, last: Option<LogId>) -> VoteRequest<TypeConfig> {
    let mut request = VoteRequest::new(Vote::new(term, NodeId(candidate)), last);
    request.leadership_transfer = true;
    request
}
