//! What a node says about itself and its cluster, and that it can be waited on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::raft::observe::Metrics;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::{Metric, WaitError};

use crate::router::storage::Storage;
use crate::router::{AspenRouter, ids, index};

on_each_storage!(
    log_commit_and_apply_never_overtake_each_other,
    snapshot_and_purge_are_told,
    progress_can_be_watched_one_kind_at_a_time,
);
in_memory!(
    a_leader_tells_when_a_majority_last_answered,
    a_leader_tells_when_it_last_heard_from_each_node,
    a_wait_ends_by_its_time_or_with_its_node,
    a_change_of_the_leader_is_told_once,
    all_nodes_name_the_leader_and_a_new_one_after_it,
    only_a_leader_knows_how_far_the_others_are,
);

/// Every node names the leader and its term, and the next one after a change.
async fn all_nodes_name_the_leader_and_a_new_one_after_it(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    router.await_leader(&[1, 2, 3, 4], 1).await;
    router.transfer(1, 2).await;
    router.await_leader(&[1, 2, 3, 4], 2).await;
    for id in [1, 2, 3, 4] {
        router.wait(id).ge(Metric::Term(2), "the second term").await.unwrap();
        let state = match id {
            2 => ServerState::Leader,
            4 => ServerState::Learner,
            _ => ServerState::Follower,
        };
        router.wait(id).state(state, "its part").await.unwrap();
    }
}

/// A leader reports on each member, itself included; the others on none.
async fn only_a_leader_knows_how_far_the_others_are(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let last = router.write(1, 5).await;
    let all_there = |metrics: &Metrics| {
        let replication = metrics.replication.as_ref().unwrap();
        replication.keys().copied().eq(ids(&[1, 2, 3, 4]))
            && replication.values().all(|matched| index(*matched) == Some(last))
    };
    router.until(1, "everyone has everything", all_there).await;
    for id in [2, 3, 4] {
        let metrics = router.metrics(id);
        assert!(
            metrics.replication.is_none()
                && metrics.heartbeat.is_none()
                && metrics.last_quorum_acked.is_none()
        );
    }
    router.transfer(1, 2).await;
    router.until(1, "a follower knows nothing any more", |metrics| metrics.replication.is_none()).await;
    router.until(2, "the leader does", |metrics| metrics.replication.is_some()).await;
}

