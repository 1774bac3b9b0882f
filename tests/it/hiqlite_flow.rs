//! The control backend `hiqlite`, as real processes: a cluster is formed, loses its leader, and has every
//! acknowledged write; and what is wrong is answered within a bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::hiqlite::{Embedded, remote, secret};
use crate::support::node::Node;
use crate::support::wait_until;

/// The setting of how connections are protected.
const TLS: &str = "ASPEN_HIQLITE__TLS";

/// Longest answer of a read or write, with room for a busy machine.
const ANSWER: Duration = Duration::from_secs(8);

fn voters(node: &Node) -> Value {
    node.get("/health").json()["voters"].clone()
}

fn leader(nodes: &[Embedded]) -> usize {
    let mut found = None;
    wait_until("a node leads", || {
        found = nodes.iter().position(|node| {
            node.node.is_running() && {
                let health = node.node.get("/health").json();
                health["role"] == "leader" && health["state"] == "serving"
            }
        });
        found.is_some()
    });
    found.expect("it was waited for")
}

/// Writes through whichever of the nodes takes it, and notes what was acknowledged.
fn write(nodes: &[Embedded], written: &mut BTreeMap<String, String>, count: usize) {
    for number in 0..count {
        let (key, value) = (format!("flow/{}", written.len()), format!("value {number}"));
        let body = json!({ "put": { "key": key, "value": value } });
        wait_until("a write is acknowledged", || {
            let mut running = nodes.iter().filter(|node| node.node.is_running());
            running.any(|node| node.node.try_post("/write", &body).is_ok_and(|answer| answer.status == 200))
        });
        written.insert(key, value);
    }
}

