//! What commands do, in memory: the redb backend is compared with this one elsewhere.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::kv::types::{
    BackupTotals, Joiner, MemberOp, NodeId, PublicKey, RangeReply, ReadRequest, RestoreId, RestoreStep,
    Revision, SecretHash, SessionId, SessionTag, TicketId,
};
use crate::storage::backup::BackupRow;
use crate::storage::blocks::Totals;
use crate::storage::tables::{MemTables, ReadTables, dump};

/// Applies one command as a batch of its own.
pub(crate) fn apply(tables: &mut impl WriteTables, command: &Command) -> Result<WriteReply, KvError> {
    let mut applier = Applier::begin(tables).unwrap();
    let reply = applier.apply(command).unwrap();
    applier.finish().unwrap();
    reply
}

pub(crate) fn key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

pub(crate) fn value(value: &str) -> Value {
    Value::new(value.to_owned()).unwrap()
}

pub(crate) fn put_op(k: &str, v: &str) -> TxnOp {
    TxnOp::Put { key: key(k), value: value(v), lease: 0 }
}

pub(crate) fn put(k: &str, v: &str) -> Command {
    Command::ops(vec![put_op(k, v)])
}

fn delete_op(k: &str) -> TxnOp {
    TxnOp::Delete { range: KeyRange::Key(key(k)) }
}

fn prefix(bytes: &'static str) -> KeyRange {
    KeyRange::Prefix(Bytes::from_static(bytes.as_bytes()))
}

fn range_op(range: KeyRange, limit: Option<u64>) -> TxnOp {
    TxnOp::Range { range, limit, keys_only: false }
}

fn compact(tables: &mut MemTables, revision: u64) -> Result<WriteReply, KvError> {
    apply(tables, &Command::new(WriteOp::Compact { revision: Revision(revision) }))
}

fn read_at(tables: &impl ReadTables, range: KeyRange, at: Option<u64>) -> Result<RangeReply, KvError> {
    let request = ReadRequest { revision: at.map(Revision), ..ReadRequest::range(range) };
    read::read(tables, &request).unwrap().map(|(_, reply)| reply)
}

/// Keys and values as text.
fn pairs(reply: &RangeReply) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    reply.kvs.iter().map(|kv| (text(kv.key.as_bytes()), text(kv.value.as_bytes()))).collect()
}

fn rows(tables: &impl ReadTables, table: Table) -> usize {
    dump(tables).iter().filter(|row| row.0 == table).count()
}

#[test]
fn put_counts_versions_and_revisions_and_begins_anew_after_a_delete() {
    let mut tables = MemTables::default();
    apply(&mut tables, &put("a", "1")).unwrap();
    assert_eq!(apply(&mut tables, &put("a", "2")).unwrap().revision, Revision(2));
    let kv = &read_at(&tables, KeyRange::Key(key("a")), None).unwrap().kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(1), Revision(2), 2));

    let reply = apply(&mut tables, &Command::delete(KeyRange::Key(key("a")))).unwrap();
    assert_eq!(reply.results, [OpResult::Delete { deleted: 1, more: false }]);
    apply(&mut tables, &put("a", "3")).unwrap();
    let kv = &read_at(&tables, KeyRange::Key(key("a")), None).unwrap().kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(4), Revision(4), 1));
}

#[test]
fn command_that_changes_nothing_leaves_the_revision() {
    let mut tables = MemTables::default();
    apply(&mut tables, &put("a", "1")).unwrap();
    let reply = apply(&mut tables, &Command::delete(prefix("z"))).unwrap();
    assert_eq!(reply.revision, Revision(1));
    let reply = apply(&mut tables, &Command::ops(vec![range_op(prefix(""), None)])).unwrap();
    assert_eq!(reply.revision, Revision(1));
}

#[test]
fn later_operations_of_a_transaction_see_earlier_ones() {
    let mut tables = MemTables::default();
    let ops = vec![
        put_op("a", "1"),
        put_op("a", "2"),
        range_op(prefix(""), None),
        delete_op("a"),
        range_op(prefix(""), None),
        put_op("b", "3"),
    ];
    let reply = apply(&mut tables, &Command::ops(ops)).unwrap();
    assert_eq!(reply.revision, Revision(1), "all of it is one revision");
    let ranges = reply.results.iter().filter_map(|result| match result {
        OpResult::Range(range) => Some(pairs(range)),
        _ => None,
    });
    let expected: [Vec<(String, String)>; 2] = [vec![("a".into(), "2".into())], vec![]];
    assert_eq!(ranges.collect::<Vec<_>>(), expected);
    assert!(read_at(&tables, prefix(""), Some(0)).unwrap().kvs.is_empty(), "all of it can be undone");
}

