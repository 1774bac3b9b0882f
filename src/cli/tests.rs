//! Commands against a fake node, judged by what they print and how they end.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use axum::serve::ListenerExt;
use clap::{CommandFactory, Parser};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use super::*;
use crate::kv::types::{NodeId, NodeInfo, Peer, PublicKey};
use crate::transport::ticket::NodeTicket;

/// What a command printed, and how it ended.
struct Run {
    exit: Exit,
    stdout: String,
    stderr: String,
}

/// Runs a command against a node that answers each (path, body) with what `answer` says.
async fn run_on<F>(answer: F, args: &[&str], stdin: &[u8]) -> Run
where
    F: Fn(&str, &Json) -> (u16, Json) + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(async move |uri: Uri, body: Bytes| {
        let (status, reply) = answer(uri.path(), &serde_json::from_slice(&body).unwrap_or(Json::Null));
        (StatusCode::from_u16(status).unwrap(), axum::Json(reply))
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    run_at(&address, args, stdin).await
}

async fn run_at(address: &str, args: &[&str], mut stdin: &[u8]) -> Run {
    let cli = Cli::parse_from([&["aspen", "--addr", address, "--timeout", "2"], args].concat());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let terminal =
        Terminal { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr, is_interactive: false };
    let exit = run(cli, terminal).await;
    Run { exit, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

fn kv(key: &[u8], value: &[u8]) -> Json {
    json!({
        "key": base64(key), "value": base64(value),
        "create_revision": 1, "mod_revision": 2, "version": 2, "lease": 0
    })
}

fn found(kvs: &[Json], more: bool) -> (u16, Json) {
    (200, json!({"revision": 7, "kvs": kvs, "more": more}))
}

fn refused(status: u16, code: &str) -> (u16, Json) {
    (status, json!({"error": {"code": code, "message": "a sentence", "action": "do something"}}))
}

fn cluster(roles: &[&str], state: &str) -> Json {
    let members: Vec<_> = (1..)
        .zip(roles)
        .map(|(id, role)| {
            json!({
                "node_id": id, "role": role, "public_key": "00".repeat(32),
                "addresses": [format!("127.0.0.1:470{id}")], "relay_url": null,
                "http_addr": format!("127.0.0.1:460{id}"), "matched_index": null, "last_heard_ms": null
            })
        })
        .collect();
    json!({
        "node_id": 1, "cluster_id": "00000000-0000-0000-0000-000000000001", "state": state,
        "detail": "a sentence", "role": "leader", "term": 1, "leader": 1, "revision": 7,
        "compacted_revision": 0, "last_log_index": 9, "committed_index": 9, "applied_index": 9,
        "snapshot_index": null, "purged_index": null, "members": members
    })
}

#[test]
fn command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn cluster_that_is_asked_for_by_its_id_is_the_one_that_serves() {
    let (asked, own) = ("7ab6271e-ca92-46c2-865a-39464a5ce2dd", "00000000-0000-0000-0000-000000000001");
    let refuse = move |_: &str, _: &Json| {
        let message = format!("this node belongs to cluster {own}, and the request is meant for {asked}");
        (421, json!({"error": {"code": "other_cluster", "message": message, "action": "do something"}}))
    };
    let run = run_on(refuse, &["--cluster-id", asked, "get", "a"], b"").await;
    assert_eq!((run.exit, run.stdout.as_str()), (Exit::Unavailable, ""));
    assert!(run.stderr.contains(asked) && run.stderr.contains(own), "{}", run.stderr);

    let run = run_on(|_, _| panic!("nothing must be sent"), &["init", "--cluster-id", asked], b"").await;
    assert_eq!(run.exit, Exit::Usage);
    assert!(run.stderr.contains("an id of its own"), "{}", run.stderr);

    let error = Cli::try_parse_from(["aspen", "--cluster-id", "mine", "status"]).unwrap_err().to_string();
    assert!(error.contains("'mine' is no cluster id"), "{error}");
}

#[tokio::test]
async fn get_prints_the_bare_value_or_ends_with_not_found() {
    let run = run_on(|_, _| found(&[kv(b"a", b"line\n\n")], false), &["get", "a"], b"").await;
    assert_eq!((run.exit, run.stdout.as_str()), (Exit::Done, "line\n\n"));
    let run = run_on(|_, _| found(&[], false), &["get", "a"], b"").await;
    assert_eq!((run.exit, run.stdout.as_str()), (Exit::NotFound, ""));
    assert!(run.stderr.contains("there is no key a"), "{}", run.stderr);
}

#[tokio::test]
async fn json_says_how_bytes_are_encoded() {
    let run = run_on(|_, _| found(&[kv(b"a", b"\xff")], false), &["--json", "get", "a"], b"").await;
    let printed: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&printed["value"], &printed["encoding"]), (&json!("/w=="), &json!("base64")));
    let run = run_on(|_, _| found(&[kv(b"a", b"1")], false), &["--json", "get", "a"], b"").await;
    let printed: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&printed["value"], &printed["encoding"]), (&json!("1"), &json!("utf8")));
}