fn check(node: &Node, written: &BTreeMap<String, String>) {
    let found = node.post("/read", &json!({ "range": { "prefix": "flow/" } })).ok();
    let found: BTreeMap<String, String> = found["kvs"]
        .as_array()
        .expect("a list of keys")
        .iter()
        .map(|kv| (kv["key"].as_str().unwrap().to_owned(), kv["value"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(&found, written, "read through node {}", node.id);
}

#[test]
fn a_cluster_is_formed_loses_its_leader_and_has_every_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    println!("init, writes, a learner, its promotion");
    let mut nodes =
        vec![Embedded::new(1, dir.path()), Embedded::new(2, dir.path()), Embedded::new(3, dir.path())];
    for node in &mut nodes {
        node.node.start();
        assert_eq!(node.node.get("/health").json()["state"], "waiting_for_init");
    }
    let refused = nodes[1].node.post("/init", &json!({}));
    assert_eq!(refused.json()["error"]["code"], "makes_no_cluster", "{refused:?}");
    nodes[0].node.post("/init", &json!({})).ok();
    assert_eq!(nodes[0].node.post("/init", &json!({})).json()["error"]["code"], "already_initialized");
    let mut written = BTreeMap::new();
    write(&nodes, &mut written, 20);
    for id in [2, 3] {
        let changed = nodes[0].add(&nodes[id - 1].node);
        assert!(changed["learners"].as_array().unwrap().contains(&json!(id)), "{changed}");
    }
    let unknown = nodes[0].node.post("/change-membership", &json!({ "voters": [1, 2, 9] }));
    assert_eq!(unknown.json()["error"]["code"], "unknown_node");
    let promoted = nodes[0].node.post("/change-membership", &json!({ "voters": [1, 2, 3] })).ok();
    assert_eq!(promoted["voters"], json!([1, 2, 3]));
    for node in &mut nodes {
        node.node.wait_until_ready();
        wait_until("each node knows of three voters", || voters(&node.node) == 3);
    }
    let status = nodes[2].node.get("/cluster").ok();
    assert_eq!(status["members"][0]["backend"]["api_addr"], json!(nodes[0].api_addr.to_string()));
    assert_eq!(status["members"][0]["public_key"], Value::Null, "nodes of Hiqlite have no keys");
    write(&nodes, &mut written, 20);

    println!("kill -9 of the leader");
    let old = leader(&nodes);
    nodes[old].node.kill();
    let killed = Instant::now();
    write(&nodes, &mut written, 1);
    let took = killed.elapsed();
    println!("the first write was acknowledged {took:?} after the kill");
    assert!(took < ANSWER, "{took:?}");
    write(&nodes, &mut written, 20);
    assert_ne!(leader(&nodes), old);

    println!("the restarted node catches up");
    nodes[old].node.start_serving();
    let last = written.last_key_value().map(|(key, _)| key.clone()).unwrap();
    let stale = json!({ "get": { "key": last }, "consistency": "stale" });
    wait_until("its own database has the last key", || {
        nodes[old].node.post("/read", &stale).ok()["kvs"].as_array().is_some_and(|kvs| kvs.len() == 1)
    });
    for node in &nodes {
        check(&node.node, &written);
    }

    println!("a voter becomes a learner, and leaves");
    let follower = nodes[(leader(&nodes) + 1) % 3].node.id;
    let others: Vec<u64> = (1..=3).filter(|id| *id != follower).collect();
    let by = &nodes[leader(&nodes)].node;
    let demoted = by.post("/change-membership", &json!({ "voters": others })).ok();
    assert_eq!((&demoted["voters"], &demoted["learners"]), (&json!(others), &json!([follower])));
    let removed = by.post("/change-membership", &json!({ "remove": [follower] })).ok();
    assert_eq!((&removed["voters"], &removed["learners"]), (&json!(others), &json!([])));
    write(&nodes, &mut written, 5);
}

#[test]
fn a_node_that_stops_in_order_has_everything_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Embedded::founded(dir.path());
    first.node.put("key", "value");
    assert!(first.node.terminate().success());
    first.node.start_serving();
    assert_eq!(first.node.value("key").as_deref(), Some("value"));
    first.node.kill();
    first.node.start_serving();
    assert_eq!(first.node.value("key").as_deref(), Some("value"));
}

#[test]
fn a_client_of_the_cluster_reads_and_writes_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::founded(dir.path());
    let mut client = remote(9, dir.path(), &[first.api_addr]);
    client.start_serving();
    client.put("through the client", "1");
    assert_eq!(first.node.value("through the client").as_deref(), Some("1"));
    let founded = client.post("/init", &json!({})).json();
    assert_eq!(founded["error"]["code"], "already_initialized");

    println!("a wrong secret");
    let wrong = secret(dir.path(), "wrong", "NotTheSecretAtAll").to_str().unwrap().to_owned();
    let mut stranger =
        remote(8, dir.path(), &[first.api_addr]).with_env("ASPEN_HIQLITE__SECRET_API_FILE", &wrong);
    expect_no_quorum(&mut stranger, "refuses the secret");

    println!("TLS that the cluster does not speak");
    let client = || remote(7, dir.path(), &[first.api_addr]);
    for mut mismatched in [client().with_env(TLS, "self-signed"), verifying(client())] {
        expect_no_quorum(&mut mismatched, "breaks off over https");
    }

    println!("a cluster that is not there");
    let nobody = Embedded::new(6, dir.path()).api_addr;
    let mut lonely = remote(5, dir.path(), &[nobody]);
    expect_no_quorum(&mut lonely, "cannot be reached");
}

#[test]
fn tls_is_spoken_among_nodes_and_by_clients_and_what_does_not_match_is_said_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::new(1, dir.path()).with_env(TLS, "self-signed").found();
    let mut second = Embedded::new(2, dir.path()).with_env(TLS, "self-signed");
    second.node.start();
    first.add(&second.node);
    first.node.post("/change-membership", &json!({ "voters": [1, 2] })).ok();
    let mut client = remote(9, dir.path(), &[first.api_addr, second.api_addr]).with_env(TLS, "self-signed");
    client.start_serving();
    client.put("through the client", "1");
    second.node.wait_until_ready();
    for node in [&first.node, &second.node, &client] {
        assert_eq!(node.value("through the client").as_deref(), Some("1"));
    }

    println!("a client without TLS");
    let mut plain = remote(8, dir.path(), &[first.api_addr]);
    expect_no_quorum(&mut plain, "breaks off over http:");
    println!("a client that trusts authorities alone");
    let mut strict = verifying(remote(7, dir.path(), &[first.api_addr]));
    expect_no_quorum(&mut strict, "is not trusted");
    println!("a node without TLS");
    let mut third = Embedded::new(3, dir.path());
    third.node.start();
    expect_not_added(&first, &third.node, "breaks off over https");
    assert_eq!(first.node.get("/cluster").ok()["members"].as_array().unwrap().len(), 2);
}

