//! Disks that fail, hang or are full, without a power cut or before one.

use std::io::Read;
use std::time::Duration;

use futures::stream;
use openraft::entry::RaftEntry;
use openraft::storage::{
    IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log_id;
use openraft::type_config::TypeConfigExt;

use super::store::{Store, dir};
use crate::kv::types::{Command, Key, NodeId, ReadRequest, Value};
use crate::limits;
use crate::raft::types::{Entry, SnapshotMeta, TypeConfig, Vote};
use crate::storage::disk::SimulatedDisk;
use crate::storage::log_redb::LOG_FILE;
use crate::storage::record::encode_command;
use crate::storage::state_redb::{STATE_FILE, ShrinkError};

fn disk() -> SimulatedDisk {
    SimulatedDisk::new(dir(), 1)
}

/// Puts `k` to the index.
fn entry(index: u64, value_bytes: usize) -> Entry {
    let value = format!("{index:020}").into_bytes();
    let value = value.into_iter().chain(std::iter::repeat_n(b'.', value_bytes)).collect::<Vec<_>>();
    let put = Command::put(Key::new("k").unwrap(), Value::new(value).unwrap());
    let payload = openraft::EntryPayload::Normal(encode_command(&put).unwrap());
    Entry::new(log_id::<TypeConfig>(1, NodeId(1), index), payload)
}

async fn apply(store: &mut Store, entries: impl IntoIterator<Item = Entry>) -> std::io::Result<()> {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    store.state.apply(stream::iter(entries)).await
}

async fn log_len(store: &Store) -> u64 {
    store.log.reader().try_get_log_entries(..).await.unwrap().len() as u64
}

#[tokio::test]
async fn log_whose_sync_failed_never_writes_again_though_later_syncs_would_work() {
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    store.log.blocking_append([entry(0, 0)]).await.unwrap();
    disk.fail_syncs(LOG_FILE);
    let error = store.log.blocking_append([entry(1, 0)]).await.unwrap_err().to_string();
    assert!(error.contains("input/output error") && error.contains("start the node again"), "{error}");
    disk.release_syncs();
    let operations = disk.operations();
    assert!(store.log.blocking_append([entry(2, 0)]).await.is_err());
    assert!(store.log.save_vote(&Vote::new(2, NodeId(1))).await.is_err());
    assert_eq!(disk.operations(), operations, "the disk is left alone");
    assert_eq!(store.progress.flushed(), Some(0));

    disk.cut_power();
    drop(store);
    disk.restore_power();
    let store = Store::open(&disk).unwrap();
    assert!(log_len(&store).await >= 1, "what was acknowledged is there");
}

#[tokio::test]
async fn state_whose_sync_failed_is_never_durable_and_comes_back_from_the_log() {
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    store.log.blocking_append((0..10).map(|index| entry(index, 0))).await.unwrap();
    apply(&mut store, (0..10).map(|index| entry(index, 0))).await.unwrap();
    disk.fail_syncs(STATE_FILE);
    assert!(store.state.reader().checkpoint().is_err());
    disk.release_syncs();
    assert!(store.state.reader().checkpoint().is_err(), "the sync that failed lost its writes");
    assert_eq!(store.progress.durable(), None);
    assert!(store.log.purge(log_id::<TypeConfig>(1, NodeId(1), 9)).await.is_ok());
    assert_eq!(log_len(&store).await, 10, "nothing is purged that is only in the state");
    drop(store);

    disk.cut_power();
    disk.restore_power();
    let mut store = Store::open(&disk).unwrap();
    let applied = store.state.reader().applied_index().map_or(0, |index| index + 1);
    apply(&mut store, (applied..10).map(|index| entry(index, 0))).await.unwrap();
    let (_, reply) = store.state.reader().read(&ReadRequest::get(Key::new("k").unwrap())).unwrap();
    assert_eq!(reply.kvs[0].value.as_bytes(), format!("{:020}", 9).as_bytes());
}

#[tokio::test]
async fn hanging_sync_acknowledges_nothing_and_appends_wait_at_the_bound_of_the_queue() {
    const ENTRY_BYTES: usize = 1_000_000;
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    disk.hold_syncs(LOG_FILE);
    let mut waiting = Vec::new();
    let mut index = 0;
    loop {
        let (flushed, on_flush) = TypeConfig::oneshot();
        let mut append = Box::pin(store.log.append([entry(index, ENTRY_BYTES)], IOFlushed::signal(flushed)));
        if futures::poll!(&mut append).is_pending() {
            break;
        }
        drop(append);
        waiting.push(on_flush);
        index += 1;
        assert!(index < 200, "the queue has no end");
    }
    let queued = waiting.len() * ENTRY_BYTES;
    assert!(queued <= limits::LOG_QUEUE_MAX_BYTES + 2 * ENTRY_BYTES, "{queued} bytes wait for the disk");
    assert!(disk.wait_for_held_sync());
    assert_eq!(store.progress.flushed(), None);
    assert!(waiting.iter_mut().all(|on_flush| on_flush.try_recv().is_err()), "nobody is answered");

    let count = waiting.len() as u64;
    disk.release_syncs();
    for on_flush in waiting {
        on_flush.await.unwrap().unwrap();
    }
    // The append that had to wait was given up with its future, so the log ends before it.
    assert_eq!(store.progress.flushed(), Some(count - 1));
}

// A worker for each task, so that the clock goes on while all of them wait for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 10)]
async fn hanging_sync_in_which_the_file_grows_holds_up_no_append() {
    const READS: usize = 8;
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    store.log.blocking_append((0..20).map(|index| entry(index, 100))).await.unwrap();
    drop(store);
    // Nothing is in memory after a start, so a read goes to the disk.
    let mut store = Store::open(&disk).unwrap();
    disk.hold_syncs(LOG_FILE);
    store.log.append((20..24).map(|index| entry(index, 900_000)), IOFlushed::noop()).await.unwrap();
    assert!(disk.wait_for_held_sync());
    let reads: Vec<_> = (0..READS)
        .map(|_| {
            let mut reader = store.log.reader();
            tokio::spawn(async move { reader.try_get_log_entries(0..10).await })
        })
        .collect();
    let append = tokio::spawn(async move {
        for index in 24..200 {
            tokio::task::yield_now().await;
            store.log.append([entry(index, 0)], IOFlushed::noop()).await.unwrap();
        }
        store
    });
    let appended = tokio::time::timeout(Duration::from_secs(10), append).await;
    disk.release_syncs();
    appended.expect("an append does not wait for the disk").unwrap();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap().len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_sync_in_which_the_state_grows_is_seen_by_who_would_read() {
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    let reader = store.state.reader();
    store.log.blocking_append((0..24).map(|index| entry(index, 900_000))).await.unwrap();
    assert!(!reader.waits_for_disk());
    disk.hold_syncs(STATE_FILE);
    let applied =
        tokio::spawn(async move { apply(&mut store, (0..24).map(|index| entry(index, 900_000))).await });
    assert!(disk.wait_for_held_sync());
    tokio::time::sleep(Duration::from_millis(limits::STATE_WRITE_WAITS_MS)).await;
    assert!(reader.waits_for_disk());
    disk.release_syncs();
    applied.await.unwrap().unwrap();
    assert!(!reader.waits_for_disk());
}

/// Appends and applies, with a checkpoint now and then, until something fails or all is done. Returns how
/// many entries were acknowledged, and the failure.
async fn fill(store: &mut Store, from: u64, to: u64) -> (u64, Option<String>) {
    for index in from..to {
        if let Err(error) = store.log.blocking_append([entry(index, 6_000)]).await {
            return (index, Some(error.to_string()));
        }
        let applied = apply(store, [entry(index, 6_000)]).await.map_err(|error| error.to_string());
        let checkpoint = || store.state.reader().checkpoint().map_err(|error| error.to_string());
        let checkpointed = if index % 4 == 3 { checkpoint().map(drop) } else { Ok(()) };
        if let Err(error) = applied.and(checkpointed) {
            return (index + 1, Some(error));
        }
    }
    (to, None)
}

/// What was acknowledged is there, and the store goes on.
async fn goes_on(disk: &SimulatedDisk, acknowledged: u64) {
    let mut store = Store::open(disk).unwrap();
    let len = log_len(&store).await;
    assert!(len >= acknowledged, "{acknowledged} entries were acknowledged, and {len} are there");
    let applied = store.state.reader().applied_index().map_or(0, |index| index + 1);
    assert!(applied <= len, "{applied} entries are applied, past the log of {len}");
    apply(&mut store, (applied..len).map(|index| entry(index, 6_000))).await.unwrap();
    assert_eq!(fill(&mut store, len, len + 4).await, (len + 4, None));
}

#[tokio::test]
async fn full_disk_is_an_error_at_any_point_and_loses_nothing_that_was_acknowledged() {
    const BLOCK_BYTES: u64 = 4096;
    let (mut failures, mut told) = (0, 0);
    let empty = disk();
    drop(Store::open(&empty).unwrap());
    let begins = empty.allocated_bytes();
    for blocks in (0..120).step_by(3) {
        let disk = disk();
        let mut store = Store::open(&disk).unwrap();
        disk.set_capacity(Some(begins + blocks * BLOCK_BYTES));
        let (acknowledged, failure) = fill(&mut store, 0, 16).await;
        if let Some(error) = failure {
            failures += 1;
            assert!(error.contains("storage") || error.contains("space"), "{error}");
            assert!(!error.contains("damaged"), "{error}");
        }
        let state = store.state.on_disk().unwrap();
        if let Some(last_line) = state.alarm().get() {
            told += 1;
            assert!(!last_line.is_damage(), "{last_line}");
            assert!(last_line.to_string().contains("cannot be read or written"), "{last_line}");
            assert!(last_line.to_string().contains("no storage space"), "{last_line}");
            if let Err(again) = state.checkpoint() {
                assert!(again.to_string().contains("no storage space"), "the cause is kept: {again}");
            }
        }
        drop(state);
        drop(store);
        if blocks % 2 == 0 {
            disk.cut_power();
            disk.restore_power();
        }
        disk.set_capacity(None);
        goes_on(&disk, acknowledged).await;
    }
    assert!((10..40).contains(&failures), "{failures} of 40 disks were full");
    assert!(told > 0, "the state never met one of them");
}

#[tokio::test]
async fn failure_anywhere_in_a_copy_of_the_state_leaves_a_store_that_goes_on_or_ends_with_the_cause() {
    let (mut given_up, mut not_durable) = (0, 0);
    for n in 1.. {
        let disk = disk();
        let mut store = Store::open(&disk).unwrap();
        let mut acknowledged = fill(&mut store, 0, 6).await.0;
        disk.fail_at(n);
        let shrunk = store.state.reader().shrink();
        let came = !disk.is_fault_due();
        disk.clear_due_fault();
        let state = store.state.on_disk().unwrap();
        let told = state.alarm().get().cloned();
        match (&shrunk, told) {
            (Ok(_), None) => {}
            (Err(ShrinkError::NotDurable(_)), Some(told)) if !told.is_damage() => {
                not_durable += 1;
                assert!(told.to_string().contains("input/output error"), "{told}");
                let (appended, failure) = fill(&mut store, 6, 12).await;
                assert!(failure.is_some(), "a checkpoint is made of what a power cut may take back");
                acknowledged = appended;
            }
            (Err(_), Some(told)) => {
                assert!(!told.is_damage() && told.to_string().contains("state.redb cannot be"), "{told}");
            }
            (Err(_), None) => {
                given_up += 1;
                assert_eq!(fill(&mut store, 6, 12).await, (12, None), "operation {n}: {shrunk:?}");
                acknowledged = 12;
            }
            (Ok(_), Some(told)) => panic!("operation {n}: {told}"),
        }
        drop(state);
        disk.cut_power();
        drop(store);
        disk.restore_power();
        goes_on(&disk, acknowledged).await;
        if !came {
            assert!(given_up > 5 && not_durable == 1, "{given_up} were given up, {not_durable} not durable");
            return;
        }
    }
}

#[tokio::test]
async fn full_disk_at_the_first_start_is_an_error_and_the_next_start_works() {
    for blocks in 0..200 {
        let disk = disk();
        disk.set_capacity(Some(blocks * 4096));
        let Err(error) = Store::open(&disk) else {
            assert!(blocks > 10, "a store needs some space");
            return;
        };
        assert!(error.contains(".redb"), "{error}");
        disk.set_capacity(None);
        goes_on(&disk, 0).await;
    }
    panic!("a store does not fit into 800 KiB");
}

#[tokio::test]
async fn one_failed_operation_anywhere_loses_nothing_that_was_acknowledged() {
    for n in 1.. {
        let disk = disk();
        let mut store = Store::open(&disk).unwrap();
        disk.fail_at(n);
        let (acknowledged, failure) = fill(&mut store, 0, 6).await;
        let came = !disk.is_fault_due();
        assert!(came || failure.is_none(), "{failure:?}");
        drop(store);
        disk.cut_power();
        disk.restore_power();
        goes_on(&disk, acknowledged).await;
        if !came {
            assert!(n > 30, "only {n} operations were failed");
            return;
        }
    }
}

/// The rename is seen by the next process although its sync failed, and that process goes on from it.
#[tokio::test]
async fn state_that_the_next_process_finds_outlives_a_power_cut_though_its_install_failed() {
    let (meta, bytes) = snapshot_of(10).await;
    let mut found_after_failure = 0;
    for n in 1.. {
        let disk = disk();
        let mut store = Store::open(&disk).unwrap();
        disk.fail_at(n);
        let failure = install(&mut store, &meta, &bytes).await.err();
        let came = !disk.is_fault_due();
        disk.clear_due_fault();
        disk.kill_process();
        drop(store);

        disk.restore_power();
        let store = Store::open(&disk).unwrap();
        let (found, durable) = (store.state.reader().applied_index(), store.progress.durable());
        assert_eq!(found, durable, "what is found counts as being on disk");
        found_after_failure += u32::from(failure.is_some() && found.is_some());
        disk.cut_power();
        drop(store);
        disk.restore_power();
        let store = Store::open(&disk).unwrap();
        assert!(store.state.reader().applied_index() >= durable, "operation {n} failed: {failure:?}");
        if !came {
            assert!(found_after_failure > 0, "no failure came behind a rename");
            return;
        }
    }
}

async fn snapshot_of(entries: u64) -> (SnapshotMeta, Vec<u8>) {
    let mut store = Store::open(&disk()).unwrap();
    let all: Vec<Entry> = (0..entries).map(|index| entry(index, 0)).collect();
    store.log.blocking_append(all.clone()).await.unwrap();
    apply(&mut store, all).await.unwrap();
    let built = store.state.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut bytes = Vec::new();
    built.snapshot.reader().read_to_end(&mut bytes).unwrap();
    (built.meta, bytes)
}

async fn install(store: &mut Store, meta: &SnapshotMeta, bytes: &[u8]) -> std::io::Result<()> {
    let mut incoming = store.state.inbox().begin()?;
    incoming.write(bytes::Bytes::copy_from_slice(bytes)).await?;
    let data = incoming.finish().await?;
    store.state.install_snapshot(meta, data).await
}

#[tokio::test]
async fn death_at_any_operation_of_a_commit_leaves_the_last_one() {
    for n in 1.. {
        let disk = disk();
        let mut store = Store::open(&disk).unwrap();
        let before = fill(&mut store, 0, 5).await.0;
        disk.cut_power_at(n);
        let (acknowledged, _) = fill(&mut store, before, before + 3).await;
        let came = !disk.is_on();
        drop(store);
        disk.cut_power();
        disk.restore_power();
        goes_on(&disk, acknowledged).await;
        if !came {
            assert!(n > 10, "only {n} operations were cut");
            return;
        }
    }
}

#[tokio::test]
async fn files_of_a_running_store_are_locked() {
    let disk = disk();
    let store = Store::open(&disk).unwrap();
    assert!(Store::open(&disk).err().unwrap().contains("another process"));
    drop(store);
    Store::open(&disk).unwrap();
}

#[tokio::test]
async fn killed_process_loses_nothing_that_was_written() {
    let disk = disk();
    let mut store = Store::open(&disk).unwrap();
    let acknowledged = fill(&mut store, 0, 9).await.0;
    disk.kill_process();
    drop(store);
    goes_on(&disk, acknowledged).await;
}

#[test]
fn metadata_survives_a_power_cut_at_any_operation() {
    use crate::kv::types::{ClusterId, PublicKey};
    use crate::storage::metadata::Metadata;
    let key = PublicKey([7; 32]);
    let cluster = ClusterId::random();
    for n in 1.. {
        let disk = disk();
        disk.cut_power_at(n);
        let made = Metadata::open_on(&*disk.mount(), &dir(), Some(NodeId(3)), key);
        let incarnation = made.as_ref().ok().map(Metadata::incarnation);
        let adopted = made.is_ok_and(|metadata| metadata.adopt_cluster_id(cluster).is_ok());
        let came = !disk.is_on();
        disk.cut_power();
        disk.restore_power();
        let metadata = Metadata::open_on(&*disk.mount(), &dir(), Some(NodeId(3)), key).unwrap();
        assert!(incarnation.is_none_or(|made| metadata.incarnation() == made), "it was drawn anew");
        assert!(metadata.cluster_id().is_none_or(|id| id == cluster));
        assert!(metadata.cluster_id().is_some() || !adopted, "the cluster was forgotten");
        if !came {
            return;
        }
    }
}