#[tokio::test]
async fn put_takes_its_value_from_the_argument_or_from_standard_input() {
    for (value, stdin, expected) in
        [("-5", &b""[..], &b"-5"[..]), ("-", b"\x00piped", b"\x00piped"), ("", b"", b"")]
    {
        let answer = move |_: &str, body: &Json| {
            assert_eq!(body["txn"]["success"][0]["put"]["value"], json!(base64(expected)));
            let results = json!([{"put": {}}]);
            (200, json!({"revision": 8, "succeeded": true, "results": results, "replayed": false}))
        };
        let run = run_on(answer, &["put", "a", value], stdin).await;
        assert_eq!((run.exit, run.stdout.as_str()), (Exit::Done, "set at revision 8\n"), "{}", run.stderr);
    }
    let huge = vec![b'v'; 10_000_000];
    let run = run_on(|_, _| panic!("nothing must be sent"), &["put", "a", "-"], &huge).await;
    assert_eq!(run.exit, Exit::Usage);
    assert!(run.stderr.contains("more than the"), "{}", run.stderr);
}

#[tokio::test]
async fn range_goes_through_all_pages_at_one_revision() {
    let answer = |_: &str, body: &Json| {
        let start = body["range"]["start"].as_str();
        if start.is_none() {
            assert_eq!(body["range"]["prefix"], json!(base64(b"k")));
            return found(&[kv(b"k1", b"v1"), kv(b"k2", b"v2")], true);
        }
        assert_eq!(start, Some(base64(b"k2\x00").as_str()));
        assert_eq!((&body["range"]["end"], &body["revision"]), (&json!(base64(b"l")), &json!(7)));
        found(&[kv(b"k3", b"v3")], false)
    };
    let run = run_on(answer, &["--json", "range", "--prefix", "k"], b"").await;
    assert_eq!(run.exit, Exit::Done, "{}", run.stderr);
    let printed: Vec<Json> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(printed.iter().map(|kv| &kv["key"]).collect::<Vec<_>>(), ["k1", "k2", "k3"]);
    let run = run_on(answer, &["range", "--prefix", "k", "--limit", "2", "--keys-only"], b"").await;
    assert_eq!(run.stdout, "k1\nk2\n");
    let run = run_on(|_, _| found(&[], false), &["--json", "range"], b"").await;
    assert_eq!(run.stdout, "[]\n");
}

#[tokio::test]
async fn delete_of_a_prefix_goes_on_until_nothing_is_left() {
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let answer = move |_: &str, _: &Json| {
        let more = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        let results = json!([{"delete": {"deleted": 10, "more": more}}]);
        (200, json!({"revision": 9, "succeeded": true, "results": results, "replayed": false}))
    };
    let run = run_on(answer, &["del", "--prefix", "k"], b"").await;
    assert_eq!((run.exit, run.stdout.as_str()), (Exit::Done, "deleted 30 keys at revision 9\n"));
    let none = |_: &str, _: &Json| {
        let results = json!([{"delete": {"deleted": 0, "more": false}}]);
        (200, json!({"revision": 9, "succeeded": true, "results": results, "replayed": false}))
    };
    assert_eq!(run_on(none, &["del", "k"], b"").await.exit, Exit::NotFound);
}

