//! When nodes make snapshots, what is in them, and what of the log they make dispensable.

use openraft::ServerState;

use crate::router::storage::Storage;
use crate::router::{AspenRouter, RouterSettings, ids, index};

on_each_storage!(
    a_snapshot_is_made_after_so_many_entries,
    a_follower_and_a_learner_make_snapshots_too,
    writes_go_on_while_a_snapshot_is_made,
    a_snapshot_says_who_belongs_to_the_cluster,
    a_purge_goes_no_further_than_the_snapshot,
);
in_memory!(
    a_second_snapshot_of_the_same_state_is_harmless,
    no_snapshot_is_made_before_its_time,
    the_log_keeps_some_entries_behind_a_snapshot,
);
on_disk!(a_snapshot_outlives_a_restart);

fn every(storage: Storage, entries: u64) -> AspenRouter {
    AspenRouter::with(RouterSettings { snapshot_every_entries: entries, ..RouterSettings::new(storage) })
}

/// Each node makes a snapshot by itself once it has applied as many entries as are set.
async fn a_snapshot_is_made_after_so_many_entries(storage: Storage) {
    let mut router = every(storage, 20);
    router.new_cluster(&[1, 2, 3], &[]).await;
    router.write(1, 25).await;
    for id in [1, 2, 3] {
        router.until(id, "a snapshot", |metrics| index(metrics.snapshot) >= Some(19)).await;
    }
    let first = router.metrics(1).snapshot;
    router.write(1, 25).await;
    router.until(1, "another one", |metrics| metrics.snapshot > first).await;
}

/// One entry less than is set makes none.
async fn no_snapshot_is_made_before_its_time(storage: Storage) {
    let mut router = every(storage, 20);
    let before = router.new_cluster(&[1], &[]).await;
    let last = router.write(1, 20 - before - 2).await;
    assert_eq!(last, 18);
    router.never(1, 5, "a snapshot", |metrics| metrics.snapshot.is_some()).await;
    router.write(1, 1).await;
    router.until(1, "a snapshot", |metrics| index(metrics.snapshot) == Some(19)).await;
}

/// Snapshots are every node's own: one that is asked for is made where it was asked for.
async fn a_follower_and_a_learner_make_snapshots_too(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3]).await;
    let last = router.write(1, 10).await;
    router.await_applied(&[2, 3], last).await;
    for id in [2, 3] {
        assert_eq!(router.snapshot(id).await.index, last);
        let kept = router.raft(id).get_snapshot().await.unwrap().unwrap();
        assert_eq!(index(kept.meta.last_log_id), Some(last));
    }
    assert_eq!(router.metrics(1).snapshot, None);
}

/// A snapshot that is asked for twice, with nothing new in between, is the same one.
async fn a_second_snapshot_of_the_same_state_is_harmless(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1], &[]).await;
    router.write(1, 5).await;
    let first = router.snapshot(1).await;
    for _ in 0..2 {
        router.raft(1).trigger().snapshot().await.unwrap();
        router.never(1, 1, "another snapshot", |metrics| metrics.snapshot != Some(first)).await;
    }
    let last = router.write(1, 5).await;
    assert_eq!(router.snapshot(1).await.index, last);
}

/// Writing does not wait for a snapshot, and the snapshot has what was applied when it began.
async fn writes_go_on_while_a_snapshot_is_made(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2, 3], &[]).await;
    for number in 0..20 {
        let large = router.put(format!("large-{number}"), vec![b'x'; 200 * 1024]);
        crate::router::commit(router.raft(1), large).await;
    }
    let began_at = index(router.metrics(1).last_applied);
    router.raft(1).trigger().snapshot().await.unwrap();
    let last = router.write(1, 50).await;
    let made = router.until(1, "a snapshot", |metrics| metrics.snapshot.is_some()).await;
    assert!(index(made.snapshot) >= began_at);
    assert!(index(made.snapshot) <= Some(last));
    router.assert_same_state(&[1, 2, 3], last).await;
}

/// A snapshot stands for the log in front of it, so it holds the membership that was in it.
async fn a_snapshot_says_who_belongs_to_the_cluster(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[3]).await;
    let changed = router.change_voters(1, &[1, 2, 3]).await;
    router.write(1, 3).await;
    router.snapshot(1).await;
    let meta = router.raft(1).get_snapshot().await.unwrap().unwrap().meta;
    assert_eq!(index(*meta.last_membership.log_id()), Some(changed));
    assert!(meta.last_membership.voter_ids().eq(ids(&[1, 2, 3])));
}

/// Entries that are in no snapshot stay, whatever is asked for.
async fn a_purge_goes_no_further_than_the_snapshot(storage: Storage) {
    let mut router = AspenRouter::new(storage);
    router.new_cluster(&[1, 2], &[]).await;
    router.write(1, 10).await;
    let snapshot = router.snapshot(1).await;
    let last = router.write(1, 10).await;
    router.raft(1).trigger().purge_log(last).await.unwrap();
    router.wait(1).purged(Some(snapshot), "up to the snapshot").await.unwrap();
    let log = router.log_ids(1).await;
    assert!(log.iter().map(|log_id| log_id.index).eq(snapshot.index + 1..=last));
    router.assert_same_state(&[1, 2], last).await;
}

/// Entries that a snapshot covers go by themselves, all but those that a brief absence may need.
async fn the_log_keeps_some_entries_behind_a_snapshot(storage: Storage) {
    let kept = aspen::limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES;
    let mut router = every(storage, kept + 500);
    router.new_cluster(&[1], &[]).await;
    router.write(1, kept + 600).await;
    let metrics = router.until(1, "the purge", |metrics| metrics.purged.is_some()).await;
    let (snapshot, purged) = (index(metrics.snapshot).unwrap(), index(metrics.purged).unwrap());
    assert_eq!(snapshot - purged, kept);
    assert_eq!(router.log_ids(1).await.first().map(|log_id| log_id.index), Some(purged + 1));
}

/// A node that starts has its last snapshot, for itself and for others.
async fn a_snapshot_outlives_a_restart(storage: Storage) {
    let mut router = AspenRouter::with(RouterSettings::new(storage).with_elections());
    router.new_cluster(&[1], &[]).await;
    router.write(1, 10).await;
    let snapshot = router.snapshot_and_purge(1).await;
    let last = router.write(1, 5).await;
    let before = router.contents(1);
    router.restart(1).await;
    router.wait(1).state(ServerState::Leader, "it leads again").await.unwrap();
    let metrics = router.wait(1).applied_index_at_least(Some(last), "all that was written").await.unwrap();
    assert_eq!((metrics.snapshot, metrics.purged), (Some(snapshot), Some(snapshot)));
    assert_eq!(router.contents(1), before);
    router.add_node(2).await;
    router.add_learner(1, 2).await;
    let last = router.write(1, 1).await;
    router.assert_same_state(&[1, 2], last).await;
}
