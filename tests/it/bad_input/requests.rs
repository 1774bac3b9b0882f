//! HTTP requests that a node refuses, each with a code, a sentence and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{
    FAILED, REFUSED, assert_data_kept, assert_ends, assert_says, serving_with_data, temporary_directory,
};
use crate::support::http::{Answer, request};
use crate::support::node::Node;

/// The answer is an error of that kind, complete, and its sentence or its advice has all of the parts.
fn assert_error(answer: &Answer, status: u16, code: &str, parts: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{error}");
    let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let (message, action) = (field("message"), field("action"));
    assert!(!message.is_empty() && !action.is_empty(), "{error}");
    for part in parts {
        assert!(message.contains(part) || action.contains(part), "'{part}' is missing in {error}");
    }
}

fn put(key: &str, value: &str) -> Value {
    json!({ "put": { "key": key, "value": value } })
}

fn cluster(node: &Node) -> Value {
    node.get("/cluster").ok()
}

#[test]
fn requests_out_of_bounds_are_refused_with_the_bound_and_write_nothing() {
    let dir = temporary_directory();
    let node = serving_with_data(1, dir.path());
    let before = cluster(&node)["revision"].clone();

    let ten_mb = "x".repeat(10_000_000);
    let over_value_limit = "x".repeat(1_100_000);
    let long_key = "k".repeat(5 * 1024);
    let many: Vec<Value> = (0..200).map(|i| json!({ "key": format!("k{i}"), "value": "v" })).collect();
    for (body, status, code, parts) in [
        (put("k", &ten_mb), 413, "body_too_large", ["4194304", "smaller"].as_slice()),
        (put("k", &over_value_limit), 413, "value_too_large", &["1100000 bytes", "1040384", "put.value"]),
        (put(&long_key, "v"), 413, "key_too_large", &["5120 bytes", "4096", "put.key"]),
        (put("", "v"), 400, "empty_key", &["put.key", "at least one byte"]),
        (json!({ "set_multi": { "pairs": many } }), 413, "too_many_ops", &["200", "128", "smaller"]),
    ] {
        assert_error(&node.post("/write", &body), status, code, parts);
    }
    let read = json!({ "get": { "key": long_key } });
    assert_error(&node.post("/read", &read), 413, "key_too_large", &["get.key"]);

    assert_eq!(cluster(&node)["revision"], before, "a refused write was applied");
    assert_data_kept(&node);
}

#[test]
fn malformed_requests_are_refused_with_the_place_and_write_nothing() {
    let dir = temporary_directory();
    let node = serving_with_data(1, dir.path());
    let before = cluster(&node)["revision"].clone();

    let base64 = json!({ "put": { "key": "a2V5", "value": "no base64!" }, "encoding": "base64" });
    assert_error(
        &node.post("/write", &base64),
        400,
        "bad_request",
        &["put.value is no base64", "base64 with padding"],
    );
    for (body, status, code, parts) in [
        ("{\"put\":", 400, "bad_json", ["line 1 column 7", "docs/http-api.md"].as_slice()),
        ("", 400, "bad_json", &["line 1"]),
        ("\u{0}\u{1}\u{2}", 400, "bad_json", &["line 1 column 1"]),
        ("7", 400, "bad_json", &["expected struct WriteForm"]),
        ("{\"putt\":{\"key\":\"k\",\"value\":\"v\"}}", 400, "bad_json", &["unknown field `putt`", "`put`"]),
        ("{\"put\":{\"key\":1,\"value\":\"v\"}}", 400, "bad_json", &["expected a string"]),
        ("{}", 400, "bad_request", &["exactly one of", "none of them"]),
        (
            "{\"put\":{\"key\":\"k\",\"value\":\"v\"},\"delete\":{\"key\":\"k\"}}",
            400,
            "bad_request",
            &["exactly one of", "put and delete"],
        ),
    ] {
        assert_error(&node.post_text("/write", body), status, code, parts);
    }

    let addr = node.http();
    let plain = request(addr, "POST", "/write", "content-type: text/plain\r\n", b"{}");
    assert_error(&plain, 415, "wrong_content_type", &["text/plain", "application/json"]);
    assert_error(&node.get("/v2/keys"), 404, "unknown_path", &["/v2/keys", "docs/http-api.md"]);
    let wrong = node.get("/write");
    assert_error(&wrong, 405, "wrong_method", &["/write takes no GET", "'allow'"]);
    assert!(wrong.head.contains("allow: post"), "{wrong:?}");

    assert_eq!(cluster(&node)["revision"], before, "a refused write was applied");
    assert_data_kept(&node);
}

