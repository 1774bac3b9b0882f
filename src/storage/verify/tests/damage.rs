//! Bit flips and truncation anywhere in any file.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::store::{Closed, Content, Store};
use super::verify;

/// Bits flipped in each file, however it was closed.
const FLIPS: usize = 200;
/// Lengths to which each file is cut.
const CUTS: usize = 25;

const FILES: [&str; 4] = ["raft.redb", "state.redb", "metadata.redb", "snapshot"];

/// What came of damage.
#[derive(Debug, Default)]
struct Tally {
    /// The store does not open, or a read of it fails.
    refused: usize,
    /// Verify names damage.
    reported: usize,
    /// The store opens and holds the same.
    harmless: usize,
}

/// A store, and what it holds.
struct Template {
    store: Store,
    content: Content,
}

impl Template {
    /// Damages a copy, and holds what a node would get from it against what was written.
    fn try_damage(&self, file: &str, what: &str, tally: &mut Tally, harm: impl FnOnce(&Path)) {
        let store = self.store.copy();
        let path = path_of(&store, file);
        harm(&path);
        let report = catch_unwind(AssertUnwindSafe(|| verify(store.dir())));
        // To be refused as of a newer format is to be noticed as well.
        let is_reported = match report.unwrap_or_else(|_| panic!("{what}: verify panicked")) {
            Ok(report) => {
                let stray = report.damage.iter().find(|damage| damage.file != path);
                assert!(stray.is_none(), "{what}: {stray:?} names another file");
                !report.damage.is_empty()
            }
            Err(_) => true,
        };
        let content = catch_unwind(AssertUnwindSafe(|| store.content()));
        match content.unwrap_or_else(|_| panic!("{what}: opening or reading panicked")) {
            Err(error) => {
                assert!(is_reported, "{what}: verify sees nothing, and the store does not open: {error}");
                tally.refused += 1;
            }
            Ok(mut content) => {
                let is_unused = content.snapshot.is_none() && is_reported;
                if is_unused {
                    // A snapshot that is damaged at its ends is left out.
                    content.snapshot.clone_from(&self.content.snapshot);
                }
                assert!(content == self.content, "{what}: other content is served");
                *(if is_unused { &mut tally.refused } else { &mut tally.harmless }) += 1;
            }
        }
        tally.reported += usize::from(is_reported);
    }
}

fn path_of(store: &Store, file: &str) -> PathBuf {
    if file == "snapshot" { store.snapshot() } else { store.dir().join(file) }
}

/// Places in a file that are in use, more or less: most of a database file is zeros.
fn places(bytes: &[u8], count: usize, rng: &mut StdRng) -> Vec<usize> {
    let used: Vec<usize> = (bytes.chunks(512).enumerate())
        .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
        .map(|(number, _)| number * 512)
        .collect();
    (0..count)
        .map(|_| (used[rng.random_range(0..used.len())] + rng.random_range(0..512)).min(bytes.len() - 1))
        .collect()
}

fn damage_everywhere(closed: Closed) {
    let store = Store::written(closed);
    let template = Template { content: store.content().unwrap(), store };
    for (number, file) in FILES.into_iter().enumerate() {
        let mut rng = StdRng::seed_from_u64(number as u64);
        let bytes = fs::read(path_of(&template.store, file)).unwrap();
        let mut flips = Tally::default();
        for at in places(&bytes, FLIPS, &mut rng) {
            let bit = rng.random_range(0..8_u32);
            let what = format!("{file}, closed {closed:?}, bit {bit} of byte {at}");
            template.try_damage(file, &what, &mut flips, |path| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                fs::write(path, bytes).unwrap();
            });
        }
        let mut cuts = Tally::default();
        for _ in 0..CUTS {
            let length = rng.random_range(0..bytes.len());
            let what = format!("{file}, closed {closed:?}, cut to {length} of {} bytes", bytes.len());
            template.try_damage(file, &what, &mut cuts, |path| fs::write(path, &bytes[..length]).unwrap());
        }
        println!("{file} closed {closed:?}: flips {flips:?}, cuts {cuts:?}");
        assert!(flips.reported > 0, "{file}: {flips:?}");
        assert_eq!(cuts.refused, CUTS, "{file}: {cuts:?}");
    }
}

#[test]
fn damage_of_a_store_that_was_closed_is_noticed_or_harmless() {
    damage_everywhere(Closed::Cleanly);
}

#[test]
fn damage_of_a_store_that_crashed_is_noticed_or_harmless() {
    damage_everywhere(Closed::ByACrash);
}
