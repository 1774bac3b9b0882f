//! Damage of a state that is too large to be checked at the open: what a pass must find instead.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::storage::state_redb::STATE_FILE;
use crate::storage::verify::tests::store::Content;

/// Bits flipped in the state, however it was closed.
const FLIPS: usize = 400;

/// Changes the file of the state.
fn spoil(store: &Store, change: impl FnOnce(&mut [u8])) {
    let path = store.dir().join(STATE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_unchecked_state_that_is_whole_passes() {
    for closed in [Closed::Cleanly, Closed::ByACrash] {
        let store = Store::large(closed);
        let open = Open::unchecked(store.dir()).unwrap();
        pass(&scrubber(&open)).unwrap();
    }
}

/// As if one were hidden without a trace in the order of the others.
#[test]
fn rows_that_are_fewer_than_their_table_says_are_found_and_no_snapshot_is_made() {
    let store = Store::large(Closed::Cleanly);
    let rows = {
        let mut open = Open::at(store.dir()).unwrap();
        let content = run(open.content()).unwrap();
        content.state.iter().filter(|(table, ..)| *table == Table::Data).count() as u64
    };
    spoil(&store, |bytes| {
        // The number of rows, the mark that there is a root, its page and checksum, and the number again.
        const AGAIN: usize = 8 + 1 + 8 + 16;
        let number = rows.to_le_bytes();
        let is_entry = |at: &usize| {
            bytes[*at..].starts_with(&number)
                && bytes[*at + 8] == 1
                && bytes[*at + AGAIN..].starts_with(&number)
        };
        let places: Vec<usize> = (0..bytes.len() - AGAIN - 8).filter(is_entry).collect();
        for at in places.iter().flat_map(|at| [*at, *at + AGAIN]) {
            bytes[at..at + 8].copy_from_slice(&(rows + 1).to_le_bytes());
        }
    });
    let says = format!("table 'data' says that it has {} rows and has {rows}", rows + 1);

    let open = Open::unchecked(store.dir()).unwrap();
    let damage = pass(&scrubber(&open)).unwrap_err();
    assert!(damage.problem.contains(&says), "{damage}");

    let copy = store.copy();
    let open = Open::unchecked(copy.dir()).unwrap();
    let error = open.state.on_disk().unwrap().build_snapshot().unwrap_err();
    assert!(error.to_string().contains(&says), "{error}");
    let damage = scrubber(&open).damage().now_or_never().unwrap();
    assert!(damage.problem.contains(&says), "{damage}");
}

/// What came of a flip.
fn try_flip(template: &Store, whole: &Content, at: usize, bit: u8) -> &'static str {
    let store = template.copy();
    spoil(&store, |bytes| bytes[at] ^= 1 << bit);
    let opened = catch_unwind(AssertUnwindSafe(|| Open::unchecked(store.dir())));
    let Ok(mut open) = opened.unwrap_or_else(|_| panic!("bit {bit} of byte {at}: the open panicked")) else {
        return "found at the open";
    };
    let scrubber = scrubber(&open);
    if pass(&scrubber).is_err() {
        return "found by a pass";
    }
    match catch_unwind(AssertUnwindSafe(|| run(open.content()))) {
        Ok(Ok(content)) => {
            assert!(
                content == *whole,
                "bit {bit} of byte {at}: other content is served, and a pass finds nothing"
            );
            "harmless"
        }
        _ => "found by a read",
    }
}

fn flips_of_an_unchecked_state_are_found_or_harmless(closed: Closed) {
    let store = Store::large(closed);
    let whole = store.content().unwrap();
    let bytes = fs::read(store.dir().join(STATE_FILE)).unwrap();
    let used: Vec<usize> = (0..bytes.len())
        .step_by(512)
        .filter(|at| bytes[*at..][..512].iter().any(|byte| *byte != 0))
        .collect();
    let mut rng = StdRng::seed_from_u64(closed as u64);
    let mut tally = BTreeMap::<&str, usize>::new();
    for _ in 0..FLIPS {
        let at = used[rng.random_range(0..used.len())] + rng.random_range(0..512);
        *tally.entry(try_flip(&store, &whole, at, rng.random_range(0..8))).or_default() += 1;
    }
    println!("closed {closed:?}: {tally:?}");
    assert!(tally.contains_key("found by a pass"), "{tally:?}");
}

#[test]
fn flips_of_an_unchecked_state_that_was_closed_are_found_or_harmless() {
    flips_of_an_unchecked_state_are_found_or_harmless(Closed::Cleanly);
}

#[test]
fn flips_of_an_unchecked_state_that_crashed_are_found_or_harmless() {
    flips_of_an_unchecked_state_are_found_or_harmless(Closed::ByACrash);
}
