//! Who belongs to the cluster and who votes, while that changes.

use std::collections::BTreeMap;

use aspen::kv::forward::{ForwardHandler, ForwardRequest};
use aspen::kv::types::{ClusterError, NodeId, Peer};
use aspen::raft::membership;
use aspen::raft::observe::Metrics;
use aspen::raft::types::{LogId, TypeConfig};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Precondition, ServerState};

use crate::router::faults::{Failure, Fate};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, PATIENCE, RouterSettings, ids, index, info};

on_each_storage!(
    a_learner_is_added_and_gets_all_there_is,
    a_learner_becomes_a_voter_whose_vote_counts,
    a_removed_follower_hears_nothing_more,
    a_removed_leader_hands_over_and_leaves,
    a_removed_node_can_be_added_again,
    all_voters_can_be_replaced,
    a_cluster_grows_from_one_to_five_and_shrinks_again,
    a_learner_follows_while_the_voters_change,
);
in_memory!(
    a_new_learner_that_answers_and_is_behind_is_not_called_unreachable,
    a_learner_never_asks_for_votes_nor_gives_any,
    a_learner_counts_for_no_majority,
    a_removed_follower_unseats_nobody,
    a_node_that_is_no_member_cannot_become_a_voter,
    an_empty_set_of_voters_is_refused,
    a_follower_changes_nothing_and_names_the_leader,
    a_node_of_no_cluster_changes_nothing,
    a_leader_that_becomes_a_learner_leads_on,
    a_change_that_is_based_on_an_old_membership_is_refused,
    a_change_goes_through_while_a_follower_hangs,
    a_learner_that_is_added_again_stays_as_it_is,
    a_new_node_that_is_not_added_is_let_in_no_more,
    an_unreachable_follower_can_be_removed,
);
on_disk!(a_membership_outlives_a_restart);

mod joint;

type Written = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

fn refusal(
    written: Written,
) -> ChangeMembershipError<openraft::alias::CommittedLeaderIdOf<TypeConfig>, NodeId> {
    match written {
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refusal))) => refusal,
        other => panic!("the change was not refused: {other:?}"),
    }
}

/// The voters of each part of a membership.
fn parts(metrics: &Metrics) -> Vec<Vec<u64>> {
    let configs = metrics.membership_config.membership().get_joint_config();
    configs.iter().map(|voters| voters.iter().map(|id| id.0).collect()).collect()
}

/// Loses every append from one node to some others.
fn lose_appends(router: &AspenRouter, from: u64, to: &[u64]) {
    let to = ids(to);
    router.before(move |rpc| {
        let lost = rpc.from == NodeId(from) && to.contains(&rpc.to) && rpc.kind() == RpcKind::Append;
        if lost { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
}

/// A new learner has the log from its beginning, and takes part in what comes.
async fn a_learner_is_added_and_gets_all_there_is(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.write(1, 20).await;
    router.add_node(2).await;
    let added = router.add_learner(1, 2).await;
    router.await_applied(&[2], added).await;
    assert_eq!(router.metrics(2).state, ServerState::Learner);
    assert_eq!(router.log_ids(1).await, router.log_ids(2).await);
    let last = router.write(1, 5).await;
    router.assert_same_state(&[1, 2], last).await;
}

/// No membership has it, so none would ever tell that it does not belong: it is let in for its introduction
/// alone. Where the outcome is open, it may be a member.
async fn a_new_node_that_is_not_added_is_let_in_no_more(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    router.add_nodes(&[3, 4]).await;
    let service = router.serve(1).await;
    let add = |id: u64| {
        let peer = Peer { node_id: NodeId(id), info: info(id) };
        let service = service.clone();
        async move { service.handle(ForwardRequest::AddLearner(peer)).await }
    };
    router.isolate(2);
    let first = tokio::spawn(add(3));
    let is_under_way = |metrics: &Metrics| metrics.membership_config.get_node(&NodeId(3)).is_some();
    router.until(1, "the change is proposed", is_under_way).await;
    assert_eq!(add(4).await.unwrap_err(), ClusterError::ChangeInProgress);
    assert_eq!(router.let_go(), [NodeId(4)]);
    router.rejoin(2);
    first.await.expect("it does not panic").expect("node 3 is added");
    assert_eq!(router.let_go(), [NodeId(4)]);

    // The id is a member's: whoever comes with another key does not become one.
    let other_key = Peer { node_id: NodeId(3), info: info(4) };
    let refused = service.handle(ForwardRequest::AddLearner(other_key)).await.unwrap_err();
    assert_eq!(refused, ClusterError::NodeIdTaken { node_id: NodeId(3) });
    assert_eq!(router.let_go(), [NodeId(4), NodeId(3)]);

    // A member that is only behind stays let in.
    let entries = router.hold(4, RpcKind::Append);
    let behind = add(4).await.unwrap_err();
    assert!(matches!(behind, ClusterError::CatchingUp { node_id: NodeId(4), .. }), "{behind}");
    assert_eq!(router.let_go(), [NodeId(4), NodeId(3)]);
    entries.open();
}

/// An operator who is told that a node cannot be reached looks at its network; this one only needs time.
async fn a_new_learner_that_answers_and_is_behind_is_not_called_unreachable(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.write(1, 5).await;
    router.add_node(2).await;
    let entries = router.hold(2, RpcKind::Append);
    let peer = Peer { node_id: NodeId(2), info: info(2) };
    let refused = membership::add_learner(router.raft(1), peer).await.unwrap_err();
    assert!(matches!(refused, ClusterError::CatchingUp { node_id: NodeId(2), .. }), "{refused}");
    entries.open();
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2], last).await;
}

/// Adding a member as a learner again makes no voter of it, nor less of a voter.
async fn a_learner_that_is_added_again_stays_as_it_is(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3]).await;
    let before = parts(&router.metrics(1));
    router.add_learner(1, 3).await;
    let last = router.add_learner(1, 2).await;
    router.await_applied(&[1, 2, 3], last).await;
    for id in [1, 2, 3] {
        assert_eq!(parts(&router.metrics(id)), before);
    }
    assert_eq!(router.metrics(2).state, ServerState::Follower);
    assert_eq!(router.metrics(3).state, ServerState::Learner);
}

