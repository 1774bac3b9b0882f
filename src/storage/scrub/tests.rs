//! Damage that comes while a store is open: found by the scrub, refused by reads, told to who waits.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};

use super::*;
use crate::kv::types::{Key, ReadRequest};
use crate::storage::checked_file::BLOCK_BYTES;
use crate::storage::damage::Place;
use crate::storage::space::Room;
use crate::storage::verify::tests::store::{Closed, Open, Store, run};

mod unchecked;

fn scrubber(open: &Open) -> Scrubber {
    Scrubber::new(&open.log, &open.state).unwrap()
}

/// Runs a pass to its end.
fn pass(scrubber: &Scrubber) -> Result<Tally, Damage> {
    let mut pass = scrubber.begin();
    while scrubber.step(&mut pass)?.is_some() {}
    Ok(pass.tally())
}

/// Flips a bit in each block of a file but the header that holds anything: some of them are in use.
fn flip_everywhere(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    for (number, block) in fs::read(path).unwrap().chunks(BLOCK_BYTES).enumerate().skip(1) {
        if let Some(at) = block.iter().position(|byte| *byte != 0) {
            file.write_all_at(&[block[at] ^ 2], (number * BLOCK_BYTES + at) as u64).unwrap();
        }
    }
}

#[test]
fn a_pass_over_a_whole_store_looks_at_everything_and_finds_nothing() {
    let store = Store::written(Closed::ByACrash);
    let mut open = Open::at(store.dir()).unwrap();
    let scrubber = scrubber(&open);
    let tally = pass(&scrubber).unwrap();
    // 39 entries, ten keys with their history, sessions, facts, and the snapshot's one chunk.
    assert!(tally.records > 39 + 10 + 30, "{tally:?}");
    assert!(tally.blocks > 20 && tally.snapshots_damaged == 0, "{tally:?}");
    run(open.write(60..200));
    assert!(pass(&scrubber).unwrap().records > tally.records + 140);
    assert!(scrubber.damage().now_or_never().is_none());
}

#[test]
fn a_block_that_changes_on_disk_is_found_although_the_cache_is_right() {
    for file in ["raft.redb", "state.redb"] {
        let store = Store::written(Closed::Cleanly);
        let open = Open::with_cache(store.dir(), 64 << 20).unwrap();
        let scrubber = scrubber(&open);
        pass(&scrubber).unwrap();
        flip_everywhere(&store.dir().join(file));
        let damage = pass(&scrubber).unwrap_err();
        assert!(damage.file.ends_with(file), "{damage}");
        assert!(matches!(damage.place, Place::Offset(at) if at > 0), "{damage}");
        assert_eq!(scrubber.damage().now_or_never(), Some(damage));
    }
}

#[test]
fn a_read_that_meets_a_changed_block_is_an_error_and_raises_the_alarm() {
    let store = Store::written(Closed::Cleanly);
    let open = Open::with_cache(store.dir(), 0).unwrap();
    let scrubber = scrubber(&open);
    let request = ReadRequest::get(Key::new("key-3").unwrap());
    assert_eq!(open.state.reader().read(&request).unwrap().1.kvs.len(), 1);
    flip_everywhere(&store.dir().join("state.redb"));
    let error = open.state.reader().read(&request).unwrap_err().to_string();
    assert!(error.contains("state.redb, offset"), "{error}");
    let damage = scrubber.damage().now_or_never().unwrap();
    assert!(damage.file.ends_with("state.redb"), "{damage}");
}

#[test]
fn a_log_entry_that_meets_a_changed_block_is_an_error_and_raises_the_alarm() {
    let store = Store::written(Closed::Cleanly);
    let mut open = Open::with_cache(store.dir(), 0).unwrap();
    let scrubber = scrubber(&open);
    flip_everywhere(&store.dir().join("raft.redb"));
    let error = run(async { open.log.get_log_reader().await.try_get_log_entries(30..40).await }).unwrap_err();
    assert!(error.to_string().contains("raft.redb, offset"), "{error}");
    assert!(scrubber.damage().now_or_never().unwrap().file.ends_with("raft.redb"));
}

