//! Snapshots on disks that have no room for them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::limits;
use crate::storage::disk::SimulatedDisk;
use crate::storage::space::Room;

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn snapshot_is_put_off_until_it_fits_beside_the_last_reserve() {
    let (disk, free) = (Disk::new(), Arc::new(AtomicU64::new(0)));
    let asked = free.clone();
    let probe = move || Ok(Room { total_bytes: 64 * MIB, free_bytes: asked.load(Ordering::Relaxed) });
    let space = Arc::new(Space::watch(Box::new(probe), None, Arc::default()).unwrap());
    let mut state = disk.open().within(space);
    let large = "x".repeat(500_000);
    let entries = (0..8).map(|index| entry(index, &put(&format!("k{index}"), &large))).collect();
    apply(&mut state, entries).await;

    // The last reserve is 4 MiB, and so is the state, about.
    for (free_bytes, is_made) in [(0, false), (4 * MIB, false), (5 * MIB, false), (16 * MIB, true)] {
        free.store(free_bytes, Ordering::Relaxed);
        let builder = state.try_create_snapshot_builder(false).await;
        assert_eq!(builder.is_some(), is_made, "{free_bytes} bytes free");
    }

    // Once the keys and their history are gone, the file is as long as before, and the snapshot short.
    let delete = Command::delete(KeyRange::Prefix("k".into()));
    let compact = Command::new(WriteOp::Compact { revision: Revision(9) });
    apply(&mut state, vec![entry(8, &delete), entry(9, &compact)]).await;
    let Store::Redb(redb) = &state.store else { panic!("it is on disk") };
    assert!(redb.file_bytes().unwrap() > 4 * MIB && redb.measure_snapshot().unwrap() < MIB);
    free.store(6 * MIB, Ordering::Relaxed);
    assert!(state.try_create_snapshot_builder(false).await.is_some(), "it was measured");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_runs_out_of_room_begins_again_once_there_is_some() {
    let dir = Path::new("/simulated");
    let disk = SimulatedDisk::new(dir, 1);
    let progress = Arc::new(Progress::default());
    progress.set_flushed(Some(u64::MAX - 1));
    let options =
        StorageOptions { checkpoint_interval: Duration::from_secs(3_600), ..StorageOptions::default() };
    let mut state = state_redb::open_on(disk.mount(), dir, options, progress).unwrap();
    let large = "v".repeat(256 * 1024);
    for index in 1..=8 {
        apply(&mut state, vec![entry(index, &put(&format!("k{index}"), &large))]).await;
    }
    let first = snapshot(&mut state).await;

    // The space that is asked before has no end: the room goes while the snapshot is written.
    puts(&mut state, 9, 10).await;
    disk.set_capacity(Some(disk.allocated_bytes() + 1024 * 1024));
    let mut builder = state.get_snapshot_builder().await;
    let building = tokio::spawn(async move { builder.build_snapshot().await });
    tokio::time::sleep(3 * Duration::from_millis(limits::SNAPSHOT_ROOM_CHECK_INTERVAL_MS)).await;
    assert!(!building.is_finished(), "it waits, and fails not");
    assert_eq!(state.get_current_snapshot().await.unwrap().unwrap().meta, first.meta);

    disk.set_capacity(None);
    let second = building.await.unwrap().unwrap();
    assert_eq!(second.meta.last_log_id, Some(log_id(9)));
    assert_eq!(value_of(&state, "k"), Some("9".to_owned()));
}

/// Raft starts with a purged log and no snapshot by having one made, and takes what it gets.
#[tokio::test]
async fn a_start_that_needs_a_snapshot_and_has_no_room_for_it_says_so_and_does_not_wait() {
    let disk = Disk::new();
    let probe = || Ok(Room { total_bytes: 64 * MIB, free_bytes: 0 });
    let space = Arc::new(Space::watch(Box::new(probe), None, Arc::default()).unwrap());
    let mut state = disk.open().within(space);
    puts(&mut state, 0, 10).await;
    let mut builder = state.try_create_snapshot_builder(true).await.expect("Raft asks for no reason");
    let error = builder.build_snapshot().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("of the 0 that are free") && error.to_string().contains("Make room"));
}
