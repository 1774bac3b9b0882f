//! What an operator types at one node, and what is answered: in words, and in JSON for programs.

use std::process::{Command, Output};

use aspen::kv::types::TicketId;
use aspen::transport::join_ticket::JoinTicket;
use serde_json::Value as Json;

use crate::support::node::{Node, coverage_file};

/// Exit codes of the programs: refused by the cluster, and not understood at all.
const REFUSED: i32 = 4;
const USAGE: i32 = 2;

fn aspen(node: &Node, arguments: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_aspen"))
        .args(["--addr", &node.http().to_string()])
        .args(arguments)
        .env_clear()
        .envs(coverage_file())
        .output();
    run.expect("the client's binary starts")
}

/// What is printed by a command that succeeds.
fn says(node: &Node, arguments: &[&str]) -> String {
    let output = aspen(node, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn json(node: &Node, arguments: &[&str]) -> Json {
    let printed = says(node, &[&["--json"], arguments].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"))
}

#[track_caller]
fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
}

#[test]
fn tickets_are_made_listed_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    node.start_serving();
    assert_eq!(says(&node, &["ticket"]), node.endpoint());

    let ticket: JoinTicket = says(&node, &["ticket", "new", "--ttl", "2h", "--uses", "3"]).parse().unwrap();
    let id = TicketId::of(&ticket.secret.hash()).to_string();
    assert_parts(&says(&node, &["ticket", "list"]), &["USES LEFT", &id, " 3 ", "in 119 min"]);
    let listed = json(&node, &["ticket", "list"]);
    assert_eq!((&listed[0]["id"], &listed[0]["uses_left"]), (&Json::from(&*id), &Json::from(3)));

    assert_eq!(says(&node, &["ticket", "revoke", &id]), format!("ticket {id} is taken no more"));
    let empty = aspen(&node, &["ticket", "list"]);
    assert_parts(&String::from_utf8_lossy(&empty.stderr), &["no ticket is outstanding"]);
    let again = aspen(&node, &["ticket", "revoke", &id]);
    assert_eq!(again.status.code(), Some(REFUSED), "{again:?}");

    let made = json(&node, &["ticket", "new", "--ttl", "90s"]);
    assert_eq!(made["uses"], 1, "{made}");
    assert_eq!(json(&node, &["ticket", "revoke", made["id"].as_str().unwrap()])["revoked"], made["id"]);
    for ttl in ["0s", "32d", "soon"] {
        let refused = aspen(&node, &["ticket", "new", "--ttl", ttl]);
        assert_eq!(refused.status.code(), Some(USAGE), "{refused:?}");
        assert_parts(&String::from_utf8_lossy(&refused.stderr), &["90s, 30m, 1h or 7d", "31 days"]);
    }
}

#[test]
fn a_node_is_shown_and_operated() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    node.start_serving();
    node.put("a", "1");

    let shown = says(&node, &["node", "show", "1"]);
    assert_parts(
        &shown,
        &["node 1: serving", "leader in term 1", "log to entry", "disk well", "bytes", "logs "],
    );
    assert_parts(&says(&node, &["node", "snapshot", "1"]), &["node 1 has a snapshot up to entry"]);
    assert_parts(&says(&node, &["node", "compact-files", "1"]), &["the state of node 1 takes up", "before"]);
    assert_parts(&says(&node, &["node", "elect", "1"]), &["node 1 leads in term"]);
    let set = says(&node, &["node", "log-filter", "1", "aspen=debug"]);
    assert_parts(&set, &["node 1 logs aspen=debug, and logged "]);
    let bundle: Json = serde_json::from_str(&says(&node, &["node", "support-bundle", "1"])).unwrap();
    assert!(bundle.is_object(), "{bundle}");
    let stranger = aspen(&node, &["node", "show", "7"]);
    assert_eq!(stranger.status.code(), Some(REFUSED), "{stranger:?}");
    assert_parts(&String::from_utf8_lossy(&stranger.stderr), &["node 7"]);
}

#[test]
fn transactions_and_compactions_say_what_they_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &[]);
    node.start_serving();
    node.put("a", "1");
    node.put("a", "2");

    let file = dir.path().join("txn.json");
    let txn = r#"{
        "compare": [{"key": "a", "target": "version", "op": "equal", "number": 2}],
        "success": [{"put": {"key": "b", "value": "3"}}, {"range": {"prefix": ""}}, {"delete": {"key": "a"}}],
        "failure": [{"get": {"key": "b"}}]
    }"#;
    std::fs::write(&file, txn).unwrap();
    let file = file.to_str().unwrap();
    let done = says(&node, &["txn", file]);
    assert_parts(&done, &["succeeded; revision 3", "1. set", "2. found 2", "a  2", "b  3", "3. deleted 1"]);
    let again = aspen(&node, &["txn", file]);
    assert!(!again.status.success(), "{again:?}");
    assert_parts(&String::from_utf8_lossy(&again.stdout), &["a comparison failed", "1. found 1", "b  3"]);

    assert_eq!(says(&node, &["compact", "3"]), "history before revision 3 is forgotten");
    assert_eq!(says(&node, &["compact", "2"]), "history before revision 2 is forgotten", "so it was before");
    assert_eq!(json(&node, &["compact", "3"])["succeeded"], true);
    let gone = aspen(&node, &["get", "a", "--rev", "1"]);
    assert_eq!(gone.status.code(), Some(REFUSED), "{gone:?}");
    assert_parts(&says(&node, &["member", "transfer-leader", "1"]), &["node 1 leads"]);
}

#[test]
fn a_cluster_is_founded_and_loaded_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &["--bootstrap", "manual"]);
    node.start();
    assert_parts(&says(&node, &["init"]), &["node 1: serving", "leader 1, term 1", "revision 0"]);
    let again = aspen(&node, &["init"]);
    assert_eq!(again.status.code(), Some(REFUSED), "{again:?}");

    let load = ["bench", "--clients", "2", "--keys", "10", "--duration", "0.5", "--warmup", "0.1"];
    assert_parts(&says(&node, &load), &["2 clients on", "10 keys", "OPERATION", "P99 MS", "put"]);
}
