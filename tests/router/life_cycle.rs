//! Nodes that begin, stop, come back, or lose all they had.

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::raft::types::Vote;
use openraft::errors::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::metrics::WaitError;
use openraft::{ChangeMembers, ServerState};

use crate::router::by_hand::urgent_vote;
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, PATIENCE, RouterSettings, ids, index, info};

on_each_storage!(
    a_cluster_forms_from_one_call,
    a_second_initialization_is_refused,
    an_initialization_without_oneself_is_refused,
    a_single_node_serves_alone,
    after_a_shutdown_every_call_is_refused,
    a_follower_that_ends_stops_nobody_else,
    a_wiped_follower_comes_back_under_a_new_id,
);
in_memory!(a_fresh_node_is_passive);
#[cfg(debug_assertions)]
in_memory!(a_leader_stops_rather_than_count_on_a_log_that_is_gone);
on_disk!(
    a_node_that_has_just_started_knows_what_it_has,
    a_single_node_is_back_by_itself_with_all_it_had,
    a_restarted_leader_does_not_lead_on,
    a_restarted_follower_catches_up,
    a_restarted_node_remembers_its_vote,
    a_restarted_follower_disturbs_nobody,
    a_cluster_survives_the_end_of_all_its_nodes,
    a_learner_comes_back_as_a_learner,
);

/// A node that belongs to no cluster asks nobody for anything.
async fn a_fresh_node_is_passive(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.add_nodes(&[1, 2, 3]).await;
    for id in [1, 2, 3] {
        let acts = |metrics: &aspen::raft::observe::Metrics| {
            metrics.state != ServerState::Learner
                || metrics.current_term > 0
                || metrics.last_log_index.is_some()
        };
        router.never(id, 10, "anything but a learner without a log", acts).await;
        assert!(router.delivered_to(id).is_empty());
    }
}

/// One node is told who the voters are; it leads them, and all have its first entries.
async fn a_cluster_forms_from_one_call(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_nodes(&[1, 2, 3]).await;
    router.initialize(2, &[1, 2, 3]).await;
    router.await_leader(&[1, 2, 3], 2).await;
    let last = router.wait_applied_own(2).await;
    router.await_applied(&[1, 3], last).await;
    for id in [1, 2, 3] {
        router.wait(id).voter_ids(ids(&[1, 2, 3]), "all know the voters").await.unwrap();
    }
}

/// Initializing a node that belongs to a cluster is refused and changes nothing, leader or not.
async fn a_second_initialization_is_refused(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let last = router.new_cluster(&[1, 2], &[]).await;
    for id in [1, 2] {
        let again = router.raft(id).initialize(BTreeMap::from([(NodeId(id), info(id))])).await.unwrap_err();
        assert!(matches!(again, RaftError::APIError(InitializeError::NotAllowed(_))), "{again}");
        assert_eq!(router.log_ids(id).await.len() as u64, last + 1);
        router.wait(id).voter_ids(ids(&[1, 2]), "the voters of before").await.unwrap();
    }
}

/// A node cannot found a cluster that it does not belong to.
async fn an_initialization_without_oneself_is_refused(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    let refused = router.raft(1).initialize(BTreeMap::from([(NodeId(2), info(2))])).await.unwrap_err();
    assert!(matches!(refused, RaftError::APIError(InitializeError::NotInMembers(_))), "{refused}");
    assert!(router.log_ids(1).await.is_empty());
    router.initialize(1, &[1]).await;
}

/// A cluster of one commits without asking anyone.
async fn a_single_node_serves_alone(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    let last = router.write(1, 20).await;
    assert_eq!(index(router.metrics(1).last_applied), Some(last));
    assert_eq!(router.contents(1).kvs.len(), 20);
}

/// A single node needs no one's vote: it leads again, in a new term, and has what it acknowledged.
async fn a_single_node_is_back_by_itself_with_all_it_had(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1], &[]).await;
    let last = router.write(1, 20).await;
    let before = (router.metrics(1).current_term, router.contents(1));
    router.restart(1).await;
    router.wait(1).state(ServerState::Leader, "it leads again").await.unwrap();
    router.await_applied(&[1], last).await;
    assert!(router.metrics(1).current_term > before.0);
    assert_eq!(router.contents(1), before.1);
    router.write(1, 1).await;
}

/// Whoever asks a node that has just started is not told that it has no log and no cluster.
async fn a_node_that_has_just_started_knows_what_it_has(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.write(1, 5).await;
    router.await_applied(&[3], last).await;
    let before = router.metrics(3);
    router.isolate(3);
    router.restart(3).await;
    // Without a wait: nothing else has run since its start.
    let after = router.metrics(3);
    assert_eq!(after.last_log_index, Some(last));
    assert_eq!(after.membership_config, before.membership_config);
    assert_eq!(after.vote, before.vote);
}

