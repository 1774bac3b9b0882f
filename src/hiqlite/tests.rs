//! The statements on a real SQLite, without the cluster around it: what a transaction comes to, that it is
//! applied only where nothing came between, and that the tables of sessions are bounded.

use bytes::Bytes;
use hiqlite::rusqlite::types::Value as Sql;
use hiqlite::rusqlite::{Connection, params_from_iter};
use hiqlite::{Param, Params};
use proptest::prelude::*;

use super::evaluate::{self, Outcome};
use super::look::{self, Line, Seen, Wanted};
use super::{schema, statement};
use crate::kv::types::{
    Compare, CompareOp, CompareTarget, Key, KeyRange, OpResult, Revision, SessionId, SessionTag, Txn, TxnOp,
    Value,
};
use crate::limits;

/// One node's database.
struct Database(Connection);

impl Database {
    fn new() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        // It is run again by every node that finds no tables.
        for _ in 0..2 {
            connection.execute_batch(&schema::schema()).unwrap();
        }
        Self(connection)
    }

    fn look(&self, session: Option<SessionId>, wanted: &[Wanted]) -> Seen {
        let (sql, params) = look::statement(session, wanted);
        let mut statement = self.0.prepare(&sql).unwrap();
        assert_eq!(statement.parameter_count(), params.len());
        let mut rows = statement.query(params_from_iter(sql_values(params))).unwrap();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            lines.push(Line::try_from(&mut hiqlite::Row::Borrowed(row)).unwrap());
        }
        look::gather(wanted, lines).expect("the head is there")
    }

    fn apply(&self, outcome: &Outcome, session: Option<(&SessionTag, Vec<u8>)>) -> Option<u64> {
        let (sql, params) = statement::statement(&outcome.steps, &outcome.guards, session).unwrap();
        let mut statement = self.0.prepare(&sql).unwrap();
        assert_eq!(statement.parameter_count(), params.len());
        let rows = statement.query_map(params_from_iter(sql_values(params)), |row| row.get::<_, i64>(0));
        rows.unwrap().map(|revision| revision.unwrap().unsigned_abs()).last()
    }

    fn plan(&self, txn: &Txn) -> Outcome {
        let (wanted, places) = evaluate::wanted(txn);
        evaluate::run(txn, &places, &self.look(None, &wanted))
    }

    /// Runs a transaction as the store does, with nobody else there.
    fn run(&self, txn: &Txn) -> Outcome {
        let mut outcome = self.plan(txn);
        if !outcome.steps.is_empty() {
            let revision = self.apply(&outcome, None).expect("nothing came between");
            evaluate::settle(&mut outcome.results, Revision(revision));
        }
        outcome
    }

    fn all(&self) -> OpResult {
        self.run(&ops(vec![range("")])).results.remove(0)
    }

    fn number(&self, sql: &str) -> i64 {
        self.0.query_row(sql, (), |row| row.get(0)).unwrap()
    }
}

fn sql_values(params: Params) -> Vec<Sql> {
    let value = |param| match param {
        Param::Integer(number) => Sql::Integer(number),
        Param::Blob(bytes) => Sql::Blob(bytes),
        other => panic!("no statement has a parameter like {other:?}"),
    };
    params.into_iter().map(value).collect()
}

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

fn put(name: &str, value: &str) -> TxnOp {
    TxnOp::Put { key: key(name), value: Value::new(value.to_owned()).unwrap(), lease: 0 }
}

fn prefix(text: &str) -> KeyRange {
    KeyRange::Prefix(Bytes::from(text.to_owned()))
}

fn range(text: &str) -> TxnOp {
    TxnOp::Range { range: prefix(text), limit: None, keys_only: false }
}

fn ops(success: Vec<TxnOp>) -> Txn {
    Txn { success, ..Txn::default() }
}