/// A promoted learner makes up a majority that would not be one without it.
async fn a_learner_becomes_a_voter_whose_vote_counts(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3]).await;
    router.change_voters(1, &[1, 2, 3]).await;
    router.wait(3).state(ServerState::Follower, "a voter").await.unwrap();
    router.isolate(2);
    let last = router.write(1, 5).await;
    router.assert_same_state(&[1, 3], last).await;
}

/// A voter must be a member first: nothing is known of another.
async fn a_node_that_is_no_member_cannot_become_a_voter(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let last = router.new_cluster(&[1], &[]).await;
    let refused = refusal(router.raft(1).change_membership(ids(&[1, 7]), true).await);
    let ChangeMembershipError::LearnerNotFound(missing) = refused else { panic!("{refused}") };
    assert_eq!(missing.node_id, NodeId(7));
    assert_eq!(router.metrics(1).last_log_index, Some(last), "nothing was written");
}

/// A cluster cannot be left without voters.
async fn an_empty_set_of_voters_is_refused(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let last = router.new_cluster(&[1, 2], &[]).await;
    let refused = refusal(router.raft(1).change_membership(ids(&[]), true).await);
    assert!(matches!(refused, ChangeMembershipError::EmptyMembership(_)), "{refused}");
    assert_eq!(router.metrics(1).last_log_index, Some(last));
}

/// Only the leader changes who votes; a follower says who that is.
async fn a_follower_changes_nothing_and_names_the_leader(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    let refused = router.raft(2).change_membership(ids(&[2]), true).await.unwrap_err();
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = refused else { panic!("{refused}") };
    assert_eq!((to.leader_id, to.leader_node), (Some(NodeId(1)), Some(info(1))));
}

/// A node that belongs to no cluster has no members to change, and does not hang.
async fn a_node_of_no_cluster_changes_nothing(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    let change = router.raft(1).change_membership(ids(&[1]), true);
    let refused = tokio::time::timeout(PATIENCE, change).await.expect("it ends").unwrap_err();
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = refused else { panic!("{refused}") };
    assert_eq!(to.leader_id, None);
    let add = router.raft(1).add_learner(NodeId(2), info(2), true);
    assert!(tokio::time::timeout(PATIENCE, add).await.expect("it ends").is_err());
}

