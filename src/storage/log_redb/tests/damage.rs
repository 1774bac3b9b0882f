//! Files that are not what was written.

use redb::ReadableTable;

use super::*;
use crate::storage::codec;
use crate::storage::damage::WHAT_TO_DO;
use crate::storage::log_redb::survey::LogSurvey;

async fn filled(dir: &Dir, count: u64) {
    let (mut log, _) = dir.open();
    log.blocking_append(entries(1, 0..count)).await.unwrap();
}

fn refusal(path: &Path) -> String {
    let error = open_at(path, Arc::default()).unwrap_err().to_string();
    assert!(error.contains("raft.redb") && error.ends_with(WHAT_TO_DO), "{error}");
    error
}

/// Changes the tables behind the log's back.
fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

/// Flips a bit in the record of an entry, in a way that the database cannot notice.
fn flip(path: &Path, index: u64) {
    tamper(path, |transaction| {
        let mut log = transaction.open_table(LOG).unwrap();
        let mut record = log.get(index).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 4;
        log.insert(index, record.as_slice()).unwrap();
    });
}

#[tokio::test]
async fn a_flipped_bit_in_the_first_or_last_entry_is_noticed_at_open() {
    for index in [0, 99] {
        let dir = Dir::new();
        filled(&dir, 100).await;
        flip(&dir.path(), index);
        let error = refusal(&dir.path());
        assert!(error.contains(&format!("log entry {index} is damaged")), "{error}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_between_is_noticed_when_it_is_read() {
    let dir = Dir::new();
    filled(&dir, 100).await;
    flip(&dir.path(), 50);
    let (log, _) = dir.open();
    let mut reader = log.reader();
    assert_eq!(reader.try_get_log_entries(0..50).await.unwrap().len(), 50);
    let error = reader.try_get_log_entries(0..60).await.unwrap_err().to_string();
    assert!(error.contains("log entry 50 is damaged") && error.contains("checksum"), "{error}");
    let streamed: Result<Vec<Entry>, _> = reader.entries_stream(..).await.try_collect().await;
    assert!(streamed.is_err());
}

#[tokio::test]
async fn a_hole_a_late_start_and_a_lost_end_are_noticed_at_open() {
    for (removed, expected) in [
        (10..11, "hole: 19 entries"),
        (0..1, "begins at entry 1 and must begin at 0"),
        (15..20, "entry 17 is committed"),
    ] {
        let dir = Dir::new();
        filled(&dir, 20).await;
        let (mut log, _) = dir.open();
        log.save_committed(Some(id(1, 17))).await.unwrap();
        drop(log);
        tamper(&dir.path(), |transaction| {
            transaction.open_table(LOG).unwrap().retain(|index, _| !removed.contains(&index)).unwrap();
        });
        let error = refusal(&dir.path());
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_entry_in_the_wrong_place_and_a_damaged_vote_are_noticed_at_open() {
    let dir = Dir::new();
    filled(&dir, 5).await;
    tamper(&dir.path(), |transaction| {
        let mut log = transaction.open_table(LOG).unwrap();
        let third = log.get(3).unwrap().unwrap().value().to_vec();
        log.insert(4, third.as_slice()).unwrap();
    });
    let error = refusal(&dir.path());
    assert!(error.contains("log entry 4") && error.contains("it holds entry 3"), "{error}");

    let dir = Dir::new();
    filled(&dir, 5).await;
    tamper(&dir.path(), |transaction| {
        transaction.open_table(META).unwrap().insert(VOTE, &b"a vote, honestly"[..]).unwrap();
    });
    let error = refusal(&dir.path());
    assert!(error.contains("vote"), "{error}");
}

#[tokio::test]
async fn a_log_that_a_newer_aspen_wrote_to_is_refused_and_not_called_damaged() {
    let dir = Dir::new();
    filled(&dir, 5).await;
    tamper(&dir.path(), |transaction| {
        let vote = codec::seal_newer(&Vote::new(2, NodeId(1)));
        transaction.open_table(META).unwrap().insert(VOTE, vote.as_slice()).unwrap();
    });
    let error = open_at(&dir.path(), Arc::default()).unwrap_err().to_string();
    assert!(error.contains("raft.redb") && error.contains("written by a newer Aspen"), "{error}");
    assert!(!error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn a_truncated_or_foreign_file_is_refused() {
    let dir = Dir::new();
    filled(&dir, 2_000).await;
    let whole = std::fs::read(dir.path()).unwrap();
    for kept in [0, 1, 100, whole.len() / 4, whole.len() / 2] {
        std::fs::write(dir.path(), &whole[..kept]).unwrap();
        refusal(&dir.path());
    }
    std::fs::write(dir.path(), [42; 8192]).unwrap();
    refusal(&dir.path());

    std::fs::remove_file(dir.path()).unwrap();
    let foreign = Database::create(dir.path()).unwrap();
    let transaction = foreign.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(foreign);
    let error = refusal(&dir.path());
    assert!(error.contains("Table"), "{error}");
}

#[tokio::test]
async fn a_bit_flipped_in_the_file_stops_the_start_or_changes_nothing() {
    let dir = Dir::new();
    filled(&dir, 40).await;
    let whole = std::fs::read(dir.path()).unwrap();
    let (log, _) = dir.open();
    let right = log.reader().try_get_log_entries(..).await.unwrap();
    drop(log);
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for step in 0..60 {
        let at = step * used / 60;
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (step % 8);
        let copy = Dir::new();
        std::fs::write(copy.path(), damaged).unwrap();
        match open_at(&copy.path(), Arc::default()) {
            Ok(log) => {
                let read = log.reader().try_get_log_entries(..).await.unwrap();
                assert_eq!(read, right, "a bit was flipped at {at}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}

/// What a check of the stopped log finds, a line for each.
fn findings(path: &Path) -> String {
    match LogSurvey::of(path) {
        Ok(_) => String::new(),
        Err(damage) => damage.iter().map(|damage| format!("{damage}\n")).collect(),
    }
}

/// A log of twenty entries of term 1, the last of which is committed.
async fn committed() -> Dir {
    let dir = Dir::new();
    let (mut log, _) = dir.open();
    log.save_vote(&Vote::new_committed(1, NodeId(1))).await.unwrap();
    log.blocking_append(entries(1, 0..20)).await.unwrap();
    log.save_committed(Some(id(1, 19))).await.unwrap();
    dir
}

/// Puts an entry into the place of another one.
fn replace(path: &Path, entry: &Entry) {
    tamper(path, |transaction| {
        let record = codec::seal(entry);
        transaction.open_table(LOG).unwrap().insert(entry.log_id.index, record.as_slice()).unwrap();
    });
}

#[tokio::test]
async fn a_check_of_the_stopped_log_finds_every_kind_of_damage() {
    assert_eq!(findings(&committed().await.path()), "");

    let dir = committed().await;
    flip(&dir.path(), 5);
    flip(&dir.path(), 7);
    let found = findings(&dir.path());
    assert_eq!(found.lines().count(), 2, "each damaged entry is named: {found}");
    assert!(found.contains('5') && found.contains('7') && found.contains("checksum"), "{found}");

    for (removed, expected) in [(10..11, "hole"), (15..20, "the log ends before it")] {
        let dir = committed().await;
        tamper(&dir.path(), |transaction| {
            transaction.open_table(LOG).unwrap().retain(|index, _| !removed.contains(&index)).unwrap();
        });
        let found = findings(&dir.path());
        assert!(found.contains(expected), "{found}");
    }

    let dir = committed().await;
    replace(&dir.path(), &entries(0, 10..11)[0]);
    assert!(findings(&dir.path()).contains("does not come after"));

    let dir = committed().await;
    replace(&dir.path(), &entries(2, 19..20)[0]);
    let found = findings(&dir.path());
    assert!(found.contains("is committed, and another entry is there"), "{found}");
    assert!(found.contains("the vote is of term 1"), "{found}");

    let dir = committed().await;
    tamper(&dir.path(), |transaction| {
        transaction.open_table(META).unwrap().insert(VOTE, &b"a vote, honestly"[..]).unwrap();
    });
    assert!(findings(&dir.path()).contains("vote"));
}
