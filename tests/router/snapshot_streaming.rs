//! Snapshots on their way to nodes that the log cannot help any more.

use aspen::kv::types::NodeId;
use aspen::raft::installation;
use aspen::raft::observe::Metrics;
use aspen::raft::types::Vote;
use openraft::ServerState;

use crate::router::faults::{Failure, Fate, Gate};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, ids, index};

on_each_storage!(
    a_follower_that_the_log_cannot_help_gets_a_snapshot,
    a_new_learner_gets_a_snapshot_and_the_entries_behind_it,
    a_snapshot_that_breaks_off_is_sent_again_whole,
    a_snapshot_older_than_the_state_changes_nothing,
    a_snapshot_of_a_deposed_leader_is_refused,
    a_snapshot_of_what_the_log_has_is_not_installed,
    a_snapshot_replaces_entries_that_were_never_committed,
    a_snapshot_brings_the_membership_with_it,
    after_a_snapshot_the_log_is_enough,
    an_installed_snapshot_takes_the_place_of_the_log,
    a_pending_write_ends_when_a_snapshot_replaces_its_entry,
    a_node_that_was_sent_a_snapshot_can_send_its_own,
);
in_memory!(
    a_snapshot_to_an_absent_node_holds_up_nobody,
    a_new_leader_sends_its_own_snapshot,
    a_learner_that_needs_a_snapshot_can_become_a_voter,
    others_commit_while_a_snapshot_is_on_its_way,
);
on_disk!(an_installed_snapshot_outlives_a_restart);

/// Three nodes, of which the third missed what the first has purged. Returns the last index.
async fn with_one_behind(storage: Storage) -> (AspenRouter, u64) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let before = router.write(1, 3).await;
    router.await_applied(&[3], before).await;
    router.isolate(3);
    let last = router.write(1, 20).await;
    router.snapshot_and_purge(1).await;
    (router, last)
}

/// What a follower lacks is purged: it gets all of the state instead.
async fn a_follower_that_the_log_cannot_help_gets_a_snapshot(storage: Storage) {
    let (router, last) = with_one_behind(storage).await;
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).delivered, 0);
    router.rejoin(3);
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).answered, 1);
    assert_eq!(router.counts(1, 2, RpcKind::Snapshot).sent, 0, "node 2 lacks nothing");
    assert_eq!(index(router.metrics(3).snapshot), Some(last));
}

/// A node that begins with nothing begins with the snapshot.
async fn a_new_learner_gets_a_snapshot_and_the_entries_behind_it(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.write(1, 20).await;
    let snapshot = router.snapshot_and_purge(1).await;
    router.write(1, 5).await;
    router.add_node(2).await;
    let last = router.add_learner(1, 2).await;
    router.assert_same_state(&[1, 2], last).await;
    assert_eq!(router.metrics(2).snapshot, Some(snapshot));
    let log = router.log_ids(2).await;
    assert!(log.iter().map(|log_id| log_id.index).eq(snapshot.index + 1..=last));
}