/// In every report of every node: purged ≤ snapshot ≤ applied ≤ committed ≤ log.
async fn log_commit_and_apply_never_overtake_each_other(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let reports = Arc::new(AtomicU64::new(0));
    let watchers: Vec<_> = [1, 2, 3]
        .into_iter()
        .map(|id| {
            let (mut metrics, reports) = (router.raft(id).metrics(), reports.clone());
            tokio::spawn(async move {
                while metrics.changed().await.is_ok() {
                    check_order(&metrics.borrow_watched());
                    reports.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut last = 0;
    for _ in 0..10 {
        last = router.write(1, 10).await;
        router.snapshot_and_purge(1).await;
    }
    router.assert_same_state(&[1, 2, 3], last).await;
    for id in [1, 2, 3] {
        router.stop(id).await;
    }
    for watcher in watchers {
        watcher.await.expect("every report is in order");
    }
    assert!(reports.load(Ordering::Relaxed) > 10);
}

fn check_order(metrics: &Metrics) {
    let order = [
        index(metrics.purged),
        index(metrics.snapshot),
        index(metrics.last_applied),
        index(metrics.local_committed),
        metrics.last_log_index,
    ];
    assert!(order.is_sorted(), "{metrics}");
}

/// A leader cut off from the others reports no new acknowledgement, and does again when it is back.
async fn a_leader_tells_when_a_majority_last_answered(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let first = router.metrics(1).last_quorum_acked.expect("it was elected by a majority");
    router.until(1, "heartbeats are answered", |metrics| metrics.last_quorum_acked > Some(first)).await;
    router.isolate(1);
    let last = router.metrics(1).last_quorum_acked;
    router.never(1, 5, "an answer of a majority", |metrics| metrics.last_quorum_acked > last).await;
    router.rejoin(1);
    router.until(1, "answers again", |metrics| metrics.last_quorum_acked > last).await;
}

/// A leader tells for each member when it was last heard from: who is silent can be seen.
async fn a_leader_tells_when_it_last_heard_from_each_node(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[4]).await;
    let heard = |metrics: &Metrics, id: u64| metrics.heartbeat.as_ref().unwrap()[&NodeId(id)];
    router.isolate(3);
    let before = router.metrics(1);
    router
        .until(1, "the others answer", |now| [2, 4].iter().all(|id| heard(now, *id) > heard(&before, *id)))
        .await;
    router.never(1, 3, "node 3 answers", |now| heard(now, 3) > heard(&before, 3)).await;
    router.rejoin(3);
    router.until(1, "node 3 answers", |now| heard(now, 3) > heard(&before, 3)).await;
}

/// Snapshot and purge show in the metrics with the very entry that they reach.
async fn snapshot_and_purge_are_told(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.write(1, 10).await;
    let metrics = router.metrics(1);
    assert_eq!((metrics.snapshot, metrics.purged), (None, None));
    let applied = metrics.last_applied.unwrap();
    assert_eq!(router.snapshot(1).await, applied);
    router.raft(1).trigger().purge_log(5).await.unwrap();
    let metrics = router.until(1, "purged in part", |metrics| metrics.purged.is_some()).await;
    assert_eq!((index(metrics.purged), metrics.snapshot), (Some(5), Some(applied)));
    router.raft(1).trigger().purge_log(applied.index).await.unwrap();
    router.wait(1).purged(Some(applied), "purged altogether").await.unwrap();
}

/// A wait that nothing fulfils says so when its time is over, and at once when the node ends.
async fn a_wait_ends_by_its_time_or_with_its_node(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    let raft = router.raft(1).clone();
    let never = raft.wait(Some(Duration::from_millis(100))).log_index(Some(1_000), "too much").await;
    let Err(WaitError::Timeout(time, message)) = never else { panic!("{never:?}") };
    assert_eq!(time, Duration::from_millis(100));
    assert!(message.contains("too much"), "{message}");

    let waiting = tokio::spawn(async move { raft.wait(None).log_index(Some(1_000), "too much").await });
    router.stop(1).await;
    assert!(matches!(waiting.await.unwrap(), Err(WaitError::ShuttingDown)));
}

/// Log, commit, apply and snapshot can each be waited for by themselves.
async fn progress_can_be_watched_one_kind_at_a_time(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    let raft = router.raft(2);
    let (mut commit, mut apply) = (raft.watch_commit_progress(), raft.watch_apply_progress());
    let (mut log, mut snapshot) = (raft.watch_log_progress(), raft.watch_snapshot_progress());
    let written = crate::router::commit(router.raft(1), router.next_command()).await;
    let last = Some(written);
    let progress = async {
        log.wait_until(|flushed| flushed.as_ref().and_then(|flushed| flushed.last_log_id) >= last)
            .await
            .unwrap();
        commit.wait_until(|committed| committed.as_ref().copied() >= last).await.unwrap();
        apply.wait_until(|applied| applied.as_ref().copied() >= last).await.unwrap();
    };
    tokio::time::timeout(crate::router::PATIENCE, progress).await.expect("node 2 follows");
    assert!(snapshot.get().is_none());
    router.snapshot(2).await;
    let made = snapshot.wait_until(|made| made.as_ref().copied() >= last);
    tokio::time::timeout(crate::router::PATIENCE, made).await.expect("the snapshot is told").unwrap();
}

/// Whoever follows the leadership is told of each change, once.
async fn a_change_of_the_leader_is_told_once(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut watch = router.raft(3).on_cluster_leader_change(move |_, (leader, _)| {
        told.send(leader.node_id.0).unwrap();
        std::future::ready(())
    });
    let mut next =
        async || tokio::time::timeout(crate::router::PATIENCE, heard.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, 1);
    router.transfer(1, 2).await;
    assert_eq!(next().await, 2);
    router.write(2, 3).await;
    router.transfer(2, 1).await;
    assert_eq!(next().await, 1);
    watch.close().await;
    assert!(heard.try_recv().is_err(), "nothing but the changes was told");
}