#[test]
fn a_node_with_another_secret_gets_no_vote() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::founded(dir.path());
    let wrong = secret(dir.path(), "wrong", "NotTheSecretAtAll").to_str().unwrap().to_owned();

    println!("another secret of the API");
    let mut second = Embedded::new(2, dir.path()).with_env("ASPEN_HIQLITE__SECRET_API_FILE", &wrong);
    second.node.start();
    expect_not_added(&first, &second.node, "refuses the secret");
    let members = |node: &Node| node.get("/cluster").ok()["members"].as_array().unwrap().len();
    assert_eq!(members(&first.node), 1);

    println!("another secret of the nodes, which shows once the leader sends to it");
    let mut third = Embedded::new(3, dir.path()).with_env("ASPEN_HIQLITE__SECRET_RAFT_FILE", &wrong);
    third.node.start();
    expect_not_added(&first, &third.node, "secret_raft_file");
    let promoted = first.node.post("/change-membership", &json!({ "voters": [1, 3] }));
    assert_eq!(promoted.json()["error"]["code"], "unreachable", "{promoted:?}");
    first.node.put("still", "writable");
    let removed = first.node.post("/change-membership", &json!({ "remove": [3] })).ok();
    assert_eq!((&removed["voters"], &removed["learners"]), (&json!([1]), &json!([])));
}

/// A client that trusts one authority, which has signed nothing, whatever this machine trusts.
fn verifying(client: Node) -> Node {
    const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/authority.pem");
    client.with_env(TLS, "verified").with_env("SSL_CERT_FILE", AUTHORITY)
}

/// The node is not taken in, which is said in time, with the reason.
fn expect_not_added(by: &Embedded, node: &Node, why: &str) {
    let began = Instant::now();
    let answer = by.node.post("/add-learner", &json!({ "ticket": node.endpoint() }));
    assert!(began.elapsed() < ANSWER * 2, "{:?}", began.elapsed());
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "unreachable", "{answer:?}");
    assert!(error["message"].as_str().unwrap().contains(why), "{answer:?}");
}

/// The node answers in time that there is no cluster, and why.
fn expect_no_quorum(node: &mut Node, why: &str) {
    node.start();
    wait_until("the node says what is wrong", || {
        node.get("/health").json()["detail"].as_str().is_some_and(|detail| detail.contains(why))
    });
    let began = Instant::now();
    let answer = node.post("/write", &json!({ "put": { "key": "a", "value": "b" } }));
    assert!(began.elapsed() < ANSWER, "{:?}", began.elapsed());
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (503, &json!("no_quorum")), "{answer:?}");
    assert!(error["message"].as_str().unwrap().contains(why), "{answer:?}");
    assert!(node.terminate().success());
}

#[test]
fn a_cluster_that_loses_its_quorum_answers_in_time_and_goes_on_once_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::founded(dir.path());
    let mut second = Embedded::new(2, dir.path());
    second.node.start();
    first.add(&second.node);
    first.node.post("/change-membership", &json!({ "voters": [1, 2] })).ok();
    let mut client = remote(9, dir.path(), &[first.api_addr, second.api_addr]);
    client.start_serving();
    first.node.put("before", "1");

    second.node.kill();
    for node in [&first.node, &client] {
        let requests = [
            ("/write", json!({ "put": { "key": "during", "value": "1" } })),
            ("/read", json!({ "get": { "key": "before" } })),
        ];
        for (path, body) in requests {
            let began = Instant::now();
            let answer = node.post(path, &body);
            assert!(began.elapsed() < ANSWER, "{path} took {:?}", began.elapsed());
            assert!(matches!(answer.status, 503 | 504), "{answer:?}");
        }
        wait_until("the node says that nobody leads", || node.get("/readyz").status == 503);
    }
    second.node.start();
    second.node.wait_until_ready();
    first.node.wait_until_writable();
    client.wait_until_writable();
    assert_eq!(client.value("before").as_deref(), Some("1"));
}