#[test]
fn an_outcome_counts_only_while_what_it_was_worked_out_from_is_so() {
    let database = Database::new();
    database.run(&ops(vec![put("a/1", "x"), put("a/2", "y")]));
    let delete = ops(vec![TxnOp::Delete { range: prefix("a/") }]);

    let between = [
        ("another key", vec![put("b", "z")], true),
        ("a change", vec![put("a/1", "z")], false),
        ("a new key", vec![put("a/3", "z")], false),
        ("a key less", vec![TxnOp::Delete { range: key("a/3").into() }], false),
        ("a key for another", vec![TxnOp::Delete { range: key("a/2").into() }, put("a/4", "z")], false),
    ];
    for (what, writes, counts) in between {
        let planned = database.plan(&delete);
        database.run(&ops(writes));
        let before = database.number("SELECT revision FROM aspen_head");
        let applied = database.apply(&planned, None);
        assert_eq!(applied.is_some(), counts, "{what}");
        let moved = database.number("SELECT revision FROM aspen_head") - before;
        assert_eq!(moved, i64::from(counts), "{what}: a write that does not count leaves nothing behind");
        database.run(&ops(vec![put("a/1", "x"), put("a/2", "y")]));
        database.run(&ops(vec![TxnOp::Delete { range: key("a/4").into() }]));
        if what == "a new key" {
            database.run(&ops(vec![put("a/3", "z")]));
        }
    }
}

#[test]
fn a_page_ends_where_its_rows_or_its_bytes_do_and_says_so() {
    let database = Database::new();
    let value = "v".repeat(100);
    database.run(&ops((0..10).map(|n| put(&format!("k{n}"), &value)).collect()));
    let span = look::Span::of(&prefix("k")).unwrap();
    let page = |rows_max_count, bytes_max, keys_only| {
        let wanted = Wanted { span: span.clone(), rows_max_count, bytes_max, keys_only };
        database.look(None, &[wanted]).spans.remove(0)
    };
    let cost = 2 + 100 + limits::KV_OVERHEAD_BYTES;
    for (rows, bytes, found, more) in
        [(10, 10 * cost, 10, false), (9, 10 * cost, 9, true), (10, 10 * cost - 1, 9, true), (10, 0, 0, true)]
    {
        let page = page(rows, bytes, false);
        assert_eq!((page.rows.len(), page.more), (found, more), "{rows} rows, {bytes} bytes");
        let next = key(&format!("k{found}"));
        assert_eq!(page.covered.contains(next.as_bytes()), !more, "it covers what it shows");
    }
    let keys = page(10, 10 * (cost - 100), true);
    assert!(keys.rows.len() == 10 && keys.rows.iter().all(|row| row.value.as_bytes().is_empty()));
}

#[test]
fn sessions_used_longest_ago_are_forgotten_and_refused() {
    let database = Database::new();
    let outcome = evaluate::blind(&ops(vec![put("k", "v")])).unwrap();
    let tag = |number: u64, since| SessionTag {
        id: SessionId(uuid::Uuid::from_u128(number.into())),
        sequence: 1,
        since: Revision(since),
    };
    let count = limits::SESSIONS_MAX_COUNT + 1;
    for number in 1..=count {
        assert!(database.apply(&outcome, Some((&tag(number, number - 1), Vec::new()))).is_some(), "{number}");
    }
    let left = database.number("SELECT count(*) FROM aspen_sessions");
    assert_eq!(left, i64::try_from(limits::SESSIONS_MAX_COUNT / 10 * 9).unwrap());
    assert_eq!(database.number("SELECT sessions FROM aspen_head"), left);
    // The last one is known, and the first one is neither applied again nor taken for new.
    assert_eq!(database.apply(&outcome, Some((&tag(count, 0), Vec::new()))), None);
    assert_eq!(database.apply(&outcome, Some((&tag(1, 0), Vec::new()))), None);
    assert!(database.apply(&outcome, Some((&tag(1, count), Vec::new()))).is_some());
}

#[test]
fn replies_of_sessions_are_bounded_in_bytes() {
    let database = Database::new();
    let outcome = evaluate::blind(&ops(vec![put("k", "v")])).unwrap();
    let reply = vec![7; 1024 * 1024];
    for number in 1..=80_u64 {
        let id = SessionId(uuid::Uuid::from_u128(number.into()));
        let tag = SessionTag { id, sequence: 1, since: Revision(number - 1) };
        assert!(database.apply(&outcome, Some((&tag, reply.clone()))).is_some());
        let bytes = database.number("SELECT sum(length(reply)) FROM aspen_sessions");
        assert_eq!(database.number("SELECT reply_bytes FROM aspen_head"), bytes);
        assert!(u64::try_from(bytes).unwrap() <= limits::SESSION_REPLIES_MAX_BYTES);
    }
}