#[test]
fn compares_choose_the_branch() {
    let mut tables = MemTables::default();
    apply(&mut tables, &put("a", "m")).unwrap();
    apply(&mut tables, &put("a", "m")).unwrap();
    let mut holds = |k: &str, op, target| {
        let compare = vec![Compare { key: key(k), op, target }];
        let txn = Txn { compare, ..Txn::default() };
        apply(&mut tables, &Command::new(WriteOp::Txn(txn))).unwrap().succeeded
    };
    use CompareOp::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{CreateRevision, ModRevision, Version};
    for (op, target, expected) in [
        (Equal, CompareTarget::Value(value("m")), true),
        (Greater, CompareTarget::Value(value("l")), true),
        (Less, CompareTarget::Value(value("l")), false),
        (NotEqual, CompareTarget::Value(value("m")), false),
        (Equal, Version(2), true),
        (Equal, CreateRevision(Revision(1)), true),
        (Less, ModRevision(Revision(2)), false),
    ] {
        assert_eq!(holds("a", op, target.clone()), expected, "{op:?} {target:?}");
    }
    assert!(holds("absent", Equal, Version(0)));
    assert!(holds("absent", Less, ModRevision(Revision(1))));
    for op in [Equal, Greater, Less] {
        assert!(!holds("absent", op, CompareTarget::Value(value(""))), "{op:?}");
    }
    assert!(holds("absent", NotEqual, CompareTarget::Value(value(""))));
}

#[test]
fn failed_compare_runs_the_other_branch() {
    let mut tables = MemTables::default();
    let compare = vec![Compare { key: key("a"), op: CompareOp::Equal, target: CompareTarget::Version(1) }];
    let txn = Txn { compare, success: vec![put_op("won", "")], failure: vec![put_op("lost", "")] };
    let reply = apply(&mut tables, &Command::new(WriteOp::Txn(txn))).unwrap();
    assert!(!reply.succeeded);
    assert_eq!(pairs(&read_at(&tables, prefix(""), None).unwrap()), [("lost".into(), String::new())]);
}

#[test]
fn delete_stops_at_its_limit_and_says_so() {
    let mut tables = MemTables::default();
    let total = limits::DELETE_PREFIX_MAX_KEYS + 5;
    for chunk in (0..total).collect::<Vec<_>>().chunks(limits::TXN_OPS_MAX_COUNT) {
        let ops = chunk.iter().map(|number| put_op(&format!("k{number:06}"), "")).collect();
        apply(&mut tables, &Command::ops(ops)).unwrap();
    }
    let delete = Command::delete(prefix("k"));
    let deleted = limits::DELETE_PREFIX_MAX_KEYS as u64;
    let first = apply(&mut tables, &delete).unwrap();
    assert_eq!(first.results, [OpResult::Delete { deleted, more: true }]);
    let second = apply(&mut tables, &delete).unwrap();
    assert_eq!(second.results, [OpResult::Delete { deleted: 5, more: false }]);
}