/// Learners are asked for no votes and ask for none, even while there is no leader.
async fn a_learner_never_asks_for_votes_nor_gives_any(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let leader = router.await_any_leader(&[1, 2, 3]).await;
    let term = router.metrics(leader).current_term;
    for id in [1, 2, 3] {
        router.isolate(id);
    }
    router.never(4, 10, "a candidate", |metrics| metrics.current_term > term).await;
    for id in [1, 2, 3] {
        router.rejoin(id);
    }
    router.isolate(leader);
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    router.await_any_leader(&others).await;
    for id in [1, 2, 3] {
        for kind in [RpcKind::Vote, RpcKind::PreVote] {
            assert_eq!(
                router.counts(4, id, kind).sent + router.counts(id, 4, kind).sent,
                0,
                "{kind:?} and {id}"
            );
        }
    }
}

/// Entries that learners have, and no majority of voters, are not committed.
async fn a_learner_counts_for_no_majority(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3, 4]).await;
    lose_appends(&router, 1, &[2]);
    let last = router.propose(1, 1).await;
    for id in [3, 4] {
        router.wait(id).log_index(Some(last), "learners have it").await.unwrap();
    }
    router.never(1, 3, "committed", |metrics| index(metrics.local_committed) >= Some(last)).await;
    router.unhook();
    router.await_applied(&[1, 2, 3, 4], last).await;
}

/// A removed node is sent nothing any more, and the majority is one of those that are left.
async fn a_removed_follower_hears_nothing_more(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.raft(1).change_membership(ids(&[1, 2]), false).await.unwrap();
    let removed = |metrics: &Metrics| !metrics.replication.as_ref().unwrap().contains_key(&NodeId(3));
    router.until(1, "no replication to node 3", removed).await;
    router.forget_deliveries();
    let last = router.write(1, 5).await;
    router.assert_same_state(&[1, 2], last).await;
    assert!(router.delivered_to(3).is_empty());
    assert!(router.metrics(3).last_log_index < Some(last));

    router.stop(3).await;
    let last = router.write(1, 1).await;
    router.await_applied(&[1, 2], last).await;
}

/// A node that was removed and does not know it can ask for votes as it likes: it gets none.
async fn a_removed_follower_unseats_nobody(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.isolate(3);
    router.raft(1).change_membership(ids(&[1, 2]), false).await.unwrap();
    let last = router.write(1, 3).await;
    router.rejoin(3);
    router.raft(3).runtime_config().elect(true);
    router.eventually("it asks", |router| router.counts(3, 1, RpcKind::PreVote).answered > 2).await;
    router.never(1, 3, "another term", |metrics| metrics.current_term > 1).await;
    // Not even where it insists.
    router.raft(3).trigger().elect(false).await.unwrap();
    router.eventually("it insists", |router| router.counts(3, 1, RpcKind::Vote).answered > 0).await;
    router.never(1, 3, "another term", |metrics| metrics.current_term > 1).await;
    assert_eq!(router.metrics(1).state, ServerState::Leader);
    router.assert_same_state(&[1, 2], last).await;
}

/// A leader that removes itself commits that, has another one take over, and is a learner of nothing.
async fn a_removed_leader_hands_over_and_leaves(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let written = router.write(1, 3).await;
    router.raft(1).change_membership(ids(&[2, 3]), false).await.unwrap();
    router.wait(1).state(ServerState::Learner, "it leaves").await.unwrap();
    let led = |metrics: &Metrics| matches!(metrics.current_leader, Some(NodeId(2 | 3)));
    let leader = router.until(2, "another leader", led).await.current_leader.unwrap().0;
    router.wait_applied_own(leader).await;
    let last = router.write(leader, 2).await;
    assert!(last > written);
    router.assert_same_state(&[2, 3], last).await;
    assert_eq!(parts(&router.metrics(leader)), [[2, 3]]);
}

/// A leader that stays a member need not vote to lead: it goes on until another one takes over.
async fn a_leader_that_becomes_a_learner_leads_on(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.change_voters(1, &[2, 3]).await;
    router.never(1, 1, "anything but the leader", |metrics| metrics.state != ServerState::Leader).await;
    let last = router.write(1, 3).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    router.transfer(1, 2).await;
    router.wait(1).state(ServerState::Learner, "a learner").await.unwrap();
    let last = router.write(2, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A node that was removed comes back with the disk that it had, and gets what it missed.
async fn a_removed_node_can_be_added_again(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.raft(1).change_membership(ids(&[1, 2]), false).await.unwrap();
    router.write(1, 10).await;
    router.add_learner(1, 3).await;
    router.change_voters(1, &[1, 2, 3]).await;
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    router.wait(3).state(ServerState::Follower, "a voter again").await.unwrap();
}

/// Removing a node does not need that node.
async fn an_unreachable_follower_can_be_removed(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.stop(3).await;
    let change = router.raft(1).change_membership(ids(&[1, 2]), false);
    tokio::time::timeout(PATIENCE, change).await.expect("it does not wait for node 3").unwrap();
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2], last).await;
    assert!(router.metrics(2).membership_config.get_node(&NodeId(3)).is_none());
}