#[test]
fn changes_to_the_cluster_that_make_no_sense_are_refused_and_change_nothing() {
    let dir = temporary_directory();
    let node = serving_with_data(1, dir.path());
    let membership = |node: &Node| {
        let members = cluster(node)["members"].as_array().expect("members are a list").clone();
        members.iter().map(|member| (member["node_id"].clone(), member["role"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(membership(&node), [(json!(1), json!("leader"))]);

    for _ in 0..2 {
        let again = node.post_text("/init", "");
        assert_error(&again, 409, "already_initialized", &["node 1 already belongs", "GET /cluster"]);
    }
    for (change, status, code, parts) in [
        (
            json!({ "voters": [1, 7] }),
            404,
            "unknown_node",
            ["node 7 is no member", "as a learner first"].as_slice(),
        ),
        (json!({ "remove": [7] }), 404, "unknown_node", &["node 7 is no member"]),
        (json!({ "voters": [] }), 400, "no_voters", &["without a voter", "at least one"]),
        (json!({ "remove": [1] }), 400, "no_voters", &["without a voter"]),
        (json!({}), 400, "bad_request", &["neither voters nor members to remove"]),
        (json!({ "voters": ["one"] }), 400, "bad_json", &["docs/http-api.md"]),
    ] {
        assert_error(&node.post("/change-membership", &change), status, code, parts);
    }
    for ticket in ["", "nonsense", "aspennodeaaaa", &node.endpoint()] {
        let form = json!({ "ticket": ticket });
        assert_error(&node.post("/add-learner", &form), 400, "bad_ticket", &["cannot be used as a ticket"]);
        let form = json!({ "peers": [ticket] });
        assert_error(&node.post("/peers", &form), 400, "bad_ticket", &["cannot be used as a ticket"]);
    }

    assert_eq!(membership(&node), [(json!(1), json!("leader"))]);
    assert_eq!(node.get("/peers").ok()["peers"], json!([]));
    assert_data_kept(&node);
}

#[test]
fn token_is_asked_for_and_must_be_the_right_one() {
    let dir = temporary_directory();
    let token = "0123456789abcdef";
    let file = dir.path().join("token");
    fs::write(&file, token).expect("a file can be written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the mode can be set");
    let mut node = Node::new(1, dir.path(), &[]).with_flags(["--http-token-file", &file.to_string_lossy()]);
    node.start_serving();

    let addr = node.http();
    let write = |headers: &str| {
        let headers = format!("content-type: application/json\r\n{headers}");
        request(addr, "POST", "/write", &headers, put("k", "v").to_string().as_bytes())
    };
    let before = write("");
    assert_error(&before, 401, "unauthorized", &["bears no token", "authorization: Bearer TOKEN"]);
    assert!(before.head.contains("www-authenticate: bearer"), "{before:?}");
    for wrong in ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef"] {
        let answer = write(&format!("authorization: {wrong}\r\n"));
        assert_error(&answer, 401, "unauthorized", &["authorization: Bearer TOKEN"]);
    }
    for path in ["/health", "/metrics", "/iroh-metrics", "/cluster", "/peers"] {
        assert_error(&node.get(path), 401, "unauthorized", &["bears no token"]);
    }
    assert_eq!((node.get("/livez").status, node.get("/readyz").status), (200, 200));

    let first = write(&format!("authorization: Bearer {token}\r\n")).ok();
    assert_eq!(first["revision"], 1, "a write without the token was applied: {first}");
    assert!(!node.log().contains(token), "the token stands in the log");
}

#[test]
fn tokens_that_protect_nothing_are_refused_before_a_port_opens() {
    let dir = temporary_directory();
    let file = dir.path().join("token");
    let path = file.to_string_lossy();
    for (token, code, parts) in [
        ("short", FAILED, ["the token has 5 bytes", "it must have 16 to 1024", "openssl rand"].as_slice()),
        ("", REFUSED, &["http_token_file", "is empty", "Write the secret into it"]),
        ("sixteen and more bytes", REFUSED, &["http_token_file", "no HTTP header can carry"]),
    ] {
        fs::write(&file, token).expect("a file can be written");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the mode can be set");
        let mut node = Node::new(1, dir.path(), &["--http-token-file", &path]);
        assert_ends(&mut node, code, parts);
        assert!(token.is_empty() || !node.last_log().contains(token), "the token stands in the log");
    }
}

#[test]
fn node_of_no_cluster_says_so_instead_of_waiting() {
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &["--bootstrap", "manual"]);
    node.start();
    assert_error(&node.post("/write", &put("k", "v")), 503, "not_initialized", &["POST /init here"]);
    let read = json!({ "get": { "key": "k" } });
    assert_error(&node.post("/read", &read), 503, "not_initialized", &["POST /init here"]);
    let health = node.get("/health");
    assert_eq!((health.status, &health.json()["state"]), (503, &json!("waiting_for_init")));
    assert!(
        health.json()["detail"].as_str().is_some_and(|detail| detail.contains("aspen init")),
        "{health:?}"
    );
    assert_eq!((node.get("/livez").status, node.get("/readyz").status), (200, 503));

    node.post_text("/init", "").ok();
    node.put("k", "v");
    assert!(node.terminate().success());
    assert_says(&node.last_log(), &["the node has stopped"]);
}