#[test]
fn reads_of_a_transaction_share_one_bound() {
    let mut tables = MemTables::default();
    let half = "x".repeat(limits::TXN_READ_MAX_BYTES / 2);
    apply(&mut tables, &put("a", &half)).unwrap();
    apply(&mut tables, &put("b", &half)).unwrap();
    let ops = vec![
        range_op(KeyRange::Key(key("a")), None),
        range_op(prefix(""), Some(1)),
        range_op(prefix("b"), None),
    ];
    let reply = apply(&mut tables, &Command::ops(ops)).unwrap();
    let found: Vec<_> = reply
        .results
        .iter()
        .map(|result| match result {
            OpResult::Range(range) => (range.kvs.len(), range.more),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [(1, false), (0, true), (0, true)]);
}

#[test]
fn read_limit_and_empty_spans() {
    let mut tables = MemTables::default();
    for k in ["a", "b", "c"] {
        apply(&mut tables, &put(k, k)).unwrap();
    }
    let request = ReadRequest { limit: Some(2), ..ReadRequest::range(prefix("")) };
    let (_, reply) = read::read(&tables, &request).unwrap().unwrap();
    assert_eq!((reply.kvs.len(), reply.more), (2, true));
    let span = |start: &'static str, end: &'static str| KeyRange::Span {
        start: Bytes::from_static(start.as_bytes()),
        end: Some(Bytes::from_static(end.as_bytes())),
    };
    assert_eq!(read_at(&tables, span("a", "c"), None).unwrap().kvs.len(), 2);
    assert!(read_at(&tables, span("c", "a"), None).unwrap().kvs.is_empty());
    assert!(read_at(&tables, span("c", "a"), Some(1)).unwrap().kvs.is_empty());
    let reply = apply(&mut tables, &Command::delete(span("c", "a"))).unwrap();
    assert_eq!(reply.results, [OpResult::Delete { deleted: 0, more: false }]);
}

#[test]
fn damaged_value_is_an_error_and_no_answer() {
    let mut tables = MemTables::default();
    apply(&mut tables, &put("a", "1")).unwrap();
    let mut sealed = tables.get(Table::Data, b"a").unwrap().unwrap().to_vec();
    *sealed.last_mut().unwrap() ^= 1;
    tables.put(Table::Data, b"a", &sealed).unwrap();
    let error = read::read(&tables, &ReadRequest::get(key("a"))).unwrap_err().to_string();
    assert!(error.contains("data") && error.contains("checksum"), "{error}");
}

#[test]
fn compaction_runs_in_steps_and_drops_tombstones() {
    let mut tables = MemTables::default();
    let keys = limits::COMPACT_STEP_MAX_RECORDS + 500;
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        let ops = chunk.iter().map(|number| put_op(&format!("k{number:06}"), "1")).collect();
        apply(&mut tables, &Command::ops(ops)).unwrap();
    }
    apply(&mut tables, &put("other", "")).unwrap();
    let before = 16;
    apply(&mut tables, &Command::delete(prefix("k"))).unwrap();
    let deleted_at = before + 1;
    apply(&mut tables, &put("k000000", "again")).unwrap();
    assert_eq!(rows(&tables, Table::Tombstones), keys - 1);

    let mut steps = 0;
    while !compact(&mut tables, deleted_at).unwrap().succeeded {
        steps += 1;
        // Whatever can be read is right; what cannot says so.
        match read_at(&tables, prefix("k"), Some(before)) {
            Ok(reply) => assert_eq!(reply.kvs.len(), keys),
            Err(error) => assert!(matches!(error, KvError::Compacted { .. }), "{error}"),
        }
        assert!(read_at(&tables, prefix("k"), Some(deleted_at)).unwrap().kvs.is_empty());
        assert!(steps < 10, "a compaction comes to its end");
    }
    assert_eq!(steps, 3, "3001 records at 1000 a step");
    assert_eq!(rows(&tables, Table::Tombstones), 0);
    assert_eq!(rows(&tables, Table::History), 1);
    let (requested, compacted) = (Revision(before), Revision(deleted_at));
    let error = read_at(&tables, prefix("k"), Some(before)).unwrap_err();
    assert_eq!(error, KvError::Compacted { requested, compacted });
    assert!(read_at(&tables, prefix("k"), Some(deleted_at)).unwrap().kvs.is_empty());
}

#[test]
fn compaction_back_is_nothing_and_ahead_is_refused() {
    let mut tables = MemTables::default();
    for v in ["1", "2", "3"] {
        apply(&mut tables, &put("a", v)).unwrap();
    }
    assert!(compact(&mut tables, 2).unwrap().succeeded);
    let stands = dump(&tables);
    assert!(compact(&mut tables, 1).unwrap().succeeded);
    assert_eq!(dump(&tables), stands);
    let error = compact(&mut tables, 4).unwrap_err();
    assert_eq!(error, KvError::FutureRevision { requested: Revision(4), current: Revision(3) });
    assert!(matches!(read_at(&tables, prefix(""), Some(4)), Err(KvError::FutureRevision { .. })));
}

