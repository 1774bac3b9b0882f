//! Snapshots on disks that have no room for them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
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