#[test]
fn a_record_that_is_wrong_in_a_page_that_is_right_is_found_by_its_key() {
    let store = Store::written(Closed::Cleanly);
    store.flip_record_of_state(b"key-3");
    let open = Open::at(store.dir()).unwrap();
    let damage = pass(&scrubber(&open)).unwrap_err();
    assert_eq!(damage.place, Place::row(Table::Data, b"key-3"), "{damage}");
}

#[test]
fn a_damaged_snapshot_is_made_anew_and_the_node_runs_on() {
    let store = Store::written(Closed::Cleanly);
    let mut open = Open::at(store.dir()).unwrap();
    let scrubber = scrubber(&open);
    let damaged = store.snapshot();
    store.flip(&damaged, fs::metadata(&damaged).unwrap().len() / 2);
    assert_eq!(pass(&scrubber).unwrap().snapshots_damaged, 1);
    assert!(!damaged.exists(), "the state has moved on since");
    assert_eq!(pass(&scrubber).unwrap().snapshots_damaged, 0);
    let current = run(open.state.get_current_snapshot()).unwrap().unwrap();
    assert_eq!(current.meta.last_log_id.map(|last| last.index), open.state.reader().applied_index());
    assert!(scrubber.damage().now_or_never().is_none());
}

/// Raft takes a snapshot that is not there, once the log is purged, for a failed disk, and ends.
#[test]
fn a_damaged_snapshot_stays_the_current_one_until_there_is_room_for_another() {
    let store = Store::written(Closed::Cleanly);
    let open = Open::at(store.dir()).unwrap();
    let free = Arc::new(AtomicU64::new(0));
    let asked = free.clone();
    let probe = move || Ok(Room { total_bytes: 1 << 30, free_bytes: asked.load(Ordering::Relaxed) });
    let space = Space::watch(Box::new(probe), None, Arc::default()).unwrap();
    let mut state = open.state.within(Arc::new(space));
    let scrubber = Scrubber::new(&open.log, &state).unwrap();
    let damaged = store.snapshot();
    store.flip(&damaged, fs::metadata(&damaged).unwrap().len() / 2);
    let mut current = || run(state.get_current_snapshot()).unwrap().unwrap().meta;
    let before = current();
    assert_eq!(pass(&scrubber).unwrap().snapshots_damaged, 1);
    assert!(damaged.exists() && current() == before);

    free.store(1 << 29, Ordering::Relaxed);
    assert_eq!(pass(&scrubber).unwrap().snapshots_damaged, 1);
    assert!(!damaged.exists() && current() != before);
    assert_eq!(pass(&scrubber).unwrap().snapshots_damaged, 0);
}

#[test]
fn a_snapshot_that_is_to_be_sent_is_made_anew_if_it_is_damaged() {
    let store = Store::written(Closed::Cleanly);
    let mut open = Open::at(store.dir()).unwrap();
    let damaged = run(open.state.get_current_snapshot()).unwrap().unwrap();
    run(open.state.reader().check_snapshot(&damaged)).unwrap();
    store.flip(&store.snapshot(), fs::metadata(store.snapshot()).unwrap().len() / 2);
    let error = run(open.state.reader().check_snapshot(&damaged)).unwrap_err().to_string();
    assert!(error.contains("snapshot"), "{error}");
    let current = run(open.state.get_current_snapshot()).unwrap().unwrap();
    run(open.state.reader().check_snapshot(&current)).unwrap();
}

#[test]
fn a_pass_beside_writes_finds_nothing() {
    let store = Store::written(Closed::Cleanly);
    let mut open = Open::with_cache(store.dir(), 0).unwrap();
    let scrubber = scrubber(&open);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for from in (60..600).step_by(20) {
                run(open.write(from..from + 20));
            }
        });
        while !writer.is_finished() {
            pass(&scrubber).unwrap();
        }
    });
    assert!(scrubber.damage().now_or_never().is_none());
}