fn session(id: u128, sequence: u64, since: u64, command: Command) -> Command {
    let id = SessionId(Uuid::from_u128(id));
    Command { session: Some(SessionTag { id, sequence, since: Revision(since) }), ..command }
}

#[test]
fn retry_in_a_session_gets_the_first_reply_and_changes_nothing() {
    let mut tables = MemTables::default();
    let first = session(1, 1, 0, put("a", "1"));
    let reply = apply(&mut tables, &first).unwrap();
    apply(&mut tables, &put("a", "2")).unwrap();
    let stands = dump(&tables);
    let again = apply(&mut tables, &first).unwrap();
    assert_eq!(again, WriteReply { replayed: true, ..reply });
    assert_eq!(dump(&tables), stands);

    apply(&mut tables, &session(1, 5, 0, put("a", "5"))).unwrap();
    let error = apply(&mut tables, &first).unwrap_err();
    assert_eq!(error, KvError::SequenceTooOld { sequence: 1, last: 5 });
}

#[test]
fn refusal_is_remembered_as_a_reply() {
    let mut tables = MemTables::default();
    let ahead = session(1, 1, 0, Command::new(WriteOp::Compact { revision: Revision(1) }));
    let error = apply(&mut tables, &ahead).unwrap_err();
    apply(&mut tables, &put("a", "1")).unwrap();
    assert_eq!(apply(&mut tables, &ahead).unwrap_err(), error, "it could be done now, but was answered");
}

#[test]
fn session_from_the_future_is_refused() {
    let mut tables = MemTables::default();
    let error = apply(&mut tables, &session(1, 1, 3, put("a", "1"))).unwrap_err();
    assert_eq!(error, KvError::FutureRevision { requested: Revision(3), current: Revision(0) });
}

/// Fills the session table up, with a write that may change something or not, and one session more.
fn overfill(tables: &mut MemTables, write: impl Fn(u64) -> Command) {
    for id in 0..=limits::SESSIONS_MAX_COUNT {
        let since = Head::load(tables).unwrap().revisions.current.0;
        apply(tables, &session(u128::from(id) + 1, 1, since, write(id))).unwrap();
    }
    assert_eq!(rows(tables, Table::Sessions) as u64, limits::SESSIONS_MAX_COUNT);
    assert_eq!(rows(tables, Table::SessionOrder) as u64, limits::SESSIONS_MAX_COUNT);
}

#[test]
fn forgotten_write_is_never_applied_again_but_new_sessions_are() {
    let mut tables = MemTables::default();
    let first = session(1, 1, 0, put("a", "first"));
    apply(&mut tables, &first).unwrap();
    overfill(&mut tables, |id| if id == 0 { put("a", "first") } else { put("b", "") });
    let error = apply(&mut tables, &first).unwrap_err();
    assert_eq!(error, KvError::SessionExpired { forgotten: Revision(1) });
    assert!(apply(&mut tables, &session(77_777, 1, 1, put("a", "new"))).is_ok(), "at the floor");
    let now = Head::load(&tables).unwrap().revisions.current.0;
    assert!(apply(&mut tables, &session(77_778, 1, now, put("a", "new"))).is_ok());
}

#[test]
fn forgotten_write_without_effect_is_not_applied_either_but_new_sessions_are() {
    let mut tables = MemTables::default();
    apply(&mut tables, &put("a", "1")).unwrap();
    let nothing = || Command::delete(prefix("absent"));
    overfill(&mut tables, |_| nothing());
    // Nothing has changed since, so a fresh `since` is no higher than that of the forgotten write; the
    // store has made a revision for the difference.
    let error = apply(&mut tables, &session(1, 1, 1, nothing())).unwrap_err();
    assert_eq!(error, KvError::SessionExpired { forgotten: Revision(2) });
    let now = Head::load(&tables).unwrap().revisions.current;
    assert_eq!(now, Revision(2));
    assert!(apply(&mut tables, &session(77_777, 1, now.0, nothing())).is_ok());
    assert_eq!(pairs(&read_at(&tables, prefix(""), Some(1)).unwrap()), [("a".into(), "1".into())]);
}

