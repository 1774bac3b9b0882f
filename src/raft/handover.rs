//! Who should lead instead of a node whose disk is not well, and whose disks a write can count on.
//!
//! Every member whose disk is not well says so to the leader, again and again. A leader hands over only
//! to a cluster that can do without it: moving the leadership costs an election, and moving it to no
//! avail costs it every time.
//!
//! # Tiger Style
//! A report counts for [`limits::DISK_REPORT_VALID_MS`]; a node that says nothing is well, or is not heard
//! from at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::membership::matched_index;
use super::observe::{self, Metrics};
use crate::kv::types::{DiskStatus, NodeId};
use crate::limits;

/// Disks that are not well, by their own word.
pub type Unwell = BTreeMap<NodeId, DiskStatus>;

/// What other members said about their disks.
#[derive(Debug, Default)]
pub struct DiskReports(Mutex<BTreeMap<NodeId, (DiskStatus, Instant)>>);

impl DiskReports {
    /// Notes a member's word.
    pub fn note(&self, node_id: NodeId, status: DiskStatus, now: Instant) {
        self.lock().insert(node_id, (status, now));
    }

    /// The disks that are not well, as far as that was heard lately.
    pub fn unwell(&self, now: Instant) -> Unwell {
        let valid = Duration::from_millis(limits::DISK_REPORT_VALID_MS);
        let mut reports = self.lock();
        reports.retain(|_, (_, at)| now.saturating_duration_since(*at) < valid);
        reports
            .iter()
            .filter(|(_, (status, _))| !status.state.may_lead())
            .map(|(node_id, (status, _))| (*node_id, *status))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, (DiskStatus, Instant)>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Whether those voters that pass are a majority of the voters, in each of two sets while these change.
pub fn is_majority(metrics: &Metrics, passes: impl Fn(NodeId) -> bool) -> bool {
    metrics.membership_config.get_joint_config().iter().all(|voters| {
        let passing = voters.iter().filter(|voter| passes(**voter)).count();
        passing > voters.len() / 2
    })
}

/// The voter to hand over to: of those whose disks are well and that answer, the one whose log is
/// longest. None unless they are a majority without this node.
pub fn successor(metrics: &Metrics, unwell: &Unwell, answered_within: Duration) -> Option<NodeId> {
    let fit = |node_id: NodeId| {
        node_id != metrics.id
            && !unwell.contains_key(&node_id)
            && observe::answers(metrics, node_id, answered_within)
    };
    if !is_majority(metrics, fit) {
        return None;
    }
    let voters = metrics.membership_config.voter_ids().filter(|voter| fit(*voter));
    voters.max_by_key(|voter| matched_index(metrics, *voter))
}

/// The voter to hand over to when nodes are removed, this one among them: of those that stay and answer,
/// the one whose log is longest.
pub fn successor_without(
    metrics: &Metrics,
    leaving: &BTreeSet<NodeId>,
    answered_within: Duration,
) -> Option<NodeId> {
    let voters = metrics.membership_config.voter_ids();
    let fit = voters.filter(|voter| {
        *voter != metrics.id && !leaving.contains(voter) && observe::answers(metrics, *voter, answered_within)
    });
    fit.max_by_key(|voter| matched_index(metrics, *voter))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::testing::log_id;
    use openraft::type_config::TypeConfigExt;

    use super::*;
    use crate::kv::types::{DiskState, NodeInfo};
    use crate::raft::types::{StoredMembership, TypeConfig};

    const LATELY: Duration = Duration::from_secs(5);

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Node 1 leads; the others have answered just now and have the log up to ten times their id.
    fn leader_of(voters: &[&[u64]], answering: &[u64]) -> Metrics {
        let mut metrics = Metrics::new_initial(NodeId(1));
        let sets: Vec<_> = voters.iter().map(|set| nodes(set)).collect();
        let all: BTreeMap<_, _> = sets.iter().flatten().map(|id| (*id, NodeInfo::default())).collect();
        let membership = openraft::Membership::new(sets, all).unwrap();
        metrics.membership_config = Arc::new(StoredMembership::new(None, membership));
        let heard = |id: &u64| (NodeId(*id), Some(TypeConfig::now().into()));
        metrics.heartbeat = Some(answering.iter().map(heard).collect());
        let matched = |id: &u64| (NodeId(*id), Some(log_id::<TypeConfig>(1, NodeId(1), id * 10)));
        metrics.replication = Some(answering.iter().map(matched).collect());
        metrics
    }

    fn status(state: DiskState) -> DiskStatus {
        DiskStatus { state, free_bytes: Some(1), reserve_bytes: Some(2), sync_ms: 0 }
    }

    fn unwell(ids: &[u64]) -> Unwell {
        ids.iter().map(|id| (NodeId(*id), status(DiskState::Full))).collect()
    }

    #[test]
    fn leadership_goes_to_the_longest_log_among_the_well() {
        let metrics = leader_of(&[&[1, 2, 3, 4, 5]], &[2, 3, 4, 5]);
        assert_eq!(successor(&metrics, &unwell(&[]), LATELY), Some(NodeId(5)));
        assert_eq!(successor(&metrics, &unwell(&[5]), LATELY), Some(NodeId(4)));
    }

    #[test]
    fn leadership_stays_where_the_others_could_not_do_without_the_leader() {
        let three = leader_of(&[&[1, 2, 3]], &[2, 3]);
        assert_eq!(successor(&three, &unwell(&[3]), LATELY), None, "2 alone is no majority");
        let silent = leader_of(&[&[1, 2, 3]], &[2]);
        assert_eq!(successor(&silent, &unwell(&[]), LATELY), None, "3 does not answer");
        let alone = leader_of(&[&[1]], &[]);
        assert_eq!(successor(&alone, &unwell(&[]), LATELY), None);
        let two = leader_of(&[&[1, 2]], &[2]);
        assert_eq!(successor(&two, &unwell(&[]), LATELY), None);
        let joint = leader_of(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4]);
        assert_eq!(successor(&joint, &unwell(&[]), LATELY), None, "no majority of the new voters");
    }

    #[test]
    fn reports_expire_and_the_well_are_not_listed() {
        let (reports, now) = (DiskReports::default(), Instant::now());
        reports.note(NodeId(2), status(DiskState::Full), now);
        reports.note(NodeId(3), status(DiskState::Well), now);
        assert_eq!(reports.unwell(now).keys().collect::<Vec<_>>(), [&NodeId(2)]);
        reports.note(NodeId(2), status(DiskState::Slow), now);
        assert!(reports.unwell(now).is_empty(), "the newest word counts");
        reports.note(NodeId(2), status(DiskState::Stalled), now);
        assert!(reports.unwell(now + Duration::from_millis(limits::DISK_REPORT_VALID_MS)).is_empty());
    }
}
