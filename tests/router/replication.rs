//! How entries get to followers over links that fail.

use aspen::kv::types::NodeId;
use aspen::raft::membership;
use aspen::raft::observe::Metrics;
use aspen::raft::types::LogId;

use crate::router::faults::{Failure, Fate};
use crate::router::rpc::RpcKind;
use crate::router::storage::Storage;
use crate::router::{AspenRouter, RouterSettings, index};

on_each_storage!(
    entries_arrive_everywhere_in_the_same_order,
    a_follower_that_was_away_gets_only_what_it_lacks,
    entries_of_a_deposed_leader_never_come_back,
    an_answer_that_is_lost_costs_no_entry,
);
in_memory!(
    a_slow_follower_holds_up_nobody,
    lossy_links_lose_no_entry,
    the_commit_reaches_followers_without_another_write,
    a_failure_that_passes_is_tried_again_at_once,
    a_leader_without_answers_loses_its_lease_and_gets_it_back,
    entries_that_no_majority_has_are_applied_nowhere,
);

/// Many writes at once make one order, which is that of every log.
async fn entries_arrive_everywhere_in_the_same_order(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let last = router.write(1, 200).await;
    router.assert_same_state(&[1, 2, 3, 4], last).await;
    let log = router.log_ids(1).await;
    assert!(log.iter().map(|log_id| log_id.index).eq(0..=last), "no hole");
    for id in [2, 3, 4] {
        assert_eq!(router.log_ids(id).await, log);
    }
}

/// A leader finds where a follower's log ends and sends nothing before that.
async fn a_follower_that_was_away_gets_only_what_it_lacks(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let had = router.write(1, 50).await;
    // The leader must know that node 3 has them: what it is not sure of it sends again.
    let known = |metrics: &Metrics| membership::matched_index(metrics, NodeId(3)) == Some(had);
    router.until(1, "node 3 has acknowledged all", known).await;
    router.isolate(3);
    let last = router.write(1, 10).await;
    router.forget_deliveries();
    router.rejoin(3);
    router.assert_same_state(&[1, 3], last).await;
    let sent = router.delivered_to(3);
    let sent: Vec<_> =
        sent.iter().flat_map(|delivery| delivery.rpc.entries()).map(|log_id| log_id.index).collect();
    assert_eq!(sent, (had + 1..=last).collect::<Vec<_>>());
}

/// A link of a second's delay delays its own follower and no commit.
async fn a_slow_follower_holds_up_nobody(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.delay(1, 3, 1_000..=1_000);
    let began = tokio::time::Instant::now();
    let last = router.write(1, 20).await;
    router.await_applied(&[1, 2], last).await;
    assert!(began.elapsed().as_millis() < 500, "{:?}", began.elapsed());
    router.assert_same_state(&[1, 2, 3], last).await;
    assert!(began.elapsed().as_millis() >= 1_000, "{:?}", began.elapsed());
}

/// Where a third of all messages is lost, and the others come late, each entry arrives once.
async fn lossy_links_lose_no_entry(storage: Storage) {
    for seed in 1..=3 {
        let mut router = AspenRouter::with(RouterSettings { seed, ..RouterSettings::new(storage) });
        router.new_cluster(&[1, 2, 3], &[]).await;
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1)] {
            router.lose(from, to, 0.3);
            router.delay(from, to, 0..=20);
        }
        let mut last = 0;
        for _ in 0..20 {
            last = router.write(1, 3).await;
        }
        router.assert_same_state(&[1, 2, 3], last).await;
        assert_eq!(router.contents(3).kvs.len(), 60);
        let losses = router.counts(1, 2, RpcKind::Append);
        assert!(losses.answered < losses.sent, "{losses:?}");
    }
}

/// Followers learn that the last entry is committed though nothing follows it.
async fn the_commit_reaches_followers_without_another_write(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let began = tokio::time::Instant::now();
    let last = router.write(1, 1).await;
    router.await_applied(&[2, 3], last).await;
    // Sooner than with the next heartbeat.
    assert!(began.elapsed().as_millis() < 60, "{:?}", began.elapsed());
    assert_eq!(router.metrics(1).last_log_index, Some(last), "no entry was written to tell them");
}

/// What only the leader has is applied by nobody, not even by the leader.
async fn entries_that_no_majority_has_are_applied_nowhere(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    router.fail(2, RpcKind::Append, Failure::Unreachable, None);
    router.fail(3, RpcKind::Append, Failure::Unreachable, None);
    let last = router.propose(1, 5).await;
    router.never(1, 1, "applied", |metrics| index(metrics.last_applied) > Some(before)).await;
    assert_eq!(index(router.metrics(1).local_committed), Some(before));
    router.stop_failing();
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// What a leader proposed and could not commit is gone once there is another leader.
async fn entries_of_a_deposed_leader_never_come_back(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    let before = router.new_cluster(&[1, 2, 3], &[]).await;
    router.before(|rpc| {
        let is_append = rpc.from == NodeId(1) && rpc.kind() == RpcKind::Append;
        if is_append { Fate::Fail(Failure::Unreachable) } else { Fate::Pass }
    });
    let proposed = router.put("lost", "by the first leader");
    router.raft(1).client_write_ff(proposed, None).await.unwrap();
    router.wait(1).log_index(Some(before + 1), "appended").await.unwrap();
    router.isolate(1);
    router.elect(2).await;
    let last = router.write(2, 3).await;
    router.unhook();
    router.rejoin(1);
    router.assert_same_state(&[1, 2, 3], last).await;
    for id in [1, 2, 3] {
        assert!(router.contents(id).kvs.iter().all(|kv| kv.key.as_bytes() != b"lost"), "node {id}");
    }
    // The first leader is elected again, and it is still not there.
    router.transfer(2, 1).await;
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
    assert_eq!(router.contents(1).kvs.len(), 4);
}

/// A follower that has entries whose acknowledgement was lost is sent them again, to no harm.
async fn an_answer_that_is_lost_costs_no_entry(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    let mut to_lose = 3;
    router.after(move |rpc| {
        let lost = rpc.kind() == RpcKind::Append && !rpc.entries().is_empty() && to_lose > 0;
        to_lose -= i32::from(lost);
        if lost { Fate::Fail(Failure::Lost) } else { Fate::Pass }
    });
    let last = router.write(1, 10).await;
    router.assert_same_state(&[1, 2], last).await;
    let log = router.log_ids(2).await;
    assert!(log.iter().map(|log_id: &LogId| log_id.index).eq(0..=last));
    assert_eq!(router.contents(2).kvs.len(), 10);
    let counts = router.counts(1, 2, RpcKind::Append);
    assert_eq!(counts.delivered - counts.answered, 3, "{counts:?}");
}

/// A message that was lost is repeated without the pause that an absent node gets.
async fn a_failure_that_passes_is_tried_again_at_once(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    router.fail(2, RpcKind::Append, Failure::Lost, Some(3));
    let began = tokio::time::Instant::now();
    router.write(1, 1).await;
    assert!(began.elapsed().as_millis() < 20, "{:?}", began.elapsed());
}

/// Whether a leader may write hangs on answers, not on what it sends.
async fn a_leader_without_answers_loses_its_lease_and_gets_it_back(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.cut(2, 1);
    router.cut(3, 1);
    router.never(1, 2, "another term", |metrics| metrics.current_term > 1).await;
    assert!(router.raft(1).client_write(router.next_command()).await.is_err());
    router.mend(2, 1);
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2, 3], last).await;
}