#[tokio::test]
async fn failed_comparison_has_an_exit_code_of_its_own() {
    let answer = |_: &str, body: &Json| {
        assert_eq!(body["txn"]["compare"][0]["number"], json!(0));
        let results = json!([{"range": {"kvs": [kv(b"lock", b"you")], "more": false}}]);
        (200, json!({"revision": 9, "succeeded": false, "results": results, "replayed": false}))
    };
    let txn = br#"{"compare":[{"key":"lock","target":"version","op":"equal","number":0}],"failure":[{"get":{"key":"lock"}}]}"#;
    let run = run_on(answer, &["txn"], txn).await;
    assert_eq!(run.exit, Exit::NotFound);
    assert_eq!(run.stdout, "a comparison failed; revision 9\n1. found 1\n   lock  you\n");
    let run = run_on(answer, &["txn"], b"{\"comprae\":[]}").await;
    assert_eq!(run.exit, Exit::Usage);
    assert!(run.stderr.contains("unknown field `comprae`"), "{}", run.stderr);
}

#[tokio::test]
async fn member_list_is_an_array_with_three_roles() {
    let answer = |_: &str, _: &Json| (200, cluster(&["leader", "candidate", "learner"], "serving"));
    let run = run_on(answer, &["--json", "member", "list"], b"").await;
    let members: Vec<Json> = serde_json::from_str(&run.stdout).unwrap();
    let roles: Vec<_> = members.iter().map(|member| member["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["leader", "follower", "learner"]);
    assert_eq!(members[1]["node_id"], json!(2));
    assert_eq!(members[1]["addresses"], json!(["127.0.0.1:4702"]));
    let run = run_on(answer, &["member", "list"], b"").await;
    assert!(run.stdout.contains("ADDRESSES") && run.stdout.contains("127.0.0.1:4702"), "{}", run.stdout);
}

#[tokio::test]
async fn promote_keeps_the_voters_there_are() {
    let answer = |path: &str, body: &Json| match path {
        "/read" => found(&[], false),
        "/cluster" => (200, cluster(&["leader", "follower", "learner", "learner"], "serving")),
        "/change-membership" => {
            assert_eq!(*body, json!({"voters": [1, 2, 4]}));
            (200, json!({"voters": [1, 2, 4], "learners": [3], "log_index": 12}))
        }
        other => panic!("{other}"),
    };
    let run = run_on(answer, &["member", "promote", "4"], b"").await;
    assert_eq!((run.exit, run.stdout.as_str()), (Exit::Done, "voters: 1, 2, 4\nlearners: 3\n"));
}

#[tokio::test]
async fn each_kind_of_failure_has_its_exit_code() {
    for (status, code, args, exit) in [
        (503, "no_quorum", &["put", "a", "1"], Exit::Unavailable),
        (503, "not_initialized", &["put", "a", "1"], Exit::Unavailable),
        (413, "too_many_ops", &["put", "a", "1"], Exit::Refused),
        (401, "unauthorized", &["put", "a", "1"], Exit::Refused),
        (504, "outcome_unknown", &["put", "a", "1"], Exit::OutcomeUnknown),
        (404, "unknown_node", &["member", "remove", "9"], Exit::Refused),
    ] {
        let run = run_on(move |_, _| refused(status, code), args, b"").await;
        assert_eq!(run.exit, exit, "{code}: {}", run.stderr);
    }
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(run_at(&dead, &["get", "a"], b"").await.exit, Exit::Unavailable);
    let run = run_at(&dead, &["get", ""], b"").await;
    assert_eq!(run.exit, Exit::Usage, "an empty key is no matter of the cluster");
}

#[tokio::test]
async fn errors_are_json_where_json_was_asked_for() {
    let run = run_on(|_, _| refused(413, "too_many_ops"), &["--json", "put", "a", "1"], b"").await;
    let printed: Json = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(printed["error"]["code"], json!("too_many_ops"));
}

#[tokio::test]
async fn cluster_is_made_of_one_node_that_was_named() {
    let answer = |_: &str, _: &Json| (200, cluster(&["leader"], "serving"));
    assert_eq!(run_on(answer, &["init"], b"").await.exit, Exit::Done);
    let late = |_: &str, _: &Json| (200, cluster(&["leader"], "no_leader"));
    assert_eq!(run_on(late, &["init"], b"").await.exit, Exit::Unavailable);
    let run = run_at("127.0.0.1:1,127.0.0.1:2", &["init"], b"").await;
    assert_eq!(run.exit, Exit::Usage);
    assert!(run.stderr.contains("would make a second cluster"), "{}", run.stderr);
}

#[tokio::test]
async fn restore_that_may_replace_keys_may_do_so_also_where_they_came_since() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let sent = steps.clone();
    let answer = move |path: &str, body: &Json| {
        assert_eq!(path, "/restore");
        sent.lock().unwrap().push(body.clone());
        match body.get("commit") {
            Some(_) => refused(400, "bad_restore"),
            None => (200, json!({"revision": 7, "succeeded": true, "results": [], "replayed": false})),
        }
    };
    let backup = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/backup_file/seed-some");
    let run = run_on(answer, &["restore", backup, "--replace"], b"").await;
    assert_eq!(run.exit, Exit::Refused, "{}", run.stderr);
    let steps = steps.lock().unwrap();
    let [probe, begin, chunk, commit, abort] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((&probe["begin"]["replace"], &begin["begin"]["replace"]), (&json!(false), &json!(true)));
    let id = &begin["begin"]["id"];
    assert_ne!(*id, probe["begin"]["id"], "the same one would be taken for the first, come again");
    for (step, name) in [(chunk, "chunk"), (commit, "commit"), (abort, "abort")] {
        assert_eq!(step[name]["id"], *id, "{step}");
    }
}

#[test]
fn words_on_the_command_line_are_taken_or_refused() {
    let parse = |words: &[&str]| Cli::try_parse_from([&["aspen"], words].concat());
    for taken in [&["bench", "--warmup", "0"][..], &["backup", "--check", "./-"], &["restore", "monday"]] {
        assert!(parse(taken).is_ok(), "{taken:?}");
    }
    for refused in [
        &["bench", "--duration", "0"][..],
        &["bench", "--warmup", "-1"],
        &["backup", "--check", "-"],
        &["backup", "-"],
        &["restore", "-"],
    ] {
        assert!(parse(refused).is_err(), "{refused:?}");
    }
}

#[tokio::test]
async fn status_of_a_node_that_cannot_serve_is_printed_and_told_by_the_exit_code() {
    let answer = |_: &str, _: &Json| (200, cluster(&["follower"], "no_leader"));
    let run = run_on(answer, &["status"], b"").await;
    assert_eq!(run.exit, Exit::Unavailable);
    assert!(run.stdout.starts_with("node 1: no_leader (a sentence)\n"), "{}", run.stdout);
}

#[tokio::test]
async fn status_shows_each_node_by_its_own_word_or_since_when_there_is_none() {
    let report = json!({
        "version": "1.2.3", "uptime_s": 5, "state": "serving", "detail": "a sentence", "role": "leader",
        "term": 3, "leader": 1, "revision": 7, "last_log_index": 9, "committed_index": 9,
        "applied_index": 8, "snapshot_index": null, "lag_entries": 1, "disk": null, "state_bytes": null,
        "log_filter": "info", "peers": [
            {"node_id": 2, "path_type": "relay", "path": "a relay", "rtt_us": 1_250},
            {"node_id": 3, "path_type": null, "path": null, "rtt_us": null}
        ]
    });
    let mut reply = cluster(&["leader", "follower", "learner"], "serving");
    reply["nodes"] = json!([
        {"node_id": 1, "reachable": true, "report": report},
        {"node_id": 2, "reachable": false, "unreachable_since_ms": 1_000, "reason": "it is cut off"},
        {"node_id": 3, "reachable": true, "reason": "it is too new"},
    ]);
    let shown = reply.clone();
    let run = run_on(move |_, _| (200, shown.clone()), &["status"], b"").await;
    assert_eq!(run.exit, Exit::Done, "{}", run.stderr);
    let lines: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let line = |begins: &[&str]| lines.iter().any(|line| line.starts_with(begins));
    assert!(line(&["1", "leader", "serving", "3", "8", "1", "-", "1.2.3", "-"]), "{}", run.stdout);
    let unreachable = ["2", "follower", "unreachable", "since", "1970-01-01T00:00:01Z"];
    assert!(line(&unreachable), "{}", run.stdout);
    assert!(run.stdout.contains("relay, 1.2 ms"), "{}", run.stdout);
    assert!(line(&["node", "2:", "it", "is", "cut", "off"]), "{}", run.stdout);
    assert!(line(&["3", "learner", "silent"]), "{}", run.stdout);

    let run = run_on(move |_, _| (200, reply.clone()), &["--json", "status"], b"").await;
    let printed: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(printed["nodes"][1]["unreachable_since_ms"], json!(1_000));
}

#[tokio::test]
async fn operations_on_a_node_say_what_became_of_them() {
    let replies = |path: &str, body: &Json| match path {
        "/nodes/2/snapshot" => (200, json!({"node_id": 2, "snapshot_index": 9})),
        "/nodes/2/compact-files" => (200, json!({"node_id": 2, "before_bytes": 9, "after_bytes": 4})),
        "/nodes/2/elect" => (200, json!({"node_id": 2, "leader": 1, "term": 3})),
        "/nodes/2/log-filter" => (200, json!({"node_id": 2, "filter": body["filter"], "before": "info"})),
        "/nodes/2/support-bundle" => (200, json!({"node_id": 2})),
        _ => refused(502, "node_unreachable"),
    };
    let said = [
        (&["node", "snapshot", "2"][..], "node 2 has a snapshot up to entry 9\n"),
        (&["node", "compact-files", "2"], "the state of node 2 takes up 4 bytes, and took up 9 before\n"),
        (&["node", "elect", "2"], "node 1 leads in term 3, as before: a majority hears it\n"),
        (&["node", "log-filter", "2", "debug"], "node 2 logs debug, and logged info before\n"),
        (&["--json", "node", "snapshot", "2"], "{\"node_id\":2,\"snapshot_index\":9}\n"),
        (&["node", "support-bundle", "2"], "{\n  \"node_id\": 2\n}\n"),
    ];
    for (command, sentence) in said {
        let run = run_on(replies, command, b"").await;
        assert_eq!((run.exit, run.stdout.as_str()), (Exit::Done, sentence), "{}", run.stderr);
    }
    let run = run_on(replies, &["node", "show", "7"], b"").await;
    assert_eq!(run.exit, Exit::Unavailable);
}

/// A pipe whose reader has gone.
struct ClosedPipe;

impl std::io::Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

#[tokio::test]
async fn reader_that_goes_away_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(async || axum::Json(found(&[kv(b"a", b"1")], false).1));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let cli = Cli::parse_from(["aspen", "--addr", &address, "range"]);
    let mut stderr = Vec::new();
    let terminal = Terminal {
        stdin: &mut std::io::empty(),
        stdout: &mut ClosedPipe,
        stderr: &mut stderr,
        is_interactive: false,
    };
    assert_eq!(run(cli, terminal).await, Exit::Done);
    assert!(stderr.is_empty());
}

