//! A survivor becomes a cluster of its own with all that it holds, however often the way there is cut.

use openraft::vote::RaftLeaderId;

use super::*;
use crate::kv::types::PublicKey;
use crate::limits;
use crate::storage::verify::tests::store::{Closed, KEY, Store};

/// The cluster of the stores that tests write.
fn old_cluster() -> ClusterId {
    ClusterId(uuid::Uuid::from_u128(77))
}

#[test]
fn survivor_keeps_all_that_it_holds_and_is_the_only_member_of_another_cluster() {
    for closed in [Closed::Cleanly, Closed::ByACrash] {
        let store = Store::written(closed);
        store.append_uncommitted();
        let before = store.content().unwrap();
        let plan = plan(store.dir()).unwrap();
        assert_eq!((plan.node_id, plan.from), (NodeId(1), Some(old_cluster())));
        let last = before.log.last().unwrap().log_id;
        assert_eq!(plan.last, Some(last));
        let (_, uncommitted) = plan.uncommitted().unwrap();
        assert_eq!(uncommitted, last.index);
        assert!(store.content().unwrap() == before, "a plan changes nothing");

        let Recovered { cluster_id, log_id } = plan.carry_out().unwrap();
        let after = store.content().unwrap();
        assert_ne!(cluster_id, old_cluster());
        let (node_id, key, incarnation, _, _) = before.metadata;
        assert_eq!(after.metadata, (node_id, key, incarnation, Some(cluster_id), Vec::new()));
        assert!(after.state == before.state && after.snapshot == before.snapshot);
        let (kept, own) = after.log.split_at(before.log.len());
        let [own, moves_on] = own else { panic!("{own:?}") };
        assert_eq!(moves_on.log_id.index, own.log_id.index + 1);
        assert_eq!(kept, before.log, "the log is continued, its uncommitted end included");
        assert_eq!((own.log_id, log_id.index), (log_id, last.index + 1));
        let vote = after.vote.unwrap();
        assert!(vote.leader_id.term() > before.vote.unwrap().leader_id.term());
        assert_eq!(vote.leader_id.term(), log_id.leader_id.term);
        let EntryPayload::Membership(membership) = &own.payload else { panic!("{own:?}") };
        assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [NodeId(1)]);
        assert_eq!(membership.nodes().map(|(_, info)| info.public_key).collect::<Vec<_>>(), [KEY]);

        let again = super::plan(store.dir()).unwrap();
        assert!(again.report.damage.is_empty() && !again.is_unfinished);
        assert_eq!(again.from, Some(cluster_id));
        assert_eq!(again.keys, plan.keys);
        assert_eq!(again.revision.0, plan.revision.0 + limits::RESTORE_REVISION_GAP);
    }
}

#[test]
fn recovery_that_was_cut_short_is_completed_under_the_id_that_it_had_drawn() {
    let store = Store::written(Closed::Cleanly);
    let drawn = ClusterId::random();
    let cut = Recovery { from: Some(old_cluster()), to: drawn };
    // Before the log was touched, and after.
    for appended in [false, true] {
        let metadata = Metadata::open_existing(store.dir()).unwrap();
        metadata.begin_recovery(cut).unwrap();
        drop(metadata);
        if appended {
            let plan = plan(store.dir()).unwrap();
            let ends = Ends { log: &plan.log, applied: plan.applied };
            append_sole_member(&store.dir().join(LOG_FILE), ends, NodeId(1), NodeInfo::default(), move_on())
                .unwrap();
        }
        let opened = Metadata::open(store.dir(), None, KEY).unwrap();
        assert_eq!(opened.recovery(), Some(cut), "the node does not start");
        drop(opened);
        let plan = plan(store.dir()).unwrap();
        assert!(plan.is_unfinished);
        assert_eq!(plan.from, Some(old_cluster()));
        assert_eq!(plan.carry_out().unwrap().cluster_id, drawn);
        let opened = Metadata::open(store.dir(), None, KEY).unwrap();
        assert_eq!((opened.recovery(), opened.cluster_id()), (None, Some(drawn)));
    }
}

#[test]
fn what_is_damaged_or_of_no_cluster_is_left_alone() {
    let store = Store::written(Closed::Cleanly);
    std::fs::remove_file(store.dir().join(LOG_FILE)).unwrap();
    let error = plan(store.dir()).err().unwrap();
    assert!(error.is_refusal() && error.to_string().contains("raft.redb"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    drop(Metadata::open(dir.path(), None, PublicKey([1; 32])).unwrap());
    let error = plan(dir.path()).err().unwrap();
    assert!(matches!(error, RecoverError::NoCluster), "{error}");
}

#[test]
fn log_that_a_snapshot_has_overtaken_begins_behind_the_state() {
    let store = Store::written(Closed::Cleanly);
    let plan = plan(store.dir()).unwrap();
    let last = plan.last.unwrap();
    let ahead = LogId { index: last.index + 5, ..last };
    let ends = Ends { log: &plan.log, applied: Some(ahead) };
    let id = append_sole_member(&store.dir().join(LOG_FILE), ends, NodeId(1), NodeInfo::default(), move_on())
        .unwrap();
    let content = store.content().unwrap();
    assert_eq!((id.index, content.purged), (ahead.index + 1, Some(ahead)));
    assert_eq!(content.log.len(), 2);
}