/// A cluster can move to other nodes altogether.
async fn all_voters_can_be_replaced(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4, 5, 6]).await;
    router.write(1, 10).await;
    router.raft(1).change_membership(ids(&[4, 5, 6]), false).await.unwrap();
    let led = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader.0 >= 4);
    let leader = router.until(4, "one of the new ones leads", led).await.current_leader.unwrap().0;
    for id in [1, 2, 3] {
        router.stop(id).await;
    }
    router.wait_applied_own(leader).await;
    let last = router.write(leader, 5).await;
    router.assert_same_state(&[4, 5, 6], last).await;
    assert_eq!(router.contents(4).kvs.len(), 15);
}

/// Nodes come one after the other, and go, while there is always a majority.
async fn a_cluster_grows_from_one_to_five_and_shrinks_again(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    let mut voters = vec![1];
    for id in 2..=5 {
        router.write(1, 2).await;
        router.add_node(id).await;
        router.add_learner(1, id).await;
        voters.push(id);
        router.change_voters(1, &voters).await;
    }
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3, 4, 5], last).await;
    while voters.len() > 1 {
        let id = voters.pop().unwrap();
        router.raft(1).change_membership(ids(&voters), false).await.unwrap();
        router.stop(id).await;
        router.write(1, 1).await;
    }
    assert_eq!(parts(&router.metrics(1)), [[1]]);
    assert_eq!(router.contents(1).kvs.len(), 8 + 1 + 4);
}

/// Whoever changes the membership by what was read of it is told when that has changed since.
async fn a_change_that_is_based_on_an_old_membership_is_refused(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let read: Option<LogId> = *router.metrics(1).membership_config.log_id();
    let unchanged = |last_membership_log_id| [Precondition::LastMembershipLogId { last_membership_log_id }];
    router.change_voters(1, &[1, 2]).await;
    let refused = router.raft(1).change_membership_if(ids(&[1, 3]), true, unchanged(read)).await.unwrap_err();
    assert!(matches!(refused, RaftError::APIError(ClientWriteError::PreconditionFailed(_))), "{refused}");
    let read: Option<LogId> = *router.metrics(1).membership_config.log_id();
    router.raft(1).change_membership_if(ids(&[1, 3]), true, unchanged(read)).await.unwrap();
    router.until(3, "the second change", |metrics| parts(metrics) == [[1, 3]]).await;
}

/// Learners get every entry, whoever votes.
async fn a_learner_follows_while_the_voters_change(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let mut last = 0;
    for voters in [&[1, 2][..], &[1, 2, 3], &[1]] {
        router.change_voters(1, voters).await;
        last = router.write(1, 2).await;
        router.await_applied(&[4], last).await;
    }
    assert_eq!(router.metrics(4).state, ServerState::Learner);
    router.assert_same_state(&[1, 2, 3, 4], last).await;
}

/// A follower that takes messages and does not answer holds up neither writes nor changes.
async fn a_change_goes_through_while_a_follower_hangs(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let gate = router.hold(3, RpcKind::Append);
    router.write(1, 3).await;
    router.change_voters(1, &[1, 2, 4]).await;
    let last = router.write(1, 3).await;
    router.await_applied(&[1, 2, 4], last).await;
    gate.open();
    router.assert_same_state(&[1, 2, 3, 4], last).await;
}

/// Who belongs to the cluster is found on each node's own disk.
async fn a_membership_outlives_a_restart(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let last = router.change_voters(1, &[1, 2, 4]).await;
    router
        .raft(1)
        .change_membership(ChangeMembers::SetNodes(BTreeMap::from([(NodeId(3), info(33))])), true)
        .await
        .unwrap();
    router.await_applied(&[1, 2, 3, 4], last + 1).await;
    let before = router.metrics(4).membership_config;
    for id in [1, 2, 3, 4] {
        router.isolate(id);
        router.restart(id).await;
        let same = |metrics: &Metrics| metrics.membership_config == before;
        router.until(id, "the membership of before", same).await;
    }
    assert_eq!(before.get_node(&NodeId(3)), Some(&info(33)));
}
