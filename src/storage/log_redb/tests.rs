//! The log on disk: durability, order, damage, and what a reader may see.

mod damage;
mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log_id;
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::*;
use crate::kv::types::NodeId;
use crate::raft::types::Proposal;
use crate::storage::disk::SimulatedDisk;

fn id(term: u64, index: u64) -> LogId {
    log_id::<TypeConfig>(term, NodeId(1), index)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry::new_normal(id(term, index), Proposal(Bytes::from(vec![b'x'; bytes])))
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(term, index, 100)).collect()
}

/// A data directory whose log can be opened again and again.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("raft.redb")
    }

    fn open(&self) -> (RedbLog, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        (open_at(&self.path(), Arc::clone(&progress)).unwrap(), progress)
    }
}

fn open_at(path: &Path, progress: Arc<Progress>) -> Result<RedbLog, OpenLogError> {
    RedbLog::open(path, 1 << 20, progress)
}

fn simulated_disk() -> SimulatedDisk {
    SimulatedDisk::new("/node", 1)
}

fn open_simulated(disk: &SimulatedDisk, progress: Arc<Progress>) -> RedbLog {
    let path = Path::new("/node").join(LOG_FILE);
    RedbLog::open_on(disk.mount(), &path, 1 << 20, progress).unwrap()
}

async fn indexes(log: &RedbLog) -> Vec<u64> {
    let entries = log.reader().try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// Forgets the tail, so that reads must go to disk.
fn drop_tail(log: &RedbLog) {
    let mut state = log.shared.lock();
    state.view.shrink_tail(0);
    assert_eq!(state.view.tail_bytes(), 0, "everything is on disk");
}

#[tokio::test]
async fn vote_entries_and_committed_survive_a_clean_restart() {
    let dir = Dir::new();
    let (mut log, progress) = dir.open();
    let vote = Vote::new_committed(3, NodeId(1));
    log.save_vote(&vote).await.unwrap();
    log.blocking_append(entries(3, 0..20)).await.unwrap();
    log.save_committed(Some(id(3, 17))).await.unwrap();
    assert_eq!(progress.flushed(), Some(19));
    drop(log);

    let (mut log, progress) = dir.open();
    assert_eq!(log.reader().read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(3, 17)));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(3, 19)));
    assert_eq!(log.reader().try_get_log_entries(..).await.unwrap(), entries(3, 0..20));
    assert_eq!(progress.flushed(), Some(19));
}

