//! The way from one set of voters to another: through both at once.

use aspen::kv::types::NodeId;
use aspen::raft::RaftHandle;
use aspen::raft::observe::Metrics;
use openraft::errors::ChangeMembershipError;

use super::{Written, lose_appends, parts, refusal};
use crate::router::faults::{Failure, Fate};
use crate::router::storage::Storage;
use crate::router::{AspenRouter, ids, index};

on_each_storage!(a_change_passes_through_a_joint_membership);
in_memory!(
    a_joint_membership_needs_the_new_majority,
    a_joint_membership_needs_the_old_majority,
    a_second_change_is_refused_while_one_is_under_way,
    a_change_that_was_not_committed_is_taken_back,
    a_new_leader_keeps_a_joint_membership_until_it_is_told_to_end_it,
);

/// Begins a change that may take long, or for ever.
fn change_in_background(raft: &RaftHandle, voters: &[u64]) -> tokio::task::JoinHandle<Written> {
    let (raft, voters) = (raft.clone(), ids(voters));
    tokio::spawn(async move { raft.change_membership(voters, true).await })
}

fn membership_index(metrics: &Metrics) -> Option<u64> {
    index(*metrics.membership_config.log_id())
}

fn committed_membership_index(metrics: &Metrics) -> Option<u64> {
    index(*metrics.committed_membership_config.log_id())
}

/// Voters change in two entries: both sets together, then the new one.
async fn a_change_passes_through_a_joint_membership(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let last = router.change_voters(1, &[1, 2, 4]).await;
    router.await_applied(&[1, 2, 4], last).await;
    let memberships = router.log_memberships(4).await;
    let parts: Vec<_> = memberships.iter().map(|membership| membership.get_joint_config().clone()).collect();
    let (old, new) = (ids(&[1, 2, 3]), ids(&[1, 2, 4]));
    assert_eq!(parts, [vec![old.clone()], vec![old.clone()], vec![old, new.clone()], vec![new]]);
}

/// A joint membership is not committed by a majority of the old voters alone.
async fn a_joint_membership_needs_the_new_majority(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[4, 5]).await;
    lose_appends(&router, 1, &[4, 5]);
    let change = change_in_background(router.raft(1), &[1, 4, 5]);
    router.until(2, "the joint entry", |metrics| membership_index(metrics) > Some(before)).await;
    let committed = |metrics: &Metrics| committed_membership_index(metrics) > Some(before);
    router.never(1, 3, "committed without 4 and 5", committed).await;
    router.unhook();
    change.await.unwrap().unwrap();
    router.until(1, "the new voters", |metrics| parts(metrics) == [[1, 4, 5]]).await;
}

/// A joint membership is not committed by a majority of the new voters alone.
async fn a_joint_membership_needs_the_old_majority(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[4, 5]).await;
    lose_appends(&router, 1, &[2, 3]);
    let change = change_in_background(router.raft(1), &[1, 4, 5]);
    router.until(5, "the joint entry", |metrics| membership_index(metrics) > Some(before)).await;
    let committed = |metrics: &Metrics| committed_membership_index(metrics) > Some(before);
    router.never(1, 3, "committed without 2 and 3", committed).await;
    router.unhook();
    change.await.unwrap().unwrap();
    router.until(1, "the new voters", |metrics| parts(metrics) == [[1, 4, 5]]).await;
}

/// One change at a time: a second one is refused until the first is committed.
async fn a_second_change_is_refused_while_one_is_under_way(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[4]).await;
    lose_appends(&router, 1, &[2, 3, 4]);
    let first = change_in_background(router.raft(1), &[1, 2, 4]);
    router.until(1, "the joint entry", |metrics| membership_index(metrics) > Some(before)).await;
    let refused = refusal(router.raft(1).change_membership(ids(&[1, 3]), true).await);
    let ChangeMembershipError::InProgress(under_way) = refused else { panic!("{refused}") };
    assert_eq!(index(under_way.membership_log_id), Some(before + 1));
    router.unhook();
    first.await.unwrap().unwrap();
    router.change_voters(1, &[1, 2]).await;
}

/// A change that its leader could not commit is as if it had never been asked for.
async fn a_change_that_was_not_committed_is_taken_back(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[4]).await;
    lose_appends(&router, 1, &[2, 3, 4]);
    let change = change_in_background(router.raft(1), &[1, 4]);
    router.until(1, "the joint entry", |metrics| parts(metrics) == [vec![1, 2, 3], vec![1, 4]]).await;
    router.isolate(1);
    router.elect(2).await;
    let last = router.write(2, 1).await;
    router.rejoin(1);
    router.assert_same_state(&[1, 2, 3, 4], last).await;
    assert_eq!(parts(&router.metrics(1)), [[1, 2, 3]]);
    assert!(membership_index(&router.metrics(1)) <= Some(before));
    assert!(change.await.unwrap().is_err(), "whoever asked for it is told");
}

/// openraft leaves a joint membership to whoever asked for it: a new leader serves under it, with both
/// majorities, until it is asked for the change again.
async fn a_new_leader_keeps_a_joint_membership_until_it_is_told_to_end_it(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[4]).await;
    let joint = before + 1;
    router.before(move |rpc| {
        let is_uniform = rpc.from == NodeId(1) && rpc.entries().iter().any(|log_id| log_id.index > joint);
        if is_uniform { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
    let change = change_in_background(router.raft(1), &[2, 3, 4]);
    router.until(1, "the uniform entry", |metrics| membership_index(metrics) > Some(joint)).await;
    router.isolate(1);
    router.elect(2).await;
    let both = [vec![1, 2, 3], vec![2, 3, 4]];
    router.write(2, 1).await;
    router.never(2, 3, "the end of the joint membership", |metrics| parts(metrics) != both).await;

    let last = router.change_voters(2, &[2, 3, 4]).await;
    router.await_applied(&[2, 3, 4], last).await;
    assert_eq!(parts(&router.metrics(4)), [[2, 3, 4]]);
    router.unhook();
    router.rejoin(1);
    assert!(change.await.unwrap().is_err(), "its own second entry was never committed");
    router.assert_same_state(&[1, 2, 3, 4], last).await;
}
