//! What each step does to the store, also where it comes twice, late, or not at all.

use uuid::Uuid;

use super::*;
use crate::kv::types::{
    BackupOrigin, Command, KeyRange, NodeId, ReadRequest, SessionId, SessionTag, WriteOp,
};
use crate::storage::apply::tests::{apply, key, put};
use crate::storage::backup::{self, BackupDecoder, Decoded};
use crate::storage::head::Head;
use crate::storage::read;
use crate::storage::tables::{MemTables, ReadTables, dump};

const GAP: u64 = limits::RESTORE_REVISION_GAP;

fn id(number: u128) -> RestoreId {
    RestoreId(Uuid::from_u128(number))
}

/// A store that holds these keys, each written twice.
fn store(pairs: &[(&str, &str)]) -> MemTables {
    let mut tables = MemTables::default();
    for (key, value) in pairs {
        apply(&mut tables, &put(key, "before")).unwrap();
        apply(&mut tables, &put(key, value)).unwrap();
    }
    tables
}

/// The steps that restore a backup of a store.
fn steps(of: &MemTables, id: RestoreId, replace: bool) -> Vec<RestoreStep> {
    let origin = BackupOrigin { cluster_id: None, node_id: NodeId(1), created_ms: 0 };
    let (mut bytes, mut decoder, mut steps) = (Vec::new(), BackupDecoder::default(), Vec::new());
    backup::write(of, origin, &mut bytes).unwrap();
    decoder.feed(&bytes);
    while let Some(part) = decoder.next_part().unwrap() {
        steps.push(match part {
            Decoded::Header(header) => RestoreStep::Begin { id, revision: header.revision, replace },
            Decoded::Chunk { number, checksum, rows, .. } => {
                RestoreStep::Chunk { id, number, checksum, rows }
            }
            Decoded::End(totals) => RestoreStep::Commit { id, totals },
        });
    }
    steps
}

fn step(tables: &mut MemTables, step: &RestoreStep) -> Result<WriteReply, KvError> {
    apply(tables, &Command::new(WriteOp::Restore(step.clone())))
}

fn pairs(tables: &impl ReadTables) -> Vec<(String, String)> {
    let everything = ReadRequest::range(KeyRange::Prefix(bytes::Bytes::new()));
    let (_, range) = read::read(tables, &everything).unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    range.kvs.iter().map(|kv| (text(kv.key.as_bytes()), text(kv.value.as_bytes()))).collect()
}

fn revisions(tables: &MemTables) -> (u64, u64) {
    let revisions = Head::load(tables).unwrap().revisions;
    (revisions.current.0, revisions.compacted.0)
}

#[test]
fn restored_keys_are_changed_at_one_revision_above_all_that_was_seen() {
    let backup = store(&[("a", "1"), ("c", "3")]);
    let mut tables = store(&[("a", "old"), ("b", "old")]);
    let [begin, chunk, commit] = &steps(&backup, id(1), true)[..] else { panic!("one chunk") };
    step(&mut tables, begin).unwrap();
    step(&mut tables, chunk).unwrap();
    assert_eq!(pairs(&tables)[0].1, "old", "until the commit all is as it was");
    apply(&mut tables, &put("b", "meanwhile")).unwrap();
    let reply = step(&mut tables, commit).unwrap();
    assert_eq!((reply.revision, reply.replayed), (Revision(4 + GAP), false));
    assert_eq!(revisions(&tables), (4 + GAP, 4 + GAP));

    let read = ReadRequest::get(key("c"));
    let (_, range) = read::read(&tables, &read).unwrap().unwrap();
    let kv = &range.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(3), Revision(4 + GAP), 2));
    assert_eq!(pairs(&tables), [("a".into(), "1".into()), ("c".into(), "3".into())]);
    let older = ReadRequest { revision: Some(Revision(5)), ..ReadRequest::get(key("b")) };
    let error = read::read(&tables, &older).unwrap().unwrap_err();
    assert!(matches!(error, KvError::Compacted { .. }), "{error}");
    for table in [Table::History, Table::Tombstones, Table::Staging] {
        assert_eq!(tables.count(table).unwrap(), 0, "{table}");
    }
    let next = apply(&mut tables, &put("c", "4")).unwrap();
    assert_eq!(next.revision, Revision(5 + GAP));
    let before = ReadRequest { revision: Some(Revision(4 + GAP)), ..read };
    let (_, range) = read::read(&tables, &before).unwrap().unwrap();
    assert_eq!(range.kvs[0].value.as_bytes(), b"3", "the write can be undone");
}

