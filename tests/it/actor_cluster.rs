//! The agents of real nodes: each node shows all of them within a second, whatever has become of one, and
//! does to any of them what the operator of another one asks for.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aspen::kv::types::NodeId;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::http::{Answer, request};
use crate::support::node::Node;
use crate::support::wait_until;

/// The longest that a node may take to show all nodes.
const GLANCE: Duration = Duration::from_secs(1);

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit")
}

/// All nodes as one shows them, which must not take it longer than a glance.
fn nodes(asked: &Node) -> Vec<Value> {
    let begin = Instant::now();
    let cluster = asked.get("/cluster").ok();
    assert!(begin.elapsed() < GLANCE, "node {} took {:?}", asked.id, begin.elapsed());
    cluster["nodes"].as_array().expect("nodes are a list").clone()
}

fn view(asked: &Node, id: u64) -> Value {
    let all = nodes(asked);
    all.into_iter().find(|view| view["node_id"] == json!(id)).unwrap_or(Value::Null)
}

fn is_reachable(asked: &Node, id: u64) -> bool {
    view(asked, id)["reachable"] == json!(true)
}

fn wait_until_all_see_all(cluster: &Cluster) {
    let count = cluster.nodes.len() as u64;
    for asked in &cluster.nodes {
        wait_until(&format!("node {} shows all nodes", asked.id), || {
            (1..=count).all(|id| is_reachable(asked, id))
        });
    }
}