/// A leader that was away for a moment waits for an election: it may not reuse its term.
async fn a_restarted_leader_does_not_lead_on(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.write(1, 5).await;
    router.restart(1).await;
    router.never(1, 1, "a leader of its old term", |metrics| metrics.state == ServerState::Leader).await;
    let term = router.elect(1).await;
    assert!(term > 1);
    let last = last.max(router.write(1, 1).await);
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A follower that was away while others wrote has everything some time after its start.
async fn a_restarted_follower_catches_up(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let before = router.write(1, 5).await;
    router.await_applied(&[3], before).await;
    router.stop(3).await;
    let last = router.write(1, 30).await;
    router.start(3).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A vote is on disk before it is given: after a restart it is given to no lesser candidate.
async fn a_restarted_node_remembers_its_vote(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = Some(router.last_log_id(2).await);
    assert!(router.raft(2).vote(urgent_vote(7, 3, last)).await.unwrap().vote_granted);
    router.isolate(2);
    router.restart(2).await;
    router.wait(2).vote(Vote::new(7, NodeId(3)), "the vote that it gave").await.unwrap();
    assert!(!router.raft(2).vote(urgent_vote(7, 1, last)).await.unwrap().vote_granted, "term 7 is taken");
    assert!(!router.raft(2).vote(urgent_vote(6, 3, last)).await.unwrap().vote_granted, "term 6 is over");
}

/// A follower that starts finds its leader before it thinks of an election.
async fn a_restarted_follower_disturbs_nobody(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1, 2, 3], &[]).await;
    let leader = router.await_any_leader(&[1, 2, 3]).await;
    let follower = leader % 3 + 1;
    router.restart(follower).await;
    router.await_leader(&[follower], leader).await;
    assert_eq!(router.counts(follower, leader, RpcKind::Vote).sent, 0);
    let last = router.write(leader, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// What was acknowledged is there after all nodes were gone at once.
async fn a_cluster_survives_the_end_of_all_its_nodes(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.write(1, 40).await;
    let before = router.contents(1);
    for id in [1, 2, 3] {
        router.stop(id).await;
    }
    for id in [1, 2, 3] {
        router.start(id).await;
    }
    // Whichever was behind is not elected; one that has everything is.
    let longest = [1, 2, 3].into_iter().max_by_key(|id| router.metrics(*id).last_log_index).unwrap();
    router.elect(longest).await;
    router.wait_applied_own(longest).await;
    router.assert_same_state(&[longest, 1, 2, 3], last).await;
    assert_eq!(router.contents(2), before);
}

/// A learner's part is in its log: it does not come back as a voter.
async fn a_learner_comes_back_as_a_learner(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1], &[2]).await;
    router.restart(2).await;
    assert_eq!(router.metrics(2).state, ServerState::Learner);
    let last = router.write(1, 3).await;
    router.assert_same_state(&[1, 2], last).await;
    assert_eq!(router.metrics(2).state, ServerState::Learner);
}

/// A follower that lost its disk joins under a new id, and the old id leaves.
async fn a_wiped_follower_comes_back_under_a_new_id(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.write(1, 10).await;
    router.remove_node(3).await;
    router.add_node(4).await;
    router.add_learner(1, 4).await;
    router.change_voters(1, &[1, 2, 4]).await;
    let gone = ChangeMembers::RemoveNodes(ids(&[3]));
    router.raft(1).change_membership(gone, true).await.unwrap();
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 4], last).await;
    assert!(router.metrics(4).membership_config.get_node(&NodeId(3)).is_none());
}

/// A trap of openraft: a follower that comes back empty under its old id has forgotten what it
/// acknowledged. A debug build of its leader stops when it notices; it would go on otherwise.
#[cfg(debug_assertions)]
async fn a_leader_stops_rather_than_count_on_a_log_that_is_gone(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.write(1, 3).await;
    router.await_applied(&[3], last).await;
    router.remove_node(3).await;
    router.add_node(3).await;
    let ended = router.wait(1).metrics(|metrics| metrics.running_state.is_err(), "it stops").await;
    assert!(matches!(ended, Ok(_) | Err(WaitError::ShuttingDown)), "{ended:?}");
    let refused = router.raft(1).client_write(router.next_command()).await.unwrap_err();
    assert!(matches!(refused, RaftError::Fatal(Fatal::Panicked)), "{refused}");
}

/// A node that has stopped says so to every caller, at once.
async fn after_a_shutdown_every_call_is_refused(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.raft(1).shutdown().await.unwrap();
    let write: RaftError<_, ClientWriteError<_>> =
        router.raft(1).client_write(router.next_command()).await.unwrap_err();
    assert!(matches!(write, RaftError::Fatal(Fatal::Stopped)), "{write}");
    let initialize = router.raft(1).initialize(BTreeMap::from([(NodeId(1), info(1))])).await.unwrap_err();
    assert!(matches!(initialize, RaftError::Fatal(Fatal::Stopped)), "{initialize}");
    assert_eq!(router.raft(1).trigger().elect(false).await, Err(Fatal::Stopped));
    assert_eq!(router.metrics(1).running_state, Err(Fatal::Stopped));
    let twice = tokio::time::timeout(PATIENCE, router.raft(1).shutdown()).await;
    twice.expect("a second shutdown ends too").unwrap();
}

/// Two of three go on when the third has ended.
async fn a_follower_that_ends_stops_nobody_else(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.stop(3).await;
    let last = router.write(1, 10).await;
    router.assert_same_state(&[1, 2], last).await;
    assert_eq!(router.metrics(1).current_term, 1);
}