#[tokio::test]
async fn entries_are_readable_before_and_reported_only_after_they_are_on_disk() {
    let disk = simulated_disk();
    let progress = Arc::new(Progress::default());
    let mut log = open_simulated(&disk, Arc::clone(&progress));
    disk.hold_syncs(LOG_FILE);
    let (flushed, mut on_flush) = TypeConfig::oneshot();
    log.append(entries(1, 0..3), IOFlushed::signal(flushed)).await.unwrap();
    assert_eq!(indexes(&log).await, [0, 1, 2]);

    assert!(disk.wait_for_held_sync());
    assert!(on_flush.try_recv().is_err(), "the disk has not answered yet");
    assert_eq!(progress.flushed(), None);

    disk.release_syncs();
    on_flush.await.unwrap().unwrap();
    assert_eq!(progress.flushed(), Some(2));
    let copy = open_simulated(&disk.after_power_cut(), Arc::default());
    assert_eq!(indexes(&copy).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_vote_is_on_disk_when_the_call_returns() {
    let disk = simulated_disk();
    let mut log = open_simulated(&disk, Arc::default());
    let vote = Vote::new(7, NodeId(2));
    log.save_vote(&vote).await.unwrap();
    let copy = open_simulated(&disk.after_power_cut(), Arc::default());
    assert_eq!(copy.reader().read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn appends_that_gather_share_a_commit() {
    let disk = simulated_disk();
    let mut log = open_simulated(&disk, Arc::default());
    disk.hold_syncs(LOG_FILE);
    let mut waiting = Vec::new();
    for index in 0..100 {
        let (flushed, on_flush) = TypeConfig::oneshot();
        log.append([entry(1, index, 10)], IOFlushed::signal(flushed)).await.unwrap();
        waiting.push(on_flush);
    }
    assert!(disk.wait_for_held_sync());
    disk.release_syncs();
    for on_flush in waiting {
        on_flush.await.unwrap().unwrap();
    }
    assert!(log.commits() <= 2, "{} commits for 100 appends", log.commits());
}

#[tokio::test]
async fn a_failed_write_reaches_all_who_wait_and_all_who_come() {
    let disk = simulated_disk();
    let progress = Arc::new(Progress::default());
    let mut log = open_simulated(&disk, Arc::clone(&progress));
    log.blocking_append(entries(1, 0..3)).await.unwrap();
    disk.hold_syncs(LOG_FILE);
    let mut waiting = Vec::new();
    for index in 3..10 {
        let (flushed, on_flush) = TypeConfig::oneshot();
        log.append([entry(1, index, 10)], IOFlushed::signal(flushed)).await.unwrap();
        waiting.push(on_flush);
    }
    assert!(disk.wait_for_held_sync());
    disk.fail_syncs(LOG_FILE);
    for on_flush in waiting {
        let error = on_flush.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("input/output error") && error.contains("start the node again"), "{error}");
    }

    disk.release_syncs();
    assert!(log.append(entries(1, 10..11), IOFlushed::noop()).await.is_err());
    assert!(log.save_vote(&Vote::new(2, NodeId(1))).await.is_err());
    assert!(log.truncate_after(None).await.is_err());
    assert!(log.purge(id(1, 2)).await.is_err());
    assert!(log.save_committed(Some(id(1, 2))).await.is_err());
    assert!(log.reader().try_get_log_entries(..).await.is_err());
    assert_eq!(progress.flushed(), Some(2));
}

/// An append may be larger than a transaction, and then the disk holds its pieces one after the other.
#[tokio::test]
async fn an_append_in_pieces_counts_as_flushed_piece_by_piece() {
    const PIECES: u64 = 5;
    let piece = queue::BATCH_MAX_BYTES - 1_000;
    let mut commits_seen = Vec::new();
    for cut_after in 1.. {
        let disk = simulated_disk();
        let progress = Arc::new(Progress::default());
        let mut log = open_simulated(&disk, Arc::clone(&progress));
        log.blocking_append(entries(1, 0..1)).await.unwrap();
        let commits = log.commits();
        disk.cut_power_at(disk.operations() + cut_after);
        let (flushed, on_flush) = TypeConfig::oneshot();
        let large = (1..=PIECES).map(|index| entry(1, index, piece));
        log.append(large, IOFlushed::signal(flushed)).await.unwrap();
        // A quorum has it all before this disk does.
        log.save_committed(Some(id(1, PIECES))).await.ok();
        let all_of_it = on_flush.await.unwrap();
        let (flushed, commits) = (progress.flushed(), log.commits() - commits);
        drop(log);

        disk.restore_power();
        let mut log = open_simulated(&disk, Arc::default());
        let last = log.get_log_state().await.unwrap().last_log_id.map(|last| last.index);
        assert!(
            flushed <= last,
            "cut {cut_after}: {flushed:?} counts as flushed, and the log ends at {last:?}"
        );
        assert!(log.read_committed().await.unwrap().map(|committed| committed.index) <= last);
        commits_seen.push(commits);
        if all_of_it.is_ok() {
            assert_eq!(last, Some(PIECES));
            break;
        }
    }
    assert!(commits_seen.iter().any(|commits| (1..PIECES).contains(commits)), "{commits_seen:?}");
}

#[tokio::test]
async fn committed_rides_along_and_is_never_ahead_of_the_entries() {
    let disk = simulated_disk();
    let mut log = open_simulated(&disk, Arc::default());
    log.blocking_append(entries(1, 0..3)).await.unwrap();
    let commits = log.commits();
    log.save_committed(Some(id(1, 1))).await.unwrap();
    log.blocking_append(entries(1, 3..4)).await.unwrap();
    assert_eq!(log.commits(), commits + 1, "no commit of its own");
    let mut copy = open_simulated(&disk.after_power_cut(), Arc::default());
    assert_eq!(copy.read_committed().await.unwrap(), Some(id(1, 1)));

    // A quorum may commit what this disk does not hold yet.
    disk.hold_syncs(LOG_FILE);
    log.append(entries(1, 4..6), IOFlushed::noop()).await.unwrap();
    assert!(disk.wait_for_held_sync());
    log.append(entries(1, 6..8), IOFlushed::noop()).await.unwrap();
    log.save_committed(Some(id(1, 7))).await.unwrap();
    let mut copy = open_simulated(&disk.after_power_cut(), Arc::default());
    assert_eq!(copy.read_committed().await.unwrap(), Some(id(1, 1)));
    disk.release_syncs();
}

#[tokio::test]
async fn committed_is_written_when_nothing_else_is() {
    let disk = simulated_disk();
    let mut log = open_simulated(&disk, Arc::default());
    log.blocking_append(entries(1, 0..3)).await.unwrap();
    let commits = log.commits();
    log.save_committed(Some(id(1, 2))).await.unwrap();
    let deadline = std::time::Duration::from_millis(10 * limits::COMMITTED_SAVE_INTERVAL_MS);
    tokio::time::timeout(deadline, async {
        while log.commits() == commits {
            log.shared.drained.notified().await;
        }
    })
    .await
    .unwrap();
    let mut copy = open_simulated(&disk.after_power_cut(), Arc::default());
    assert_eq!(copy.read_committed().await.unwrap(), Some(id(1, 2)));
}

#[tokio::test]
async fn what_was_cut_off_is_not_read_back_while_the_disk_lags() {
    let disk = simulated_disk();
    let progress = Arc::new(Progress::default());
    let mut log = open_simulated(&disk, Arc::clone(&progress));
    log.blocking_append(entries(1, 0..10)).await.unwrap();
    drop_tail(&log);
    disk.hold_syncs(LOG_FILE);
    {
        let mut truncation = std::pin::pin!(log.truncate_after(Some(id(1, 4))));
        assert!(futures::poll!(&mut truncation).is_pending());
        assert_eq!(progress.flushed(), Some(4), "lowered before the disk is asked");
    }
    assert!(disk.wait_for_held_sync());
    assert_eq!(indexes(&log).await, [0, 1, 2, 3, 4]);
    log.append(entries(2, 5..7), IOFlushed::noop()).await.unwrap();
    let read = log.reader().try_get_log_entries(3..100).await.unwrap();
    assert_eq!(read, [entries(1, 3..5), entries(2, 5..7)].concat());
    disk.release_syncs();
    log.save_vote(&Vote::new(2, NodeId(1))).await.unwrap();
    assert_eq!(progress.flushed(), Some(6));
}

#[tokio::test]
async fn a_purge_goes_no_further_than_the_state_on_disk() {
    let dir = Dir::new();
    let (mut log, progress) = dir.open();
    log.blocking_append(entries(1, 0..10)).await.unwrap();
    log.purge(id(1, 5)).await.unwrap();
    assert_eq!(indexes(&log).await.len(), 10, "no state is on disk");
    progress.set_durable(Some(3));
    log.purge(id(1, 5)).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(1, 3)));
    assert!(log.purge(id(2, 30)).await.is_err(), "the log would begin past the state");

    progress.set_durable(Some(30));
    log.purge(id(2, 30)).await.unwrap();
    assert_eq!(progress.flushed(), Some(30));
    log.blocking_append(entries(2, 31..33)).await.unwrap();
    drop(log);
    let (log, _) = dir.open();
    assert_eq!(indexes(&log).await, [31, 32]);
}

#[tokio::test]
async fn a_long_purge_is_finished_step_by_step_or_at_the_next_start() {
    let dir = Dir::new();
    let (mut log, progress) = dir.open();
    let count = 3 * limits::LOG_PURGE_STEP_MAX_ENTRIES + 10;
    log.blocking_append((0..count).map(|index| entry(1, index, 10))).await.unwrap();
    progress.set_durable(Some(count));
    log.purge(id(1, count - 6)).await.unwrap();
    assert!(log.reader().limited_get_log_entries(0, count).await.is_err(), "the start is purged");
    drop(log);
    let (log, _) = dir.open();
    assert_eq!(indexes(&log).await, (count - 5..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_limited_read_of_what_was_purged_is_refused_even_where_nothing_is_left() {
    let dir = Dir::new();
    let (mut log, progress) = dir.open();
    log.blocking_append(entries(1, 0..20)).await.unwrap();
    progress.set_durable(Some(19));
    log.purge(id(1, 9)).await.unwrap();
    let mut reader = log.reader();
    for (start, end) in [(5, 15), (5, 10), (0, 3)] {
        let error = reader.limited_get_log_entries(start, end).await.unwrap_err().to_string();
        assert!(error.contains(&format!("entry {start} was purged")), "{error}");
    }
    assert_eq!(reader.limited_get_log_entries(10, 12).await.unwrap(), entries(1, 10..12));
    assert_eq!(reader.limited_get_log_entries(3, 3).await.unwrap(), [], "nothing was asked for");
}

#[tokio::test]
async fn a_limited_read_takes_a_bounded_share_and_a_stream_gets_everything() {
    let dir = Dir::new();
    let (mut log, _) = dir.open();
    let large = limits::APPEND_BATCH_MAX_BYTES / 3 + 1;
    let all: Vec<Entry> = (0..12).map(|index| entry(1, index, large)).collect();
    log.blocking_append(all.clone()).await.unwrap();
    for from_disk in [false, true] {
        if from_disk {
            drop_tail(&log);
        }
        let mut reader = log.reader();
        let read = reader.limited_get_log_entries(2, 12).await.unwrap();
        assert_eq!(read, all[2..4], "two fit, three do not");
        let read: Vec<Entry> = reader.entries_stream(3..100).await.try_collect().await.unwrap();
        assert_eq!(read, all[3..]);
    }
    let too_large = entry(1, 12, limits::APPEND_BATCH_MAX_BYTES + 1);
    log.blocking_append([too_large.clone()]).await.unwrap();
    assert_eq!(log.reader().limited_get_log_entries(12, 13).await.unwrap(), [too_large], "one at least");
}

#[tokio::test]
async fn the_tail_is_bounded_and_the_rest_comes_from_disk() {
    let dir = Dir::new();
    let (mut log, _) = dir.open();
    let count = (limits::LOG_TAIL_MAX_BYTES / (1 << 20) + 4) as u64;
    log.blocking_append((0..count).map(|index| entry(1, index, 1 << 20))).await.unwrap();
    assert!(log.shared.lock().view.tail_bytes() <= limits::LOG_TAIL_MAX_BYTES);
    assert_eq!(indexes(&log).await, (0..count).collect::<Vec<_>>());
}