/// Half a snapshot is no snapshot: the state stays what it was until a whole one has arrived.
async fn a_snapshot_that_breaks_off_is_sent_again_whole(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let before = router.write(1, 3).await;
    router.await_applied(&[3], before).await;
    let had = router.contents(3);
    router.isolate(3);
    for number in 0..12 {
        let large = router.put(format!("large-{number}"), vec![b'x'; 128 * 1024]);
        crate::router::commit(router.raft(1), large).await;
    }
    let last = router.snapshot_and_purge(1).await.index;
    let second = Gate::default();
    let mut sent = 0;
    router.before({
        let second = second.clone();
        move |rpc| {
            sent += i32::from(rpc.kind() == RpcKind::Snapshot);
            if rpc.kind() == RpcKind::Snapshot && sent > 1 { Fate::Hold(second.clone()) } else { Fate::Pass }
        }
    });
    router.break_snapshot(3, 3);
    router.rejoin(3);
    router.eventually("a second attempt", |router| router.counts(1, 3, RpcKind::Snapshot).sent > 1).await;
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).answered, 0);
    assert_eq!(router.contents(3), had, "nothing of the first attempt shows");
    assert_eq!(router.metrics(3).snapshot, None);
    second.open();
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A snapshot that comes late takes nothing back.
async fn a_snapshot_older_than_the_state_changes_nothing(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    router.write(1, 5).await;
    router.snapshot(1).await;
    let late = router.copy_snapshot(1, 2).await;
    let last = router.write(1, 5).await;
    router.await_applied(&[2], last).await;
    let leader = Vote::new_committed(1, NodeId(1));
    let answer = router.raft(2).install_full_snapshot(leader, late).await.unwrap();
    assert_eq!(answer.vote, leader);
    let last = last.max(router.write(1, 1).await);
    router.assert_same_state(&[1, 2], last).await;
    assert_eq!((router.metrics(2).snapshot, router.metrics(2).purged), (None, None));
}

/// A snapshot from a leader that is none any more is not installed, and it is told of the newer one.
async fn a_snapshot_of_a_deposed_leader_is_refused(storage: Storage) {
    let (router, last) = with_one_behind(storage).await;
    router.await_applied(&[2], last).await;
    let snapshot = router.copy_snapshot(1, 3).await;
    router.isolate(1);
    router.rejoin(3);
    router.fail(3, RpcKind::Append, Failure::Unreachable, None);
    router.fail(3, RpcKind::Heartbeat, Failure::Unreachable, None);
    let term = router.elect(2).await;
    router.until(3, "it voted", |metrics| metrics.current_term == term).await;
    let had = index(router.metrics(3).last_applied);
    let answer =
        router.raft(3).install_full_snapshot(Vote::new_committed(1, NodeId(1)), snapshot).await.unwrap();
    assert_eq!(answer.vote.leader_id.term, term);
    router.never(3, 1, "installed", |metrics| index(metrics.last_applied) > had).await;
    router.stop_failing();
    let last = router.wait_applied_own(2).await;
    router.assert_same_state(&[2, 3], last).await;
}

/// A follower whose answers were lost may have more than the leader thinks: the snapshot that it is sent ends
/// before its log does, and takes nothing of it back.
async fn a_snapshot_of_what_the_log_has_is_not_installed(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let before = router.write(1, 3).await;
    router.await_applied(&[2, 3], before).await;
    router.isolate(2);
    router.after(|rpc| if rpc.to == NodeId(3) { Fate::Fail(Failure::Lost) } else { Fate::Pass });
    router.propose(1, 10).await;
    router.until(3, "has all entries", |metrics| metrics.last_log_index == Some(before + 10)).await;
    router.isolate(3);
    router.quota(2, before + 4);
    router.rejoin(2);
    router.await_applied(&[1], before + 4).await;
    let snapshot = router.snapshot(1).await;
    assert_eq!(snapshot.index, before + 4, "the rest cannot be committed yet");
    let (leader, copy) = (Vote::new_committed(1, NodeId(1)), router.copy_snapshot(1, 3).await);
    let answer = installation::install(router.raft(3), router.reader(3), leader, copy).await.unwrap();
    assert_eq!(answer.vote, leader);
    let metrics = router.metrics(3);
    assert_eq!((metrics.snapshot, metrics.last_log_index), (None, Some(before + 10)));
    router.unhook();
    router.lift_quota(2);
    router.rejoin(3);
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// Entries that a former leader could not commit do not stand in the way of a snapshot.
async fn a_snapshot_replaces_entries_that_were_never_committed(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.before(|rpc| {
        let is_append = rpc.from == NodeId(1) && rpc.kind() == RpcKind::Append;
        if is_append { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
    router.propose(1, 50).await;
    router.isolate(1);
    let term = router.elect(2).await;
    router.write(2, 10).await;
    let snapshot = router.snapshot_and_purge(2).await;
    router.unhook();
    router.rejoin(1);
    let last = router.write(2, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.metrics(1).snapshot, Some(snapshot));
    assert!(router.log_ids(1).await.iter().all(|log_id| log_id.leader_id.term == term));
}

/// A node that was away during a change learns of it from the snapshot.
async fn a_snapshot_brings_the_membership_with_it(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    router.isolate(3);
    router.change_voters(1, &[1, 2, 4]).await;
    router.write(1, 5).await;
    let last = router.snapshot_and_purge(1).await.index;
    router.rejoin(3);
    router.assert_same_state(&[1, 2, 3, 4], last).await;
    let metrics = router.wait(3).state(ServerState::Learner, "a voter no more").await.unwrap();
    assert!(metrics.membership_config.voter_ids().eq([NodeId(1), NodeId(2), NodeId(4)]));
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).answered, 1);
}

/// A follower needs one snapshot; what is written later comes as entries.
async fn after_a_snapshot_the_log_is_enough(storage: Storage) {
    let (router, last) = with_one_behind(storage).await;
    router.rejoin(3);
    router.await_applied(&[3], last).await;
    let newer = router.write(1, 10).await;
    router.assert_same_state(&[1, 2, 3], newer).await;
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).delivered, 1);
    assert!(router.log_ids(3).await.iter().map(|log_id| log_id.index).eq(last + 1..=newer));
}

