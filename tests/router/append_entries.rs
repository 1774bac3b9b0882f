//! What a follower does with entries, and a leader with a follower's answers.

use aspen::kv::types::NodeId;
use aspen::raft::types::{LogId, Vote};
use futures::StreamExt;
use openraft::ServerState;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};

use crate::router::by_hand::{append, blanks, membership_entry, strange, urgent_vote};
use crate::router::faults::{Failure, Fate};
use crate::router::rpc::{Message, RpcKind};
use crate::router::storage::Storage;
use crate::router::{AspenRouter, ids, index};

on_each_storage!(
    an_empty_log_takes_entries_from_the_very_beginning,
    entries_that_are_there_already_change_nothing,
    case_1_a_previous_entry_below_the_commit_matches_and_nothing_is_cut,
    case_2_an_entry_that_differs_right_behind_the_commit_replaces_the_rest,
    case_3_a_previous_entry_of_another_term_is_refused_and_the_log_cut_before_it,
    case_4_entries_behind_a_matching_one_replace_those_that_differ,
    case_5_a_previous_entry_beyond_the_end_is_refused_and_nothing_changes,
    a_conflict_is_reported_without_entries_too,
    a_higher_vote_is_taken_over_with_the_entries,
    appends_of_a_deposed_leader_are_refused_without_a_trace,
    a_stream_ends_with_its_first_conflict,
    a_membership_holds_once_appended_and_goes_when_it_is_cut,
    a_leader_that_meets_a_higher_vote_steps_down,
    a_hundred_other_entries_are_replaced,
    a_batch_larger_than_a_message_arrives_whole,
);
in_memory!(
    an_unreachable_follower_is_tried_less_and_less_often,
    a_follower_is_served_again_after_a_backoff,
    a_batch_accepted_in_part_is_continued_where_it_ended,
    a_lost_learner_holds_up_no_commit,
);

/// A node whose log has entries of these terms, committed up to an index.
async fn follower(storage: Storage, terms: &[u64], commit: Option<u64>) -> AspenRouter {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    if !terms.is_empty() {
        let commit = commit.map(|at| strange(terms[usize::try_from(at).unwrap()], at));
        let filled = router.raft(1).append_entries(append(None, blanks(0, terms), commit)).await.unwrap();
        assert_eq!(filled, AppendEntriesResponse::Success);
        router.wait(1).applied_index(commit.map(|log_id| log_id.index), "the commit").await.unwrap();
    }
    router
}

/// The terms of the entries in node 1's log.
async fn terms(router: &AspenRouter) -> Vec<u64> {
    router.log_ids(1).await.iter().map(|log_id| log_id.leader_id.term).collect()
}

async fn feed(
    router: &AspenRouter,
    prev: Option<LogId>,
    from: u64,
    terms: &[u64],
) -> AppendEntriesResponse<aspen::raft::types::TypeConfig> {
    router.raft(1).append_entries(append(prev, blanks(from, terms), None)).await.unwrap()
}

