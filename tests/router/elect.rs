//! Who is elected, and what elections leave alone.

use aspen::kv::types::NodeId;
use aspen::raft::types::{LogId, Vote};
use openraft::ServerState;
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use openraft::raft::VoteRequest;

use crate::router::by_hand::{log_id, urgent_vote};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, RouterSettings};

on_each_storage!(
    a_candidate_whose_log_is_shorter_gets_no_vote,
    a_longer_log_of_an_older_term_loses_against_a_newer_term,
    a_leader_steps_down_for_a_higher_vote,
    in_one_term_a_vote_moves_only_to_the_greater_node,
    a_leader_hands_over_to_the_node_it_names,
);
in_memory!(
    heartbeats_hold_votes_back_and_their_end_releases_them,
    a_follower_that_is_cut_off_keeps_its_term,
    without_pre_vote_the_same_follower_raises_its_term,
    a_pre_vote_against_a_living_leader_changes_nothing,
    a_leader_that_is_cut_off_is_replaced_and_follows_later,
    a_minority_elects_nobody_and_commits_nothing,
    a_follower_that_hears_but_cannot_speak_does_not_campaign,
    a_transfer_does_not_wait_for_the_lease,
    an_election_triggered_on_the_leader_is_ignored,
);

async fn three(storage: Storage) -> AspenRouter {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router
}

async fn three_with_elections(storage: Storage) -> (AspenRouter, u64) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1, 2, 3], &[]).await;
    let leader = router.await_any_leader(&[1, 2, 3]).await;
    (router, leader)
}