/// The entries that a snapshot stands for are purged where it is installed.
async fn an_installed_snapshot_takes_the_place_of_the_log(storage: Storage) {
    let (router, last) = with_one_behind(storage).await;
    assert!(!router.log_ids(3).await.is_empty(), "it had a log before");
    router.rejoin(3);
    let metrics = router.until(3, "the purge", |metrics| index(metrics.purged) == Some(last)).await;
    assert_eq!(metrics.snapshot, metrics.purged);
    assert_eq!(index(metrics.last_applied), Some(last));
    router
        .eventually_async("no entry that the snapshot covers", async |router| {
            router.log_ids(3).await.iter().all(|log_id| log_id.index > last)
        })
        .await;
}

/// A transfer that takes long is nobody's business but its follower's.
async fn others_commit_while_a_snapshot_is_on_its_way(storage: Storage) {
    let (router, _) = with_one_behind(storage).await;
    let gate = router.hold(3, RpcKind::Snapshot);
    router.rejoin(3);
    router.eventually("the transfer begins", |router| router.counts(1, 3, RpcKind::Snapshot).sent > 0).await;
    let last = router.write(1, 10).await;
    router.await_applied(&[1, 2], last).await;
    assert!(index(router.metrics(3).last_applied) < Some(last));
    gate.open();
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A node that cannot take a snapshot costs attempts, but no commit and no other follower.
async fn a_snapshot_to_an_absent_node_holds_up_nobody(storage: Storage) {
    let (router, _) = with_one_behind(storage).await;
    router.fail(3, RpcKind::Snapshot, Failure::Unreachable, None);
    router.rejoin(3);
    router.eventually("attempts", |router| router.counts(1, 3, RpcKind::Snapshot).sent > 2).await;
    let last = router.write(1, 10).await;
    router.await_applied(&[1, 2], last).await;
    router.stop_failing();
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A node can be made a voter while its snapshot is under way: what needs its vote waits for that.
async fn a_learner_that_needs_a_snapshot_can_become_a_voter(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.write(1, 20).await;
    router.snapshot_and_purge(1).await;
    router.add_node(4).await;
    let gate = router.hold(4, RpcKind::Snapshot);
    router.raft(1).add_learner(NodeId(4), crate::router::info(4), false).await.unwrap();
    router.eventually("the transfer begins", |router| router.counts(1, 4, RpcKind::Snapshot).sent > 0).await;
    let changing = tokio::spawn({
        let raft = router.raft(1).clone();
        async move { raft.change_membership(ids(&[1, 4]), true).await }
    });
    let both = |metrics: &Metrics| metrics.membership_config.membership().get_joint_config().len() == 2;
    router.until(1, "the joint membership", both).await;
    router.never(1, 1, "the end of the change", |metrics| !both(metrics)).await;
    gate.open();
    changing.await.unwrap().unwrap();
    router.wait(4).state(ServerState::Follower, "a voter").await.unwrap();
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3, 4], last).await;
}