/// A node without a log takes entries that follow nothing.
async fn an_empty_log_takes_entries_from_the_very_beginning(storage: Storage) {
    let router = follower(storage, &[], None).await;
    assert_eq!(feed(&router, None, 0, &[]).await, AppendEntriesResponse::Success);
    assert!(terms(&router).await.is_empty());
    assert_eq!(feed(&router, None, 0, &[0, 1]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [0, 1]);
}

/// A message that arrives twice leaves the log as it is, even where it ends before the log does.
async fn entries_that_are_there_already_change_nothing(storage: Storage) {
    let router = follower(storage, &[1, 1, 1, 1], Some(0)).await;
    assert_eq!(feed(&router, Some(strange(1, 0)), 1, &[1, 1, 1]).await, AppendEntriesResponse::Success);
    assert_eq!(feed(&router, Some(strange(1, 0)), 1, &[1]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [1, 1, 1, 1]);
}

/// Conflict, case 1: the previous entry is committed, so it matches, and so does what follows it.
async fn case_1_a_previous_entry_below_the_commit_matches_and_nothing_is_cut(storage: Storage) {
    let router = follower(storage, &[0, 1, 1, 1, 1], Some(2)).await;
    assert_eq!(feed(&router, Some(strange(1, 1)), 2, &[1]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [0, 1, 1, 1, 1]);
}

/// Conflict, case 2: the previous entry is the last committed one, and what is behind it differs.
async fn case_2_an_entry_that_differs_right_behind_the_commit_replaces_the_rest(storage: Storage) {
    let router = follower(storage, &[0, 1, 1, 1, 1], Some(2)).await;
    assert_eq!(feed(&router, Some(strange(1, 2)), 3, &[2]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [0, 1, 1, 2]);
}

/// Conflict, case 3: the previous entry is there with another term, so that it and the rest are cut.
async fn case_3_a_previous_entry_of_another_term_is_refused_and_the_log_cut_before_it(storage: Storage) {
    let router = follower(storage, &[0, 1, 1, 2, 2], Some(2)).await;
    assert_eq!(feed(&router, Some(strange(3, 3)), 4, &[3]).await, AppendEntriesResponse::Conflict);
    assert_eq!(terms(&router).await, [0, 1, 1]);
    assert_eq!(feed(&router, Some(strange(1, 2)), 3, &[3, 3]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [0, 1, 1, 3, 3]);
}

/// Conflict, case 4: the previous entry matches behind the commit, and an entry after it differs.
async fn case_4_entries_behind_a_matching_one_replace_those_that_differ(storage: Storage) {
    let router = follower(storage, &[0, 1, 1, 2, 2, 2], Some(2)).await;
    assert_eq!(feed(&router, Some(strange(2, 3)), 4, &[3]).await, AppendEntriesResponse::Success);
    assert_eq!(terms(&router).await, [0, 1, 1, 2, 3]);
}

/// Conflict, case 5: the previous entry lies beyond the end of the log.
async fn case_5_a_previous_entry_beyond_the_end_is_refused_and_nothing_changes(storage: Storage) {
    let router = follower(storage, &[0, 1, 1], Some(1)).await;
    assert_eq!(feed(&router, Some(strange(1, 200)), 201, &[1]).await, AppendEntriesResponse::Conflict);
    assert_eq!(terms(&router).await, [0, 1, 1]);
}

/// A leader learns of a gap from a message without entries: else it would wait for the next write.
async fn a_conflict_is_reported_without_entries_too(storage: Storage) {
    let router = follower(storage, &[0, 1], Some(0)).await;
    assert_eq!(feed(&router, Some(strange(1, 5)), 6, &[]).await, AppendEntriesResponse::Conflict);
    assert_eq!(feed(&router, Some(strange(2, 1)), 2, &[]).await, AppendEntriesResponse::Conflict);
    assert_eq!(feed(&router, Some(strange(0, 0)), 1, &[]).await, AppendEntriesResponse::Success);
}

/// A follower follows the leader of a higher term from its first message on.
async fn a_higher_vote_is_taken_over_with_the_entries(storage: Storage) {
    let router = follower(storage, &[0, 1], Some(0)).await;
    let mut request = append(Some(strange(1, 1)), blanks(2, &[6]), None);
    request.vote = Vote::new_committed(6, NodeId(9));
    assert_eq!(router.raft(1).append_entries(request).await.unwrap(), AppendEntriesResponse::Success);
    router.wait(1).vote(Vote::new_committed(6, NodeId(9)), "the higher vote").await.unwrap();
    assert_eq!(router.metrics(1).current_leader, Some(NodeId(9)));
    assert_eq!(terms(&router).await, [0, 1, 6]);
}

/// A leader that was replaced cannot append any more, and is told who replaced it.
async fn appends_of_a_deposed_leader_are_refused_without_a_trace(storage: Storage) {
    let router = follower(storage, &[0, 1], Some(0)).await;
    let mut request = append(Some(strange(0, 0)), blanks(1, &[4, 4]), Some(strange(4, 2)));
    request.vote = Vote::new_committed(4, NodeId(9));
    let refused = router.raft(1).append_entries(request).await.unwrap();
    assert_eq!(refused, AppendEntriesResponse::HigherVote(Vote::new_committed(5, NodeId(9))));
    assert_eq!(terms(&router).await, [0, 1]);
    assert_eq!(index(router.metrics(1).last_applied), Some(0));
}

/// On a stream, answers come in order, and none after a conflict: what follows builds on a gap.
async fn a_stream_ends_with_its_first_conflict(storage: Storage) {
    let router = follower(storage, &[0], Some(0)).await;
    let requests = [
        append(Some(strange(0, 0)), blanks(1, &[1]), None),
        append(Some(strange(1, 1)), blanks(2, &[1]), None),
        append(Some(strange(1, 7)), blanks(8, &[1]), None),
        append(Some(strange(1, 8)), blanks(9, &[1]), None),
    ];
    let answers = router.raft(1).stream_append(futures::stream::iter(requests));
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let expected =
        [Ok(Some(strange(1, 1))), Ok(Some(strange(1, 2))), Err(StreamAppendError::Conflict(strange(1, 7)))];
    assert_eq!(answers, expected);
    assert_eq!(terms(&router).await, [0, 1, 1]);
}

/// A membership counts from the moment it is in the log, and no longer once it is cut from it.
async fn a_membership_holds_once_appended_and_goes_when_it_is_cut(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.add_node(1).await;
    let entries = vec![membership_entry(strange(1, 0), &[9]), membership_entry(strange(1, 1), &[1, 9])];
    let first = append(None, entries, Some(strange(1, 0)));
    assert_eq!(router.raft(1).append_entries(first).await.unwrap(), AppendEntriesResponse::Success);
    router.wait(1).voter_ids(ids(&[1, 9]), "the second membership").await.unwrap();
    router.wait(1).state(ServerState::Follower, "a voter").await.unwrap();

    assert_eq!(feed(&router, Some(strange(1, 0)), 1, &[2]).await, AppendEntriesResponse::Success);
    router.wait(1).voter_ids(ids(&[9]), "the first membership again").await.unwrap();
    router.wait(1).state(ServerState::Learner, "no voter any more").await.unwrap();
}

/// A leader steps down for good when a follower answers with a higher vote.
async fn a_leader_that_meets_a_higher_vote_steps_down(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let last = router.last_log_id(2).await;
    let granted = router.raft(2).vote(urgent_vote(7, 3, Some(last))).await.unwrap();
    assert!(granted.vote_granted);
    let stepped_down =
        router.until(1, "stepped down", |metrics| metrics.state == ServerState::Follower).await;
    assert_eq!((stepped_down.current_term, stepped_down.current_leader), (7, None));
}

/// A follower that took a part of a batch is sent the rest, and no entry twice.
async fn a_batch_accepted_in_part_is_continued_where_it_ended(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    router.forget_deliveries();
    router.quota(2, before + 3);
    let last = router.write(1, 10).await;
    router.wait(2).log_index(Some(before + 3), "a part").await.unwrap();
    router.never(2, 1, "more than its quota", |metrics| metrics.last_log_index > Some(before + 3)).await;
    router.lift_quota(2);
    router.assert_same_state(&[1, 2, 3], last).await;

    let delivered = router.delivered_to(2);
    let indexes: Vec<_> =
        delivered.iter().flat_map(|delivery| delivery.rpc.entries()).map(|id| id.index).collect();
    assert_eq!(indexes, (before + 1..=last).collect::<Vec<_>>());
}

/// A former leader's hundred uncommitted entries give way to those of its successor.
async fn a_hundred_other_entries_are_replaced(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    router.before(|rpc| {
        let is_append = rpc.from == NodeId(1) && rpc.kind() == RpcKind::Append;
        if is_append { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
    router.propose(1, 100).await;
    router.isolate(1);
    let term = router.elect(2).await;
    let last = router.write(2, 5).await;
    assert!(last < before + 100, "the successor's log is shorter");

    router.unhook();
    router.rejoin(1);
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.log_ids(1).await, router.log_ids(2).await);
    let of_the_former = |log_id: &LogId| log_id.index > before && log_id.leader_id.term < term;
    assert!(!router.log_ids(1).await.iter().any(of_the_former));
}

/// What does not fit into one message goes in several, in order, each within the bound.
async fn a_batch_larger_than_a_message_arrives_whole(storage: Storage) {
    let entries = 2 * aspen::limits::APPEND_BATCH_MAX_ENTRIES + 10;
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.isolate(3);
    let last = router.write(1, entries).await;
    router.forget_deliveries();
    router.rejoin(3);
    router.assert_same_state(&[1, 2, 3], last).await;

    let delivered = router.delivered_to(3);
    let longest = delivered.iter().map(|delivery| delivery.rpc.entries().len()).max();
    assert!(longest.unwrap() as u64 <= aspen::limits::APPEND_BATCH_MAX_ENTRIES, "{longest:?}");
    assert!(delivered.iter().filter(|delivery| !delivery.rpc.entries().is_empty()).count() >= 3);
}

/// A learner counts for no quorum: a leader alone commits while it is away.
async fn a_lost_learner_holds_up_no_commit(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[2]).await;
    router.isolate(2);
    let last = router.write(1, 3).await;
    assert_eq!(index(router.metrics(1).last_applied), Some(last));
    router.rejoin(2);
    router.assert_same_state(&[1, 2], last).await;
}

/// A follower that is not there costs some attempts a second, not as many as the leader can make.
async fn an_unreachable_follower_is_tried_less_and_less_often(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.forget_deliveries();
    router.fail(3, RpcKind::Append, Failure::Unreachable, None);
    let last = router.write(1, 1).await;
    router.never(3, 5, "what was not delivered", |metrics| metrics.last_log_index >= Some(last)).await;
    let attempts = router.counts(1, 3, RpcKind::Append).sent;
    // Three seconds of pauses of 50, 100, 200 and then 300 ms.
    assert!((5..=16).contains(&attempts), "{attempts} attempts");
}

/// A follower that was away is brought up to date when it is back, without another write.
async fn a_follower_is_served_again_after_a_backoff(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.isolate(3);
    let last = router.write(1, 10).await;
    router.never(3, 5, "it is away", |metrics| metrics.last_log_index >= Some(last)).await;
    router.rejoin(3);
    router.assert_same_state(&[1, 2, 3], last).await;
    // The backoff is over with the first success: the next entry comes at once.
    let began = tokio::time::Instant::now();
    let next = router.write(1, 1).await;
    router.await_applied(&[3], next).await;
    assert!(began.elapsed().as_millis() < 50, "{:?}", began.elapsed());
    let to_3 = router.delivered_to(3);
    let last_append = to_3.iter().rev().find(|delivery| !delivery.rpc.entries().is_empty()).unwrap();
    let Message::Append { prev, .. } = &last_append.rpc.message else { panic!("it has entries") };
    assert_eq!(index(*prev), Some(last));
}