#[test]
fn keys_and_values_are_data_whatever_they_look_like() {
    let dir = tempfile::tempdir().unwrap();
    let first = Embedded::founded(dir.path());
    let hostile = "'); DROP TABLE aspen_kv; --";
    first.node.put(hostile, hostile);
    first.node.put("aspen_kv", "\" OR 1=1; ATTACH 'x' AS y;");
    assert_eq!(first.node.value(hostile).as_deref(), Some(hostile));
    let deleted = first.node.post("/write", &json!({ "delete_prefix": { "prefix": "' OR ''='" } })).ok();
    assert_eq!(deleted["results"][0]["delete"]["deleted"], 0);

    println!("a key that is no UTF-8");
    let bytes = json!({ "put": { "key": "/w==", "value": "gIE=" }, "encoding": "base64" });
    first.node.post("/write", &bytes).ok();
    let read = first.node.post("/read", &json!({ "get": { "key": "/w==" }, "encoding": "base64" })).ok();
    assert_eq!((&read["kvs"][0]["key"], &read["kvs"][0]["value"]), (&json!("/w=="), &json!("gIE=")));
}

#[test]
fn a_data_directory_belongs_to_one_backend() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Embedded::founded(dir.path());
    let mut raft = Node::new(1, dir.path(), &[]);
    println!("while the other one runs");
    raft.spawn();
    assert!(!raft.wait_for_end().success());
    assert!(raft.last_log().contains("is in use by"), "{}", raft.last_log());
    println!("and after it");
    first.node.kill();
    raft.spawn();
    assert!(!raft.wait_for_end().success());
    assert!(raft.last_log().contains("of the control backend hiqlite"), "{}", raft.last_log());

    println!("the same the other way round, and for an embedded node's directory in a client's hands");
    let other = tempfile::tempdir().unwrap();
    let mut raft = Node::new(1, other.path(), &[]);
    raft.start();
    assert!(raft.terminate().success());
    let mut embedded = Embedded::new(1, other.path());
    embedded.node.spawn();
    assert!(!embedded.node.wait_for_end().success());
    assert!(embedded.node.last_log().contains("of the control backend raft"), "{}", embedded.node.last_log());
    let mut client = remote(1, dir.path(), &[first.api_addr]);
    client.spawn();
    assert!(!client.wait_for_end().success());
    assert!(client.last_log().contains("embedded"), "{}", client.last_log());

    println!("another id");
    let mut renamed = Embedded::new(1, dir.path());
    renamed.node.spawn();
    assert!(!renamed.node.wait_for_end().success());
    assert!(renamed.node.last_log().contains("belongs to the node"), "{}", renamed.node.last_log());
}

#[test]
fn a_secret_that_is_missing_or_short_is_refused_before_anything_opens() {
    let dir = tempfile::tempdir().unwrap();
    let short = secret(dir.path(), "short", "tooshort").to_str().unwrap().to_owned();
    let mut node = Embedded::new(1, dir.path()).node.with_env("ASPEN_HIQLITE__SECRET_API_FILE", &short);
    node.spawn();
    assert_eq!(node.wait_for_end().code(), Some(2));
    assert!(node.last_log().contains("16 or more"), "{}", node.last_log());
    let mut bare = Node::new(2, dir.path(), &["--control-backend", "hiqlite"]);
    bare.spawn();
    assert_eq!(bare.wait_for_end().code(), Some(2));
    assert!(bare.last_log().contains("hiqlite.secret_api_file is not set"), "{}", bare.last_log());
}