/// A leader that goes in the middle of a transfer is no loss: the next one sends its own.
async fn a_new_leader_sends_its_own_snapshot(storage: Storage) {
    let (router, last) = with_one_behind(storage).await;
    router.await_applied(&[2], last).await;
    router.snapshot_and_purge(2).await;
    let gate = Gate::default();
    router.before({
        let gate = gate.clone();
        move |rpc| {
            let from_first = rpc.kind() == RpcKind::Snapshot && rpc.from == NodeId(1);
            if from_first { Fate::Hold(gate.clone()) } else { Fate::Pass }
        }
    });
    router.rejoin(3);
    router.eventually("the transfer begins", |router| router.counts(1, 3, RpcKind::Snapshot).sent > 0).await;
    router.isolate(1);
    router.elect(2).await;
    let last = router.write(2, 3).await;
    router.assert_same_state(&[2, 3], last).await;
    assert_eq!(router.counts(2, 3, RpcKind::Snapshot).answered, 1);
    router.rejoin(1);
    router.wait(1).state(ServerState::Follower, "it learns that it is deposed").await.unwrap();
    gate.open();
    let last = last.max(router.write(2, 1).await);
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.counts(1, 3, RpcKind::Snapshot).delivered, 0, "the old transfer was given up");
}

/// Whoever waits for a write is told when a snapshot takes the place of its entry, and the node lives on.
async fn a_pending_write_ends_when_a_snapshot_replaces_its_entry(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    router.before(|rpc| {
        let is_append = rpc.from == NodeId(1) && rpc.kind() == RpcKind::Append;
        if is_append { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
    let pending = tokio::spawn({
        let (raft, write) = (router.raft(1).clone(), router.put("pending", "value"));
        async move { raft.client_write(write).await }
    });
    router.wait(1).log_index(Some(before + 1), "appended").await.unwrap();
    router.isolate(1);
    router.elect(2).await;
    router.write(2, 20).await;
    router.snapshot_and_purge(2).await;
    router.unhook();
    router.rejoin(1);
    let ended = tokio::time::timeout(crate::router::PATIENCE, pending).await.expect("it ends").unwrap();
    assert!(ended.is_err(), "it was never committed");
    let last = router.write(2, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// An installed snapshot is as good as one's own: it serves the next node.
async fn a_node_that_was_sent_a_snapshot_can_send_its_own(storage: Storage) {
    let (mut router, last) = with_one_behind(storage).await;
    router.rejoin(3);
    router.await_applied(&[3], last).await;
    router.transfer(1, 3).await;
    router.add_node(4).await;
    router.add_learner(3, 4).await;
    let last = router.write(3, 1).await;
    router.assert_same_state(&[1, 2, 3, 4], last).await;
    assert_eq!(router.counts(3, 4, RpcKind::Snapshot).answered, 1);
}

/// A state that came as a snapshot is on disk when the node says that it has it.
async fn an_installed_snapshot_outlives_a_restart(storage: Storage) {
    let (mut router, last) = with_one_behind(storage).await;
    router.rejoin(3);
    router.await_applied(&[3], last).await;
    router.isolate(3);
    router.restart(3).await;
    router.await_applied(&[3], last).await;
    assert_eq!(router.contents(3), router.contents(1));
    assert_eq!(index(router.metrics(3).snapshot), Some(last));
    router.rejoin(3);
    let last = router.write(1, 5).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}
