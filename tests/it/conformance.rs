//! One suite for both control backends, over HTTP: where their answers differ, docs/backends.md says how, and
//! this test compares its table with what it saw.

use std::fmt::Write as _;
use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::support::hiqlite::Embedded;
use crate::support::http::connect;
use crate::support::node::Node;

/// Where the table stands.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backends.md");
const TABLE_BEGINS: &str = "<!-- made by tests/it/conformance.rs -->\n";

/// One request, and what it tries.
struct Case {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    body: Value,
}

fn case(what: &'static str, path: &'static str, body: Value) -> Case {
    Case { what, method: "POST", path, body }
}

fn write(what: &'static str, body: Value) -> Case {
    case(what, "/write", body)
}

fn read(what: &'static str, body: Value) -> Case {
    case(what, "/read", body)
}

fn get(what: &'static str, path: &'static str) -> Case {
    Case { what, method: "GET", path, body: Value::Null }
}

/// Reads and writes of every kind, each on what the ones before have left.
fn key_values() -> Vec<Case> {
    let lock = json!({ "txn": {
        "compare": [{ "key": "lock", "target": "version", "op": "equal", "number": 0 }],
        "success": [{ "put": { "key": "lock", "value": "me" } }, { "get": { "key": "lock" } }],
        "failure": [{ "get": { "key": "lock" } }]
    } });
    let counted = |sequence: u64, since: u64| {
        json!({ "put": { "key": "counter", "value": sequence.to_string() },
            "session": { "id": "8c8c7cf4-6ac2-4c3e-9a8b-0d7a0f1f6f11", "sequence": sequence, "since": since } })
    };
    let target = |target: &str, op: &str, operand: Value| {
        let mut compare = json!({ "key": "a", "target": target, "op": op });
        compare
            .as_object_mut()
            .unwrap()
            .insert(if operand.is_string() { "value" } else { "number" }.to_owned(), operand);
        json!({ "txn": { "compare": [compare], "success": [{ "get": { "key": "a" } }], "failure": [] } })
    };
    let many: Vec<Value> = (0..129).map(|n| json!({ "key": format!("n{n}"), "value": "" })).collect();
    vec![
        read("a read of an empty store", json!({ "get": { "key": "a" } })),
        write("a put", json!({ "put": { "key": "a", "value": "1" } })),
        write("another put of the key", json!({ "put": { "key": "a", "value": "2" } })),
        write(
            "`set_multi`",
            json!({ "set_multi": { "pairs": [
            { "key": "m/1", "value": "x" }, { "key": "m/2", "value": "y" }, { "key": "m/3", "value": "z" }
        ] } }),
        ),
        read("a range", json!({ "range": { "prefix": "m/" } })),
        read("a range with a limit", json!({ "range": { "prefix": "m/", "limit": 2 } })),
        read("a range with a limit of 0", json!({ "range": { "prefix": "m/", "limit": 0 } })),
        read("a range of keys only", json!({ "range": { "start": "m/2", "end": "n", "keys_only": true } })),
        read("all keys", json!({ "range": {} })),
        read("an empty span", json!({ "range": { "start": "z", "end": "a" } })),
        read("a stale read", json!({ "get": { "key": "a" }, "consistency": "stale" })),
        write("a transaction whose comparison holds", lock.clone()),
        write("the same again", lock),
        write("a comparison of values", target("value", "equal", json!("2"))),
        write("a comparison that is less", target("value", "less", json!("10"))),
        write("a comparison of versions", target("version", "greater", json!(1))),
        write("a comparison of revisions", target("mod_revision", "not_equal", json!(2))),
        write("a comparison of the first revision", target("create_revision", "equal", json!(1))),
        write(
            "operations that see each other",
            json!({ "txn": { "compare": [], "failure": [], "success": [
            { "put": { "key": "t/1", "value": "1" } }, { "put": { "key": "t/1", "value": "2" } },
            { "put": { "key": "t/2", "value": "3" } }, { "range": { "prefix": "t/" } },
            { "delete": { "key": "t/1" } }, { "range": { "prefix": "t/" } },
            { "put": { "key": "t/1", "value": "4" } }, { "get": { "key": "t/1" } },
            { "put": { "key": "a", "value": "3" } }, { "get": { "key": "a" } },
            { "delete_range": { "start": "m/1", "end": "m/3" } }, { "range": { "prefix": "m/" } }
        ] } }),
        ),
        write("a delete", json!({ "delete": { "key": "t/2" } })),
        write("a delete of what is not there", json!({ "delete": { "key": "t/2" } })),
        write("a delete of a prefix", json!({ "delete_prefix": { "prefix": "t/" } })),
        read("a read of a deleted key", json!({ "get": { "key": "t/1" } })),
        write("an empty transaction", json!({ "txn": { "compare": [], "success": [], "failure": [] } })),
        write("a write with a session", counted(1, 0)),
        write("its retry", counted(1, 0)),
        write("the session's next write", counted(2, 0)),
        write("a sequence from the past", counted(1, 0)),
        write("a session's sequence of 0", counted(0, 0)),
        write(
            "a new session with a revision that nobody has seen",
            json!({
                "put": { "key": "a", "value": "4" },
                "session": { "id": "8c8c7cf4-6ac2-4c3e-9a8b-0d7a0f1f6f12", "sequence": 1, "since": 1_000_000_000 }
            }),
        ),
        write("an empty key", json!({ "put": { "key": "", "value": "x" } })),
        write("a key that is too long", json!({ "put": { "key": "k".repeat(5_000), "value": "x" } })),
        write("a value that is too long", json!({ "put": { "key": "k", "value": "v".repeat(1 << 20) } })),
        write(
            "the longest value",
            json!({ "put": { "key": "long", "value": "v".repeat((1 << 20) - 8192) } }),
        ),
        read("a read of it", json!({ "get": { "key": "long" } })),
        write("too many operations", json!({ "set_multi": { "pairs": many } })),
        write(
            "bytes that are no UTF-8",
            json!({ "put": { "key": "/w==", "value": "gIE=" }, "encoding": "base64" }),
        ),
        read("a read of them", json!({ "get": { "key": "/w==" }, "encoding": "base64" })),
        write("SQL in a key", json!({ "put": { "key": "'; DROP TABLE aspen_kv; --", "value": "\"" } })),
        read("a read of it", json!({ "get": { "key": "'; DROP TABLE aspen_kv; --" } })),
        write(
            "a sequence above 2^63",
            json!({
                "put": { "key": "a", "value": "5" },
                "session": { "id": "8c8c7cf4-6ac2-4c3e-9a8b-0d7a0f1f6f13", "sequence": u64::MAX, "since": 0 }
            }),
        ),
        read("a read at the newest revision", json!({ "get": { "key": "none" }, "revision": 1_000 })),
        read("a read at an older revision", json!({ "get": { "key": "a" }, "revision": 2 })),
        write("`compact`", json!({ "compact": { "revision": 2 } })),
    ]
}