fn others(leader: u64) -> [u64; 2] {
    match leader {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

/// A voter refuses a candidate that lacks an entry of its own, whatever the term.
async fn a_candidate_whose_log_is_shorter_gets_no_vote(storage: Storage) {
    let router = three(storage).await;
    let last = router.write(1, 3).await;
    router.await_applied(&[2], last).await;
    let own = router.last_log_id(2).await;
    let shorter = LogId { index: own.index - 1, ..own };
    for behind in [None, Some(shorter)] {
        let refused = router.raft(2).vote(urgent_vote(50, 3, behind)).await.unwrap();
        assert!(!refused.vote_granted);
        assert_eq!(refused.last_log_id, Some(own), "the candidate learns how far behind it is");
    }
    assert_eq!(router.metrics(2).current_term, 1, "a refusal leaves the term alone");
    assert!(router.raft(2).vote(urgent_vote(50, 3, Some(own))).await.unwrap().vote_granted);
}

/// The last entry's term decides before the length of the log does.
async fn a_longer_log_of_an_older_term_loses_against_a_newer_term(storage: Storage) {
    let router = three(storage).await;
    router.transfer(1, 2).await;
    let last = router.wait_applied_own(2).await;
    router.await_applied(&[3], last).await;
    let own = router.last_log_id(3).await;
    assert_eq!(own.leader_id.term, 2);
    let longer_but_older = log_id(1, 1, own.index + 100);
    assert!(!router.raft(3).vote(urgent_vote(50, 1, Some(longer_but_older))).await.unwrap().vote_granted);
    let shorter_but_newer = log_id(3, 1, 1);
    assert!(router.raft(3).vote(urgent_vote(50, 1, Some(shorter_but_newer))).await.unwrap().vote_granted);
}

/// A leader that grants a vote of a higher term leads no longer, and takes no writes.
async fn a_leader_steps_down_for_a_higher_vote(storage: Storage) {
    let router = three(storage).await;
    let own = router.last_log_id(1).await;
    assert!(router.raft(1).vote(urgent_vote(9, 2, Some(own))).await.unwrap().vote_granted);
    let metrics = router.wait(1).state(ServerState::Follower, "stepped down").await.unwrap();
    assert_eq!(metrics.vote, Vote::new(9, NodeId(2)));
    let refused = router.raft(1).client_write(router.next_command()).await.unwrap_err();
    assert!(matches!(refused, RaftError::APIError(ClientWriteError::ForwardToLeader(_))), "{refused}");
}

/// openraft orders the votes of one term by node: the vote may move to a greater one, and never back.
/// So a term may see two leaders, one after the other, whose entries differ in the node.
async fn in_one_term_a_vote_moves_only_to_the_greater_node(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    let ask = async |candidate| {
        let request = VoteRequest::new(Vote::new(5, NodeId(candidate)), None);
        router.raft(1).vote(request).await.unwrap().vote_granted
    };
    assert!(ask(3).await);
    assert!(!ask(2).await, "the vote is given");
    assert!(ask(3).await, "asking again is harmless");
    assert!(ask(4).await);
    assert!(!ask(3).await, "it never goes back");
    router.wait(1).vote(Vote::new(5, NodeId(4)), "the last vote given").await.unwrap();
}

/// While heartbeats come, no vote is given; once they have stopped for the time of the lease, it is.
async fn heartbeats_hold_votes_back_and_their_end_releases_them(storage: Storage) {
    let router = three(storage).await;
    let own = router.last_log_id(2).await;
    let request = VoteRequest::new(Vote::new(9, NodeId(3)), Some(own));
    let renewed_at = async || router.external_request(2, |state| state.vote_last_modified()).await;
    let before = renewed_at().await;
    router.never(2, 3, "another term", |metrics| metrics.current_term > 1).await;
    assert!(!router.raft(2).vote(request.clone()).await.unwrap().vote_granted, "the leader lives");
    assert!(renewed_at().await > before, "each heartbeat renews the lease");

    router.raft(1).runtime_config().heartbeat(false);
    router.never(2, 2, "another term", |metrics| metrics.current_term > 1).await;
    assert!(router.raft(2).vote(request).await.unwrap().vote_granted, "the lease is over");
}

/// A follower asks before it stands for election: alone, it keeps its term and disturbs nobody later.
async fn a_follower_that_is_cut_off_keeps_its_term(storage: Storage) {
    let (router, leader) = three_with_elections(storage).await;
    let term = router.metrics(leader).current_term;
    let [lonely, _] = others(leader);
    router.isolate(lonely);
    router.never(lonely, 10, "a higher term", |metrics| metrics.current_term > term).await;
    router.rejoin(lonely);
    router.never(leader, 5, "a higher term", |metrics| metrics.current_term > term).await;
    let last = router.write(leader, 1).await;
    router.await_applied(&[lonely], last).await;
}

/// The counterpart: without pre-vote, being cut off drives the term up.
async fn without_pre_vote_the_same_follower_raises_its_term(storage: Storage) {
    let (router, leader) = three_with_elections(storage).await;
    let term = router.metrics(leader).current_term;
    let [lonely, _] = others(leader);
    router.raft(lonely).runtime_config().pre_vote(false);
    router.isolate(lonely);
    router.until(lonely, "higher terms", |metrics| metrics.current_term > term + 2).await;
}

/// Asking for a vote that would be refused changes no term, no vote and no leader.
async fn a_pre_vote_against_a_living_leader_changes_nothing(storage: Storage) {
    let router = three(storage).await;
    let before = router.metrics(2).vote;
    router.cut(1, 2);
    // Its own lease is over, so it asks; node 3 still hears the leader and refuses.
    router.never(2, 2, "another vote", |metrics| metrics.vote != before).await;
    router.raft(2).trigger().elect(true).await.unwrap();
    router.eventually("it asked", |router| router.counts(2, 3, RpcKind::PreVote).answered > 0).await;
    router.never(2, 2, "another vote", |metrics| metrics.vote != before).await;
    assert_eq!(router.counts(2, 3, RpcKind::Vote).sent, 0);
    assert_eq!(router.metrics(1).state, ServerState::Leader);
}

/// A leader has nothing to win: told to stand for election, it goes on in its term.
async fn an_election_triggered_on_the_leader_is_ignored(storage: Storage) {
    let router = three(storage).await;
    router.forget_deliveries();
    router.raft(1).trigger().elect(false).await.unwrap();
    let last = router.write(1, 3).await;
    router.await_applied(&[1, 2, 3], last).await;
    assert_eq!(router.metrics(1).current_term, 1);
    assert_eq!(router.counts(1, 2, RpcKind::Vote).sent + router.counts(1, 2, RpcKind::PreVote).sent, 0);
}

/// The majority replaces a leader that it does not hear, which then follows and has its state.
async fn a_leader_that_is_cut_off_is_replaced_and_follows_later(storage: Storage) {
    let (router, first) = three_with_elections(storage).await;
    router.write(first, 3).await;
    router.isolate(first);
    let second = router.await_any_leader(&others(first)).await;
    let last = router.write(second, 3).await;
    assert_eq!(router.metrics(first).state, ServerState::Leader, "it cannot know");
    router.rejoin(first);
    router.await_leader(&[1, 2, 3], second).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// Without a majority there is no new leader, and the old one takes no more writes.
async fn a_minority_elects_nobody_and_commits_nothing(storage: Storage) {
    let (router, leader) = three_with_elections(storage).await;
    let [one, other] = others(leader);
    router.isolate(one);
    router.isolate(other);
    for id in [one, other] {
        router.never(id, 10, "a leader", |metrics| metrics.state == ServerState::Leader).await;
    }
    let refused = router.raft(leader).client_write(router.next_command()).await.unwrap_err();
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = refused else { panic!("{refused}") };
    assert_eq!(to.reason, ForwardReason::LeaseExpired);
}

/// One direction is enough to keep a follower quiet: it hears its leader.
async fn a_follower_that_hears_but_cannot_speak_does_not_campaign(storage: Storage) {
    let (router, leader) = three_with_elections(storage).await;
    let term = router.metrics(leader).current_term;
    let [mute, _] = others(leader);
    router.raft(mute).runtime_config().pre_vote(false);
    for id in [1, 2, 3] {
        router.cut(mute, id);
    }
    router.never(mute, 10, "a higher term", |metrics| metrics.current_term > term).await;
    assert!(router.counts(leader, mute, RpcKind::Heartbeat).delivered > 10);
}

/// A leader that hands over makes the named node the leader, and nobody else.
async fn a_leader_hands_over_to_the_node_it_names(storage: Storage) {
    let router = three(storage).await;
    let last = router.write(1, 3).await;
    router.await_applied(&[3], last).await;
    router.transfer(1, 3).await;
    router.await_leader(&[1, 2, 3], 3).await;
    assert_eq!(router.metrics(3).current_term, 2);
    let last = router.write(3, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A leader that hands over releases its voters: they vote though its lease holds.
async fn a_transfer_does_not_wait_for_the_lease(storage: Storage) {
    let router = three(storage).await;
    let began = tokio::time::Instant::now();
    router.transfer(1, 2).await;
    let lease_ms = u128::from(RouterSettings::new(storage).timings.election_timeout_max_ms);
    assert!(began.elapsed().as_millis() < lease_ms / 4, "{:?}", began.elapsed());
}
