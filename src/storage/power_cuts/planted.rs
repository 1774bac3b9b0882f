//! Bugs that are there on purpose: each must be found, or the checks prove nothing.

use super::{
    Append, Apply, Build, Checkpoint, Commit, Install, Lag, Mix, Planted, Purge, Truncate, Vote, run,
};

/// Seeds within which a bug must be found.
const SEEDS_MAX: u64 = 30;

const EVERYTHING: Mix = &[
    (Append, 6),
    (Lag, 4),
    (Commit, 5),
    (Apply, 5),
    (Checkpoint, 3),
    (Purge, 3),
    (Install, 2),
    (Build, 1),
    (Truncate, 1),
    (Vote, 1),
];

/// Says what the checks found, and under which seed.
fn found(planted: Planted) -> String {
    let found =
        (0..SEEDS_MAX).find_map(|seed| run(seed, EVERYTHING, Some(planted)).err().map(|what| (seed, what)));
    let (seed, sentence) = found.unwrap_or_else(|| panic!("{SEEDS_MAX} seeds did not find {planted:?}"));
    println!("{planted:?}, seed {seed}: {sentence}");
    sentence
}

#[test]
fn disk_that_does_not_sync_files_is_found() {
    found(Planted::FilesAreNotSynced);
}

#[test]
fn disk_that_does_not_sync_names_is_found() {
    found(Planted::NamesAreNotSynced);
}

#[test]
fn acknowledgement_before_the_sync_is_found() {
    assert!(found(Planted::AcknowledgedBeforeTheSync).contains("were acknowledged"));
}

#[test]
fn checkpoint_past_the_log_is_found() {
    assert!(found(Planted::CheckpointPastTheLog).contains("past the log"));
}

#[test]
fn purge_past_the_state_is_found() {
    assert!(found(Planted::PurgePastTheState).contains("the log begins after"));
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 0..SEEDS_MAX {
        run(seed, EVERYTHING, None).unwrap();
    }
}

#[test]
fn same_seed_gives_the_same_life() {
    for seed in 0..5 {
        assert_eq!(run(seed, EVERYTHING, None).unwrap(), run(seed, EVERYTHING, None).unwrap());
    }
}