#[test]
fn session_in_use_is_not_the_one_forgotten() {
    let mut tables = MemTables::default();
    overfill(&mut tables, |_| put("b", ""));
    // Session 2 is now the oldest; using it makes session 3 the oldest.
    let since = Head::load(&tables).unwrap().revisions.current.0;
    apply(&mut tables, &session(2, 2, 0, put("b", ""))).unwrap();
    apply(&mut tables, &session(99_999, 1, since, put("b", ""))).unwrap();
    assert!(apply(&mut tables, &session(2, 2, 0, put("b", ""))).unwrap().replayed);
    assert!(matches!(
        apply(&mut tables, &session(3, 1, 2, put("b", ""))),
        Err(KvError::SessionExpired { .. })
    ));
}

#[test]
fn replies_of_sessions_are_bounded_in_bytes() {
    let mut tables = MemTables::default();
    let large = "x".repeat(limits::VALUE_MAX_BYTES);
    apply(&mut tables, &put("large", &large)).unwrap();
    let read = Command::ops(vec![range_op(prefix(""), None)]);
    for id in 1..=80 {
        let since = Head::load(&tables).unwrap().revisions.current.0;
        apply(&mut tables, &session(id, 1, since, read.clone())).unwrap();
    }
    let totals = Head::load(&tables).unwrap().sessions;
    let one = large.len() as u64 + 1_024;
    assert!(totals.reply_bytes < limits::SESSION_REPLIES_MAX_BYTES + one, "{totals:?}");
    assert_eq!(totals.count, rows(&tables, Table::Sessions) as u64);
}

/// Commands over few keys, so that they meet.
pub(crate) fn commands() -> impl Strategy<Value = Vec<Command>> {
    let k = || prop::sample::select(vec!["a", "aa", "ab", "b", "ba", "c"]);
    let op = prop_oneof![
        4 => (k(), "[a-z]{0,4}").prop_map(|(k, v)| put_op(k, &v)),
        2 => k().prop_map(delete_op),
        1 => k().prop_map(|k| TxnOp::Delete { range: prefix(k) }),
        1 => k().prop_map(|k| range_op(prefix(k), Some(2))),
    ];
    let compare =
        k().prop_map(|k| Compare { key: key(k), op: CompareOp::Equal, target: CompareTarget::Version(0) });
    let txn = (vec(compare, 0..2), vec(op.clone(), 0..4), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| WriteOp::Txn(Txn { compare, success, failure }));
    let op = prop_oneof![
        12 => txn,
        1 => (0_u64..20).prop_map(|revision| WriteOp::Compact { revision: Revision(revision) }),
        3 => member_op().prop_map(WriteOp::Member),
    ];
    let tag = prop::option::of((0_u128..3, 1_u64..4).prop_map(|(id, sequence)| SessionTag {
        id: SessionId(Uuid::from_u128(id)),
        sequence,
        since: Revision(0),
    }));
    let single = (tag, op).prop_map(|(session, op)| Command { session, op }).boxed();
    let move_on = (0_u128..3).prop_map(|id| RestoreStep::MoveOn { id: RestoreId(Uuid::from_u128(id)) });
    let group = prop_oneof![
        24 => single.clone().prop_map(|command| vec![command]),
        1 => move_on.prop_map(|step| vec![Command::new(WriteOp::Restore(step))]),
        2 => restore(single),
    ];
    vec(group, 1..40).prop_map(|groups| groups.into_iter().flatten().collect())
}

/// Tickets and nodes, few enough that they meet, and times at which some have expired.
fn member_op() -> impl Strategy<Value = MemberOp> {
    let hash = || (0_u8..3).prop_map(|secret| SecretHash([secret; 32]));
    let node = || (1_u8..4).prop_map(|node| PublicKey([node; 32]));
    let joiner = (node(), 0_u64..3, any::<bool>()).prop_map(|(public_key, incarnation, wants_vote)| Joiner {
        public_key,
        incarnation,
        wants_vote,
    });
    let member =
        (1_u64..4, node(), 0_u64..3).prop_map(|(id, key, incarnation)| (NodeId(id), key, incarnation));
    prop_oneof![
        3 => (hash(), 0_u64..50, 0_u64..50, 0_u32..3).prop_map(|(hash, now_ms, lives_ms, uses)| {
            MemberOp::IssueTicket { hash, now_ms, expires_at_ms: now_ms + lives_ms, uses }
        }),
        3 => (hash(), 0_u64..80, joiner).prop_map(|(hash, now_ms, joiner)| MemberOp::Redeem { hash, now_ms, joiner }),
        1 => vec(member, 0..3).prop_map(|members| MemberOp::NoteIncarnations { members }),
        1 => hash().prop_map(|hash| MemberOp::RevokeTicket { id: TicketId::of(&hash) }),
    ]
}