fn operate(asked: &Node, id: u64, operation: &str, body: &Value) -> Answer {
    asked.post(&format!("/nodes/{id}/{operation}"), body)
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (status, &json!(code)), "{answer:?}");
    assert!(error["action"].as_str().is_some_and(|action| !action.is_empty()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_all_nodes_within_a_second_whatever_has_become_of_one() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.nodes[0].put("k", "v");
    wait_until_all_see_all(&cluster);
    for asked in &cluster.nodes {
        let all = nodes(asked);
        assert_eq!(all.iter().map(|view| &view["node_id"]).collect::<Vec<_>>(), [1, 2, 3]);
        let leaders = all.iter().filter(|view| view["report"]["role"] == json!("leader"));
        assert_eq!(leaders.count(), 1, "{all:?}");
        for view in &all {
            let report = &view["report"];
            assert_eq!(report["version"], json!(env!("CARGO_PKG_VERSION")), "{view}");
            assert!(report["applied_index"].is_u64() && report["disk"]["free_bytes"].is_u64(), "{view}");
            let peers = report["peers"].as_array().expect("peers are a list");
            let others = peers.iter().filter(|peer| peer["node_id"] != view["node_id"]);
            assert_eq!(others.clone().count(), 2, "{view}");
            assert!(others.clone().all(|peer| peer["path_type"] == json!("direct")), "{view}");
            assert!(others.clone().all(|peer| peer["rtt_us"].is_u64()), "{view}");
        }
    }

    println!("one is killed: the others show it as unreachable since then");
    let killed_ms = now_ms();
    cluster.nodes[2].kill();
    for asked in &cluster.nodes[..2] {
        wait_until("the dead node is shown as unreachable", || !is_reachable(asked, 3));
        let dead = view(asked, 3);
        let since_ms = dead["unreachable_since_ms"].as_u64().expect("it says since when");
        assert!((killed_ms..=now_ms()).contains(&since_ms), "killed at {killed_ms}: {dead}");
        assert!(since_ms - killed_ms < 10_000, "killed at {killed_ms}: {dead}");
        assert!(dead["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{dead}");
        assert!(is_reachable(asked, 1) && is_reachable(asked, 2));
        assert_eq!(view(asked, 3)["unreachable_since_ms"], json!(since_ms), "it stays the same");
        assert_refused(&operate(asked, 3, "snapshot", &json!({})), 502, "node_unreachable");
    }

    println!("it comes back by itself, also where its restart is not noticed at once");
    cluster.nodes[2].start_serving();
    wait_until_all_see_all(&cluster);
    for index in [0, 1, 2, 0] {
        let killed_ms = now_ms();
        cluster.nodes[index].kill();
        cluster.nodes[index].start_serving();
        let id = cluster.nodes[index].id;
        for asked in cluster.nodes.iter().filter(|asked| asked.id != id) {
            wait_until("the node is shown by its new process's word", || {
                let report = &view(asked, id)["report"];
                report["uptime_s"].as_u64().is_some_and(|uptime_s| uptime_s * 1_000 <= now_ms() - killed_ms)
            });
        }
        wait_until_all_see_all(&cluster);
    }

    println!("one is stopped: the others answer as quickly as before, and see it when it goes on");
    cluster.nodes[1].signal("STOP");
    let stopped_ms = now_ms();
    for asked in [&cluster.nodes[0], &cluster.nodes[2]] {
        wait_until("the stopped node is shown as unreachable", || !is_reachable(asked, 2));
        let since_ms = view(asked, 2)["unreachable_since_ms"].as_u64().expect("it says since when");
        assert!((stopped_ms..=now_ms()).contains(&since_ms), "{since_ms}, stopped at {stopped_ms}");
        assert!(is_reachable(asked, 1) && is_reachable(asked, 3));
    }
    cluster.nodes[1].signal("CONT");
    wait_until_all_see_all(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_what_it_is_asked_for_through_another_one() {
    let cluster = Cluster::start(3, &[]).await;
    wait_until_all_see_all(&cluster);
    let leader = cluster.leader().await;
    let (asked, other) = (&cluster.nodes[(leader + 1) % 3], &cluster.nodes[(leader + 2) % 3]);
    let leader = &cluster.nodes[leader];

    let value = |node: &Node, field: &str| node.get("/cluster").ok()[field].clone();
    let keys = ["a-key-of-the-store", "another-key-of-the-store"];
    for key in keys {
        leader.put(key, "a-value-of-the-store");
    }
    println!("a snapshot, files, the log");
    assert_eq!(value(other, "snapshot_index"), Value::Null);
    let made = operate(asked, other.id, "snapshot", &json!({})).ok();
    assert_eq!(made["node_id"], json!(other.id));
    assert_eq!(value(other, "snapshot_index"), made["snapshot_index"]);
    assert_eq!(value(asked, "snapshot_index"), Value::Null, "it was another node's");
    let again = operate(asked, other.id, "snapshot", &json!({})).ok();
    assert!(again["snapshot_index"].as_u64() >= made["snapshot_index"].as_u64(), "{again}");

    let files = operate(asked, other.id, "compact-files", &json!({})).ok();
    assert!(files["before_bytes"].is_u64() && files["after_bytes"].is_u64(), "{files}");
    assert_eq!(other.value(keys[0]).as_deref(), Some("a-value-of-the-store"));

    let filter = json!({ "filter": "warn,aspen=debug" });
    let set = operate(asked, other.id, "log-filter", &filter).ok();
    assert_eq!(set["filter"], filter["filter"]);
    wait_until("the node logs more", || {
        // Requests are worth a line at this level.
        other.get("/health").ok();
        other.log().contains("DEBUG aspen")
    });
    assert!(!asked.log().contains("DEBUG aspen"));
    let report = asked.get(&format!("/nodes/{}", other.id)).ok();
    assert_eq!(report["log_filter"], filter["filter"]);
    assert_refused(
        &operate(asked, other.id, "log-filter", &json!({"filter": "aspen=loud"})),
        400,
        "bad_log_filter",
    );
    let reset = operate(asked, other.id, "log-filter", &json!({})).ok();
    assert_eq!((&reset["before"], &reset["filter"]), (&filter["filter"], &set["before"]));

    println!("a support bundle, without a secret");
    let bundle = asked.get(&format!("/nodes/{}/support-bundle", other.id));
    let json = bundle.ok();
    for part in ["version", "report", "cluster", "settings", "files", "recent_problems", "metrics"] {
        assert!(!json[part].is_null(), "{part} is missing");
    }
    assert!(json["metrics"].as_str().is_some_and(|text| text.contains("aspen_raft_term")));
    assert!(json["settings"].as_str().is_some_and(|text| text.contains("http_addr")));
    let secret = fs::read_to_string(other.dir.join("iroh-secret-key")).unwrap();
    for secret in [secret.trim(), keys[0], keys[1], "a-value-of-the-store"] {
        assert!(!bundle.body.contains(secret), "the bundle has {secret}");
    }

    println!("elections");
    let term = value(leader, "term");
    let stood = operate(asked, other.id, "elect", &json!({})).ok();
    assert_eq!((&stood["leader"], &stood["term"]), (&json!(leader.id), &term), "a healthy leader stays");
    assert_refused(&operate(asked, other.id, "transfer-leader", &json!({})), 409, "not_leading");
    assert_refused(&operate(asked, leader.id, "transfer-leader", &json!({ "to": 9 })), 400, "not_a_voter");
    let moved = operate(asked, leader.id, "transfer-leader", &json!({ "to": other.id })).ok();
    assert_eq!(moved["leader"], json!(other.id), "{moved}");
    assert!(moved["term"].as_u64() > term.as_u64(), "{moved}");
    let elected = operate(leader, other.id, "elect", &json!({})).ok();
    assert_eq!(elected["leader"], json!(other.id), "it leads already: {elected}");
    wait_until("writes go on", || {
        let put = json!({ "put": { "key": "k", "value": "v" } });
        asked.try_post("/write", &put).is_ok_and(|answer| answer.status == 200)
    });

    println!("what cannot be done is refused");
    assert_refused(&operate(asked, 9, "snapshot", &json!({})), 404, "unknown_node");
    assert_refused(&asked.get("/nodes/nonsense"), 400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_and_its_agent_are_gone_for_both() {
    let cluster = Cluster::start(3, &[]).await;
    wait_until_all_see_all(&cluster);
    let removed = &cluster.nodes[2];
    let change = json!({ "remove": [3] });
    cluster.nodes[0].post("/change-membership", &change).ok();
    for asked in &cluster.nodes[..2] {
        wait_until("the removed node is not shown", || nodes(asked).len() == 2);
        assert_refused(&asked.get("/nodes/3"), 404, "unknown_node");
    }
    wait_until("the removed node has no way to others", || {
        let answer = removed.get("/nodes/1");
        answer.status != 200
    });
    let view = cluster.client().overview().await.unwrap();
    assert_eq!(view.nodes.iter().map(|view| view.node_id).collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
}

#[test]
fn actors_open_no_port_but_on_loopback_and_a_bundle_holds_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = "a-token-that-nobody-must-see";
    let file = dir.path().join("token");
    fs::write(&file, token).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let flags = ["--bootstrap", "auto", "--http-token-file", file.to_str().unwrap()];
    let mut node = Node::new(1, dir.path(), &flags);
    node.start_serving();

    wait_until("the listener of the actors is there", || tcp_listeners(node.pid()).len() > 1);
    for address in tcp_listeners(node.pid()) {
        assert!(address.starts_with("0100007F:"), "{address} is not on loopback");
    }
    let bearing = format!("authorization: Bearer {token}\r\n");
    let bundle = request(node.http(), "GET", "/nodes/1/support-bundle", &bearing, b"");
    bundle.ok();
    assert!(!bundle.body.contains(token), "the bundle has the token");
    assert_eq!(request(node.http(), "GET", "/nodes/1/support-bundle", "", b"").status, 401);
}

/// The addresses at which a process listens, as the kernel writes them.
fn tcp_listeners(pid: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").flatten();
    let sockets: Vec<String> = links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut addresses = Vec::new();
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        let text = fs::read_to_string(Path::new(&path)).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The state of a listener, and the socket's number.
            if fields[3] == "0A" && sockets.iter().any(|socket| socket == fields[9]) {
                addresses.push(fields[1].to_owned());
            }
        }
    }
    addresses
}