#[test]
fn revision_moves_beyond_the_backups_where_that_is_the_newer_one() {
    let backup = store(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut tables = MemTables::default();
    for each in steps(&backup, id(1), false) {
        step(&mut tables, &each).unwrap();
    }
    assert_eq!(revisions(&tables), (6 + GAP, 6 + GAP));
}

#[test]
fn steps_that_come_again_change_nothing() {
    let backup = store(&[("a", "1"), ("b", "2")]);
    let mut tables = MemTables::default();
    let all = steps(&backup, id(1), false);
    for count in 1..=all.len() {
        step(&mut tables, &all[count - 1]).unwrap();
        let stands = dump(&tables);
        let restored = Head::load(&tables).unwrap().revisions.current;
        for late in &all[..count] {
            match step(&mut tables, late) {
                Ok(reply) => assert!(reply.replayed && reply.revision == restored, "{reply:?}"),
                Err(error) => assert!(matches!(error, KvError::NoSuchRestore { .. }), "{error}"),
            }
            assert_eq!(dump(&tables), stands, "{late:?} after {count} steps");
        }
    }
    apply(&mut tables, &put("a", "newer")).unwrap();
    let replayed = step(&mut tables, all.last().unwrap()).unwrap();
    assert_eq!((replayed.revision, replayed.replayed), (Revision(4 + GAP), true));
    assert_eq!(pairs(&tables)[0].1, "newer");
}

#[test]
fn keys_are_replaced_only_where_the_restore_may() {
    let backup = store(&[("a", "1")]);
    let mut tables = store(&[("z", "mine")]);
    let stands = dump(&tables);
    let all = steps(&backup, id(1), false);
    let error = step(&mut tables, &all[0]).unwrap_err();
    assert_eq!(error, KvError::NotEmpty { keys: 1, revision: Revision(2) });
    assert_eq!(dump(&tables), stands);

    let mut tables = MemTables::default();
    step(&mut tables, &all[0]).unwrap();
    step(&mut tables, &all[1]).unwrap();
    apply(&mut tables, &put("z", "came meanwhile")).unwrap();
    let error = step(&mut tables, &all[2]).unwrap_err();
    assert_eq!(error, KvError::NotEmpty { keys: 1, revision: Revision(1) });
    assert_eq!(pairs(&tables), [("z".into(), "came meanwhile".into())]);
}

#[test]
fn another_restore_or_an_abort_throws_away_what_was_staged() {
    let backup = store(&[("a", "1")]);
    let mut tables = store(&[("z", "mine")]);
    let (first, second) = (steps(&backup, id(1), true), steps(&backup, id(2), true));
    step(&mut tables, &first[0]).unwrap();
    step(&mut tables, &first[1]).unwrap();
    step(&mut tables, &second[0]).unwrap();
    assert_eq!(tables.count(Table::Staging).unwrap(), 0);
    for late in &first[1..] {
        assert_eq!(step(&mut tables, late).unwrap_err(), KvError::NoSuchRestore { id: id(1) });
    }
    step(&mut tables, &second[1]).unwrap();
    assert!(step(&mut tables, &RestoreStep::Abort { id: Some(id(1)) }).unwrap().replayed, "not its own");
    assert_eq!(tables.count(Table::Staging).unwrap(), 1);
    let stands = dump(&store(&[("z", "mine")]));
    for abort in [Some(id(2)), None] {
        step(&mut tables, &RestoreStep::Abort { id: abort }).unwrap();
        assert_eq!(dump(&tables), stands, "nothing is left of it");
        step(&mut tables, &second[0]).unwrap();
    }
}

#[test]
fn chunks_out_of_order_altered_or_missing_are_refused_and_nothing_is_staged() {
    let large = "v".repeat(limits::SNAPSHOT_CHUNK_MAX_BYTES);
    let backup = store(&[("a", &large), ("b", &large)]);
    let mut tables = store(&[("z", "mine")]);
    let [begin, first, second, commit] = &steps(&backup, id(1), true)[..] else { panic!("two chunks") };
    step(&mut tables, begin).unwrap();
    let refused = |tables: &mut MemTables, wrong: &RestoreStep| {
        let stands = dump(tables);
        let error = step(tables, wrong).unwrap_err();
        assert!(dump(tables) == stands, "something was changed by {error}");
        error
    };
    let error = refused(&mut tables, second);
    assert_eq!(error, KvError::RestoreOutOfOrder { given: 1, expected: 0 });
    let RestoreStep::Chunk { id, number, checksum, rows } = first.clone() else { panic!("a chunk") };
    let altered = RestoreStep::Chunk { id, number, checksum: checksum ^ 1, rows: rows.clone() };
    assert!(refused(&mut tables, &altered).to_string().contains("fails its checksum"));
    let rows = rows.slice(1..);
    let nonsense = RestoreStep::Chunk { id, number, checksum: crc32c::crc32c(&rows), rows };
    assert_eq!(refused(&mut tables, &nonsense).code(), "bad_restore");
    step(&mut tables, first).unwrap();
    assert!(refused(&mut tables, commit).to_string().contains("1 chunks are staged"));
    step(&mut tables, second).unwrap();
    step(&mut tables, commit).unwrap();
    assert_eq!(pairs(&tables).len(), 2);
}

#[test]
fn chunk_of_a_lower_revision_than_its_keys_is_refused() {
    let backup = store(&[("a", "1")]);
    let mut tables = MemTables::default();
    let all = steps(&backup, id(1), true);
    step(&mut tables, &RestoreStep::Begin { id: id(1), revision: Revision(1), replace: true }).unwrap();
    assert_eq!(step(&mut tables, &all[1]).unwrap_err().code(), "bad_restore");
}

#[test]
fn restores_leave_revisions_and_versions_to_the_writes_that_follow() {
    let begin = |revision| RestoreStep::Begin { id: id(2), revision: Revision(revision), replace: true };
    let mut tables = store(&[("a", "1")]);
    let stands = dump(&tables);
    let last = limits::RESTORE_REVISION_MAX - GAP;
    for revision in [last + 1, u64::MAX - GAP, u64::MAX] {
        assert_eq!(step(&mut tables, &begin(revision)).unwrap_err().code(), "bad_restore");
    }
    assert_eq!(dump(&tables), stands);

    step(&mut tables, &begin(last)).unwrap();
    let totals = BackupTotals { checksum: Totals::default().checksum, ..BackupTotals::default() };
    step(&mut tables, &RestoreStep::Commit { id: id(2), totals }).unwrap();
    let next = apply(&mut tables, &put("a", "2")).unwrap();
    assert_eq!(next.revision, Revision(limits::RESTORE_REVISION_MAX + 1));
    assert!(!steps(&tables, id(3), true).is_empty(), "what was restored can be backed up");
    let another = RestoreStep::Begin { id: id(3), revision: Revision(1), replace: true };
    for again in [another, RestoreStep::MoveOn { id: id(3) }] {
        assert_eq!(step(&mut tables, &again).unwrap_err().code(), "bad_restore");
    }
    assert_eq!(pairs(&tables), [("a".into(), "2".into())]);
}

#[test]
fn store_that_lost_its_newest_writes_keeps_its_keys_and_moves_on() {
    let mut tables = store(&[("a", "1")]);
    apply(&mut tables, &Command::delete(KeyRange::Key(key("a")))).unwrap();
    apply(&mut tables, &put("b", "2")).unwrap();
    let move_on = RestoreStep::MoveOn { id: id(1) };
    assert_eq!(step(&mut tables, &move_on).unwrap().revision, Revision(4 + GAP));
    assert_eq!(revisions(&tables), (4 + GAP, 4 + GAP));
    let stands = dump(&tables);
    assert!(step(&mut tables, &move_on).unwrap().replayed);
    assert_eq!(dump(&tables), stands);
    assert_eq!(pairs(&tables), [("b".into(), "2".into())]);
    apply(&mut tables, &put("a", "3")).unwrap();
    apply(&mut tables, &put("b", "3")).unwrap();
    let before = ReadRequest { revision: Some(Revision(4 + GAP)), ..ReadRequest::get(key("b")) };
    let (_, range) = read::read(&tables, &before).unwrap().unwrap();
    assert_eq!((range.kvs[0].value.as_bytes(), range.kvs[0].mod_revision), (&b"2"[..], Revision(4)));
}

#[test]
fn retries_from_before_the_restore_are_never_applied_to_the_restored_keys() {
    let tag = |number, since| SessionTag {
        id: SessionId(Uuid::from_u128(number)),
        sequence: 1,
        since: Revision(since),
    };
    let write = |number, since| Command { session: Some(tag(number, since)), ..put("a", "retried") };
    let backup = store(&[("a", "1")]);
    let mut tables = MemTables::default();
    apply(&mut tables, &write(1, 0)).unwrap();
    for each in steps(&backup, id(1), true) {
        step(&mut tables, &each).unwrap();
    }
    assert!(apply(&mut tables, &write(1, 0)).unwrap().replayed, "this store knows the session");
    // A client of the backup's cluster, which has seen revisions that were written after the backup.
    let error = apply(&mut tables, &write(2, 900)).unwrap_err();
    assert_eq!(error, KvError::SessionExpired { forgotten: Revision(2 + GAP) });
    assert_eq!(pairs(&tables), [("a".into(), "1".into())]);
    apply(&mut tables, &write(3, 2 + GAP)).unwrap();
    assert_eq!(pairs(&tables)[0].1, "retried", "a new session writes");
}