#[tokio::test]
async fn clients_of_a_load_share_the_connections_that_they_are_given() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let router = Router::new().fallback(async || axum::Json(json!({})));
    let counted = accepted.clone();
    let listener = listener.tap_io(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let load = ["bench", "--json", "--clients", "8", "--connections", "3", "--duration", "0.3"];
    let run = run_at(&address, &[&load[..], &["--warmup", "0.1"]].concat(), b"").await;
    assert_eq!(run.exit, Exit::Done, "{}", run.stderr);
    let report: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["clients"], &report["connections"]), (&json!(8), &json!(3)));
    assert!(report["kinds"][0]["operations"].as_u64() > Some(0), "{report}");
    // Besides the load, the figures of the node are asked for twice.
    assert_eq!(accepted.load(Ordering::SeqCst), 3 + 2);
}

#[tokio::test]
async fn a_load_over_iroh_needs_tickets_and_a_private_key() {
    let public_key = PublicKey(*iroh::SecretKey::from_bytes(&[7; 32]).public().as_bytes());
    let info = NodeInfo { public_key, ..NodeInfo::default() };
    let ticket = NodeTicket(Peer { node_id: NodeId(1), info }).to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let key_file = path.to_str().unwrap();
    let parse = |load: &[&str]| Cli::try_parse_from([&["aspen", "bench"], load].concat());
    assert!(parse(&["--iroh", &ticket, "--key-file", key_file]).is_ok());
    for (wrong, named) in [
        (&["--iroh", &ticket][..], "--key-file"),
        (&["--key-file", key_file], "--iroh"),
        (&["--iroh", "nonsense", "--key-file", key_file], "no node ticket"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }

    let load = ["bench", "--iroh", &ticket, "--key-file", key_file];
    for (text, mode, named) in
        [("77".repeat(32), 0o644, "chmod 600"), ("77".repeat(31), 0o600, "64 hex digits")]
    {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let run = run_at("127.0.0.1:1", &load, b"").await;
        assert_eq!(run.exit, Exit::Usage, "{}", run.stderr);
        assert!(run.stderr.contains(named) && run.stderr.contains(key_file), "{}", run.stderr);
    }
}