/// The steps of a restore of few keys, with a write after each of them, and one of the steps left out or
/// sent twice.
fn restore(write: impl Strategy<Value = Command>) -> impl Strategy<Value = Vec<Command>> {
    let chunks = vec(prop::sample::subsequence(vec!["a", "ab", "b", "bb", "c"], 1..4), 0..3);
    let again = any::<prop::sample::Index>();
    (0_u128..3, chunks, vec(write, 8), again, 0_usize..3, any::<bool>()).prop_map(
        |(id, chunks, writes, again, times, aborts)| {
            let mut steps = restore_steps(RestoreId(Uuid::from_u128(id)), &chunks);
            if aborts {
                steps.pop();
                steps.push(RestoreStep::Abort { id: None });
            }
            let again = again.index(steps.len());
            let step = steps.remove(again);
            steps.splice(again..again, std::iter::repeat_n(step, times));
            let steps = steps.into_iter().map(|step| Command::new(WriteOp::Restore(step)));
            steps.zip(writes).flat_map(|(step, write)| [step, write]).collect()
        },
    )
}

/// The steps of a restore; each chunk has these keys, behind those of the chunk before.
pub(crate) fn restore_steps(id: RestoreId, chunks: &[Vec<&'static str>]) -> Vec<RestoreStep> {
    let mut steps = vec![RestoreStep::Begin { id, revision: Revision(9), replace: true }];
    let mut totals = Totals::default();
    for (number, keys) in (0..).zip(chunks) {
        let mut rows = Vec::new();
        for key in keys {
            let key = format!("{number}{key}");
            let row = BackupRow {
                key: key.as_bytes(),
                create_revision: Revision(3),
                mod_revision: Revision(7),
                version: 2,
                lease: 0,
                value: b"restored",
            };
            row.encode(&mut rows);
            totals.rows += 1;
        }
        let checksum = crc32c::crc32c(&rows);
        totals.add_chunk(checksum);
        steps.push(RestoreStep::Chunk { id, number, checksum, rows: rows.into() });
    }
    let Totals { rows: keys, chunks, checksum } = totals;
    steps.push(RestoreStep::Commit { id, totals: BackupTotals { keys, chunks, checksum } });
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_revision_reads_as_it_was_until_it_is_compacted(commands in commands(), up_to in 0_u64..40) {
        let mut tables = MemTables::default();
        let mut model: BTreeMap<u64, RangeReply> = BTreeMap::new();
        model.insert(0, RangeReply::default());
        for command in &commands {
            if matches!(command.op, WriteOp::Txn(_)) {
                let _ = apply(&mut tables, command);
            }
            let current = Head::load(&tables).unwrap().revisions.current.0;
            let newest = read_at(&tables, prefix(""), None).unwrap();
            if let Some(stands) = model.insert(current, newest.clone()) {
                prop_assert_eq!(stands, newest, "a state changed without a revision");
            }
        }
        let current = *model.keys().next_back().unwrap();
        let compacted = up_to.min(current);
        for step in [0, compacted] {
            prop_assert!(compact(&mut tables, step).unwrap().succeeded);
            for (revision, stood) in model.range(step..) {
                let read = read_at(&tables, prefix(""), Some(*revision)).unwrap();
                prop_assert_eq!(&read, stood, "at revision {}", revision);
                let part = read_at(&tables, prefix("a"), Some(*revision)).unwrap();
                let of_part = stood.kvs.iter().filter(|kv| kv.key.as_bytes().starts_with(b"a"));
                prop_assert!(part.kvs.iter().eq(of_part));
            }
        }
        for revision in 0..compacted {
            prop_assert!(matches!(
                read_at(&tables, prefix(""), Some(revision)),
                Err(KvError::Compacted { .. })
            ), "at revision {}", revision);
        }
    }
}