/// What this backend and the other one's rules make of the same transactions: the rules, written down again
/// as simply as they can be.
mod model {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kv::types::{KeyValue, RangeReply};

    #[derive(Default)]
    pub struct Model {
        pub revision: u64,
        pub rows: BTreeMap<Bytes, KeyValue>,
    }

    impl Model {
        pub fn run(&mut self, txn: &Txn) -> (bool, Vec<OpResult>) {
            let succeeded = txn.compare.iter().all(|compare| {
                let version = self.rows.get(compare.key.as_bytes()).map_or(0, |row| row.version);
                compare.target == CompareTarget::Version(version)
            });
            let next = Revision(self.revision + 1);
            let mut changed = false;
            let mut results = Vec::new();
            for op in if succeeded { &txn.success } else { &txn.failure } {
                results.push(match op {
                    TxnOp::Put { key, value, lease } => {
                        changed = true;
                        let row = self.rows.entry(key.clone().into_bytes()).or_insert(KeyValue {
                            key: key.clone(),
                            value: Value::default(),
                            create_revision: next,
                            mod_revision: next,
                            version: 0,
                            lease: 0,
                        });
                        (row.value, row.mod_revision, row.lease) = (value.clone(), next, *lease);
                        row.version += 1;
                        OpResult::Put
                    }
                    TxnOp::Delete { range } => {
                        let bounds = range.bounds();
                        let keys: Vec<Bytes> = self.rows.range(bounds).map(|(key, _)| key.clone()).collect();
                        changed |= !keys.is_empty();
                        keys.iter().for_each(|key| drop(self.rows.remove(key)));
                        OpResult::Delete { deleted: keys.len() as u64, more: false }
                    }
                    TxnOp::Range { range, limit, .. } => {
                        let all: Vec<KeyValue> =
                            self.rows.range(range.bounds()).map(|(_, row)| row.clone()).collect();
                        let limit = limit.map_or(all.len(), |limit| usize::try_from(limit).unwrap());
                        let more = all.len() > limit;
                        OpResult::Range(RangeReply { kvs: all.into_iter().take(limit).collect(), more })
                    }
                });
            }
            self.revision += u64::from(changed);
            (succeeded, results)
        }
    }
}

fn some_op() -> impl Strategy<Value = TxnOp> {
    let name = "[ab][01]?";
    prop_oneof![
        (name, "[xyz]").prop_map(|(name, value)| put(&name, &value)),
        name.prop_map(|name| TxnOp::Delete { range: key(&name).into() }),
        "[ab]?".prop_map(|text| TxnOp::Delete { range: prefix(&text) }),
        ("[ab]?", proptest::option::of(0..3_u64)).prop_map(|(text, limit)| TxnOp::Range {
            range: prefix(&text),
            limit,
            keys_only: false
        }),
    ]
}

fn some_txn() -> impl Strategy<Value = Txn> {
    let compare = ("[ab][01]?", 0..3_u64).prop_map(|(name, version)| Compare {
        key: key(&name),
        op: CompareOp::Equal,
        target: CompareTarget::Version(version),
    });
    let list = |most| proptest::collection::vec(some_op(), 0..most);
    (proptest::collection::vec(compare, 0..2), list(6), list(3)).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn transactions_come_to_what_the_rules_say(txns in proptest::collection::vec(some_txn(), 1..8)) {
        let (database, mut model) = (Database::new(), model::Model::default());
        for txn in &txns {
            let (succeeded, results) = model.run(txn);
            let outcome = database.run(txn);
            prop_assert_eq!(outcome.succeeded, succeeded);
            prop_assert_eq!(outcome.results, results);
            prop_assert_eq!(database.number("SELECT revision FROM aspen_head").unsigned_abs(), model.revision);
            let (_, all) = model.run(&ops(vec![range("")]));
            prop_assert_eq!(&database.all(), &all[0]);
        }
    }
}