/// What concerns the cluster and its nodes.
fn cluster() -> Vec<Case> {
    vec![
        case("`/init` of a node that has a cluster", "/init", json!({})),
        case("`/change-membership` to what it is", "/change-membership", json!({ "voters": [1] })),
        case("a voter that is no member", "/change-membership", json!({ "voters": [1, 7] })),
        case("no voters", "/change-membership", json!({ "voters": [] })),
        case("removal of the last voter", "/change-membership", json!({ "remove": [1] })),
        case("a ticket that is none", "/add-learner", json!({ "ticket": "nonsense" })),
        case("`/tickets`", "/tickets", json!({})),
        case("`/transfer-leader`", "/transfer-leader", json!({ "to": 1 })),
        get("`/cluster`", "/cluster"),
        get("`/health`", "/health"),
        get("`/readyz`", "/readyz"),
        get("`/metrics`", "/metrics"),
        get("`/peers`", "/peers"),
        case("`POST /peers`", "/peers", json!({ "peers": [] })),
        get("`/nodes/1`", "/nodes/1"),
        case("`/nodes/1/snapshot`", "/nodes/1/snapshot", json!({})),
        case("`/nodes/1/compact-files`", "/nodes/1/compact-files", json!({})),
        case("`/nodes/1/elect`", "/nodes/1/elect", json!({})),
        case("`/nodes/1/log-filter`", "/nodes/1/log-filter", json!({})),
        get("`/nodes/1/support-bundle`", "/nodes/1/support-bundle"),
        get("`/backup`", "/backup"),
        case("`/restore`", "/restore", json!({ "abort": {} })),
    ]
}

/// What a node answers: its error's code, or what the caller is to see of a success.
fn answer(node: &Node, case: &Case) -> Value {
    if case.path == "/backup" && makes_a_backup(node) {
        return json!("ok");
    }
    let answer = match case.method {
        "GET" => node.get(case.path),
        _ => node.post(case.path, &case.body),
    };
    if answer.status != 200 {
        return answer.json()["error"]["code"].clone();
    }
    if !matches!(case.path, "/write" | "/read") {
        return json!("ok");
    }
    let mut seen = answer.json();
    // How old an answer may be is another thing each time.
    if let Some(staleness) = seen.get_mut("staleness") {
        staleness["age_ms"] = Value::Null;
    }
    seen
}

/// Whether a backup begins. It is no text, and only its beginning is looked at.
fn makes_a_backup(node: &Node) -> bool {
    let mut stream = connect(node.http());
    stream.write_all(b"GET /backup HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("the node takes the bytes");
    let mut begin = *b"HTTP/1.1 ...";
    stream.read_exact(&mut begin).expect("the node answers");
    begin == *b"HTTP/1.1 200"
}

/// One cell of the table.
fn cell(answer: &Value) -> String {
    match answer {
        Value::String(text) if text != "ok" => format!("`{text}`"),
        Value::String(text) => text.clone(),
        _ => "ok".to_owned(),
    }
}

#[test]
fn both_backends_answer_alike_but_for_what_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let mut raft = Node::new(1, &dir.path().join("raft"), &[]);
    std::fs::create_dir(dir.path().join("raft")).unwrap();
    raft.start_serving();
    let hiqlite = Embedded::founded(dir.path()).node;

    let mut table = String::from("| tried | `raft` | `hiqlite` |\n|---|---|---|\n");
    let cases = key_values().into_iter().chain(cluster());
    let mut count = 0;
    for case in cases {
        count += 1;
        let (of_raft, of_hiqlite) = (answer(&raft, &case), answer(&hiqlite, &case));
        if of_raft == of_hiqlite {
            continue;
        }
        let (left, right) = (cell(&of_raft), cell(&of_hiqlite));
        assert_ne!(left, right, "{}: both succeed and differ:\n{of_raft}\n{of_hiqlite}", case.what);
        writeln!(table, "| {} | {left} | {right} |", case.what).unwrap();
    }
    let document = std::fs::read_to_string(DOCUMENT).expect("the document is there");
    let (_, documented) = document.split_once(TABLE_BEGINS).expect("the document has the table's place");
    assert!(
        documented.starts_with(&table),
        "docs/backends.md does not say what was seen; of {count} requests these are answered otherwise:\n{table}"
    );
}
