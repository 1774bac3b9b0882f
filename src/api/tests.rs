//! The router over fakes: every way that a request can fail, and the bounds.

mod clusters;
mod wire;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use serde_json::{Value as Json, json};
use tower::ServiceExt;

use super::fakes::{FakeAgents, FakeCluster, FakePeers, FakeStore, any_kv, status};
use super::*;
use crate::kv::types::{
    AgentError, AgentReply, ClusterStatus, KvError, LeaderHint, NodeId, NodeState, RestoreId, RestoreStep,
    Revision, SnapshotMade, WriteOp, WriteReply,
};

const TOKEN: &str = "0123456789abcdef";

fn state(kv: FakeStore) -> ApiState {
    ApiState {
        kv: Arc::new(kv),
        cluster: Arc::new(FakeCluster::serving()),
        agents: Arc::new(FakeAgents::default()),
        peers: Arc::new(FakePeers::default()),
        render_metrics: Arc::new(|| "aspen_up 1\n".to_owned()),
        render_iroh_metrics: Arc::new(|| "iroh_up 1\n".to_owned()),
        token: None,
    }
}

fn api(kv: FakeStore) -> Router {
    router(state(kv))
}

fn post(path: &str, body: &str) -> Request<Body> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn text(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn answer(router: &Router, request: Request<Body>) -> (u16, Json) {
    let (status, text) = text(router, request).await;
    (status.as_u16(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// Sends a request that must fail, and gives status and code.
async fn refusal(router: &Router, request: Request<Body>) -> (u16, String) {
    let (status, body) = answer(router, request).await;
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    assert!(error["action"].as_str().is_some_and(|action| !action.is_empty()), "{body}");
    (status, error["code"].as_str().expect("a code").to_owned())
}

#[tokio::test]
async fn write_and_read_answer_in_the_documented_form() {
    let router = api(FakeStore::default());
    let (status, body) = answer(&router, post("/write", r#"{"put":{"key":"a","value":"1"}}"#)).await;
    assert_eq!(status, 200);
    assert_eq!(body, json!({"revision": 7, "succeeded": true, "results": [{"put": {}}], "replayed": false}));
    let (status, body) = answer(&router, post("/read", r#"{"get":{"key":"a"}}"#)).await;
    assert_eq!(status, 200);
    let kv = json!({
        "key": "a", "value": "1", "create_revision": 1, "mod_revision": 2, "version": 2, "lease": 0
    });
    assert_eq!(body, json!({"revision": 7, "kvs": [kv], "more": false}));
}

#[tokio::test]
async fn base64_goes_both_ways_and_is_asked_for_where_text_cannot_say_it() {
    let router = api(FakeStore::reading(any_kv(b"a", b"\xff\x00")));
    let request = post("/read", r#"{"get":{"key":"a"}}"#);
    assert_eq!(refusal(&router, request).await, (406, "not_utf8".to_owned()));
    let (status, body) =
        answer(&router, post("/read", r#"{"get":{"key":"YQ=="},"encoding":"base64"}"#)).await;
    assert_eq!((status, &body["kvs"][0]["value"]), (200, &json!("/wA=")));
}

#[tokio::test]
async fn every_failure_of_the_store_has_its_status() {
    let leader = LeaderHint { node_id: NodeId(2), http_addr: Some("10.0.0.2:4600".parse().unwrap()) };
    let reason = || "cut".to_owned();
    let failures = [
        (KvError::ZeroSequence, 400),
        (KvError::FutureRevision { requested: Revision(9), current: Revision(1) }, 400),
        (KvError::KeyTooLarge { bytes: 2, max_bytes: 1 }, 413),
        (KvError::ValueTooLarge { bytes: 2, max_bytes: 1 }, 413),
        (KvError::TooManyOps { ops: 2, max_ops: 1 }, 413),
        (KvError::CommandTooLarge { bytes: 2, max_bytes: 1 }, 413),
        (KvError::SequenceTooOld { sequence: 1, last: 2 }, 409),
        (KvError::SessionExpired { forgotten: Revision(3) }, 409),
        (KvError::Compacted { requested: Revision(1), compacted: Revision(5) }, 410),
        (KvError::NotLeader { leader: leader.clone(), reason: reason() }, 503),
        (KvError::NoQuorum { waited_ms: 5_000, reason: reason() }, 503),
        (KvError::OutcomeUnknown { waited_ms: 5_000 }, 504),
        (KvError::NotInitialized, 503),
        (KvError::Recovering, 503),
        (KvError::Overloaded { in_work: 1 }, 503),
        (KvError::Stopping { reason: reason() }, 503),
        (KvError::Storage { reason: reason() }, 500),
        (KvError::UnsupportedByBackend { backend: reason(), operation: reason() }, 501),
        (KvError::NotEmpty { keys: 2, revision: Revision(3) }, 409),
        (KvError::NoSuchRestore { id: RestoreId::random() }, 409),
        (KvError::RestoreOutOfOrder { given: 2, expected: 1 }, 409),
        (KvError::BadRestore { reason: reason() }, 400),
        (KvError::BackupsFull { in_work: 1 }, 503),
        (KvError::DiskFull { node_id: NodeId(1), free_bytes: 1, kept_bytes: 2, needed_bytes: 3 }, 507),
    ];
    for (error, status) in failures {
        let code = error.code().to_owned();
        let router = api(FakeStore::failing(error));
        let write = refusal(&router, post("/write", r#"{"delete":{"key":"a"}}"#)).await;
        assert_eq!(write, (status, code.clone()));
        let read = refusal(&router, post("/read", r#"{"get":{"key":"a"}}"#)).await;
        assert_eq!(read, (status, code.clone()));
        assert_eq!(refusal(&router, get("/backup")).await, (status, code.clone()));
        assert_eq!(refusal(&router, post("/restore", r#"{"abort":{}}"#)).await, (status, code));
    }
}

#[tokio::test]
async fn error_carries_leader_and_values() {
    let leader = LeaderHint { node_id: NodeId(2), http_addr: Some("10.0.0.2:4600".parse().unwrap()) };
    let router = api(FakeStore::failing(KvError::NotLeader { leader, reason: "cut".to_owned() }));
    let (_, body) = answer(&router, post("/read", r#"{"get":{"key":"a"}}"#)).await;
    assert_eq!(body["error"]["leader"], json!({"node_id": 2, "http_addr": "10.0.0.2:4600"}));
    let error = KvError::Compacted { requested: Revision(1), compacted: Revision(5) };
    let (_, body) = answer(&api(FakeStore::failing(error)), post("/read", r#"{"get":{"key":"a"}}"#)).await;
    assert_eq!(body["error"]["details"], json!({"requested": 1, "compacted": 5}));
}

#[tokio::test]
async fn malformed_requests_each_have_their_own_error() {
    let router = api(FakeStore::default());
    let bad_json = post("/write", "{\"put\":\n {\"key\":");
    let (status, body) = answer(&router, bad_json).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("bad_json")));
    assert_eq!(body["error"]["details"], json!({"line": 2, "column": 8}));

    let misspelt = post("/read", r#"{"get":{"key":"a"},"consistancy":"stale"}"#);
    let (_, body) = answer(&router, misspelt).await;
    assert!(body["error"]["message"].as_str().unwrap().contains("`consistency`"), "{body}");

    assert_eq!(refusal(&router, post("/write", "{}")).await, (400, "bad_request".to_owned()));
    assert_eq!(refusal(&router, get("/nowhere")).await, (404, "unknown_path".to_owned()));
    assert_eq!(refusal(&router, get("/write")).await, (405, "wrong_method".to_owned()));
    let untyped = Request::post("/write").body(Body::from("{}")).unwrap();
    assert_eq!(refusal(&router, untyped).await, (415, "wrong_content_type".to_owned()));
    let form = Request::post("/read").header(header::CONTENT_TYPE, "text/plain").body(Body::from("{}"));
    assert_eq!(refusal(&router, form.unwrap()).await, (415, "wrong_content_type".to_owned()));
}

#[tokio::test]
async fn wrong_method_is_told_the_right_one() {
    let response = api(FakeStore::default()).oneshot(get("/write")).await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "POST");
}

#[tokio::test]
async fn size_limits_each_have_their_own_error() {
    let router = api(FakeStore::default());
    let value = "v".repeat(limits::VALUE_MAX_BYTES + 1);
    let request = post("/write", &format!(r#"{{"put":{{"key":"a","value":"{value}"}}}}"#));
    assert_eq!(refusal(&router, request).await, (413, "value_too_large".to_owned()));
    let key = "k".repeat(limits::KEY_MAX_BYTES + 1);
    let request = post("/read", &format!(r#"{{"get":{{"key":"{key}"}}}}"#));
    assert_eq!(refusal(&router, request).await, (413, "key_too_large".to_owned()));
    let request = post("/write", &" ".repeat(limits::HTTP_BODY_MAX_BYTES + 1));
    let (status, body) = answer(&router, request).await;
    assert_eq!((status, &body["error"]["code"]), (413, &json!("body_too_large")));
    assert_eq!(body["error"]["details"], json!({"max_bytes": limits::HTTP_BODY_MAX_BYTES}));
}

#[tokio::test]
async fn pages_of_browsers_do_not_speak_for_the_machine_where_no_token_is_asked_for() {
    let router = api(FakeStore::default());
    let with = |name: header::HeaderName, value: &str| {
        Request::get("/cluster").header(name, value).body(Body::empty()).unwrap()
    };
    for host in ["127.0.0.1:4600", "[::1]:4600", "localhost:4600", "LOCALHOST", "192.0.2.1", "::1"] {
        assert_eq!(text(&router, with(header::HOST, host)).await.0, StatusCode::OK, "{host}");
    }
    for host in
        ["evil.example:4600", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""]
    {
        let refused = refusal(&router, with(header::HOST, host)).await;
        assert_eq!(refused, (403, "not_from_pages".to_owned()), "{host}");
    }
    for origin in ["http://evil.example", "null", "http://127.0.0.1:4600"] {
        let refused = refusal(&router, with(header::ORIGIN, origin)).await;
        assert_eq!(refused, (403, "not_from_pages".to_owned()), "{origin}");
    }
}

#[tokio::test]
async fn token_is_asked_for_everywhere_but_on_the_two_probes() {
    let token = Some(HttpToken::new(TOKEN).unwrap());
    let router = router(ApiState { token, ..state(FakeStore::default()) });
    for path in ["/health", "/metrics", "/iroh-metrics", "/cluster", "/peers", "/nowhere"] {
        assert_eq!(refusal(&router, get(path)).await, (401, "unauthorized".to_owned()), "{path}");
    }
    assert_eq!(text(&router, get("/livez")).await.0, StatusCode::OK);
    assert_eq!(text(&router, get("/readyz")).await.0, StatusCode::OK);
    for (sent, status) in [
        (format!("Bearer {TOKEN}"), 200),
        (format!("bearer {TOKEN}"), 200),
        (format!("Bearer {TOKEN}x"), 401),
        (format!("Basic {TOKEN}"), 401),
        ("Bearer".to_owned(), 401),
    ] {
        let request = Request::get("/cluster").header(header::AUTHORIZATION, &sent).body(Body::empty());
        assert_eq!(text(&router, request.unwrap()).await.0.as_u16(), status, "{sent}");
    }
}

#[tokio::test]
async fn overload_is_answered_at_once_and_probes_still_work() {
    let bounds = Bounds { requests_max_count: 1, ..Bounds::default() };
    let store = FakeStore::hanging();
    let started = store.started.clone();
    let router = router_within(state(store), bounds);
    let first = tokio::spawn(router.clone().oneshot(post("/read", r#"{"get":{"key":"a"}}"#)));
    started.notified().await;
    let second = post("/read", r#"{"get":{"key":"a"}}"#);
    assert_eq!(refusal(&router, second).await, (503, "overloaded".to_owned()));
    assert_eq!(text(&router, get("/health")).await.0, StatusCode::OK);
    assert_eq!(text(&router, get("/metrics")).await.1, "aspen_up 1\n");
    first.abort();
    assert!(first.await.is_err(), "the first request hangs until it is dropped");
    assert_eq!(answer(&router, get("/cluster")).await.0, 200, "its place is free again");
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_refused() {
    let bounds = Bounds { bodies_max_bytes: 100, ..Bounds::default() };
    let store = FakeStore::hanging();
    let started = store.started.clone();
    let router = router_within(state(store), bounds);
    let body = format!(r#"{{"put":{{"key":"a","value":"{}"}}}}"#, "v".repeat(40));
    let first = tokio::spawn(router.clone().oneshot(post("/write", &body)));
    started.notified().await;
    assert_eq!(refusal(&router, post("/write", &body)).await, (503, "overloaded".to_owned()));
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn request_that_takes_too_long_is_ended() {
    let router = api(FakeStore::hanging());
    let request = post("/write", r#"{"delete":{"key":"a"}}"#);
    assert_eq!(refusal(&router, request).await, (504, "timeout".to_owned()));
}

#[tokio::test]
async fn a_request_keeps_its_name_and_one_that_fails_gets_one() {
    let router = api(FakeStore::panicking());
    let name = async |request: Request<Body>| {
        let response = router.clone().oneshot(request).await.unwrap();
        let name = response.headers().get("x-request-id").map(|name| name.to_str().unwrap().to_owned());
        (response.status().as_u16(), name)
    };
    let named =
        |path: &str| Request::get(path).header("x-request-id", "deploy-7").body(Body::empty()).unwrap();
    assert_eq!(name(named("/livez")).await, (200, Some("deploy-7".to_owned())));
    assert_eq!(name(named("/nowhere")).await, (404, Some("deploy-7".to_owned())));
    assert_eq!(name(get("/livez")).await, (200, None));
    let (first, second) = (name(get("/nowhere")).await, name(get("/nowhere")).await);
    assert!(first.1.is_some() && first != second, "{first:?} {second:?}");
    let spaced = Request::get("/livez").header("x-request-id", "two words").body(Body::empty()).unwrap();
    assert_eq!(name(spaced).await, (200, None));
}

#[tokio::test]
async fn panic_of_a_handler_is_an_answer_and_not_a_torn_connection() {
    let router = api(FakeStore::panicking());
    let request = post("/write", r#"{"delete":{"key":"a"}}"#);
    assert_eq!(refusal(&router, request).await, (500, "internal".to_owned()));
}

#[tokio::test]
async fn compaction_is_repeated_until_it_is_complete() {
    let steps = std::sync::atomic::AtomicUsize::new(0);
    let router = api(FakeStore::writing(move |command| {
        assert_eq!(command.op, WriteOp::Compact { revision: Revision(5) });
        let step = steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let succeeded = step == 2;
        Ok(WriteReply { revision: Revision(9), succeeded, results: Vec::new(), replayed: false })
    }));
    let (status, body) = answer(&router, post("/write", r#"{"compact":{"revision":5}}"#)).await;
    assert_eq!((status, &body["succeeded"]), (200, &json!(true)));
}

#[tokio::test]
async fn backup_that_breaks_off_is_no_whole_answer() {
    let response = api(FakeStore::default()).oneshot(get("/backup")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/octet-stream");
    let mut body = response.into_body().into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "2 of node 1");
    assert!(body.next().await.unwrap().is_err());
}

#[tokio::test]
async fn steps_of_a_restore_reach_the_store_as_they_were_sent() {
    let router = api(FakeStore::writing(|command| {
        let WriteOp::Restore(RestoreStep::Chunk { number, rows, .. }) = command.op else { panic!("a chunk") };
        assert_eq!((number, &rows[..]), (4, &b"rows"[..]));
        Ok(WriteReply { revision: Revision(9), succeeded: true, results: Vec::new(), replayed: true })
    }));
    let id = RestoreId::random();
    let chunk = format!(r#"{{"chunk":{{"id":"{id}","number":4,"checksum":1,"rows":"cm93cw=="}}}}"#);
    let (status, body) = answer(&router, post("/restore", &chunk)).await;
    assert_eq!(status, 200);
    assert_eq!(body, json!({"revision": 9, "succeeded": true, "results": [], "replayed": true}));
    assert_eq!(refusal(&router, post("/restore", "{}")).await, (400, "bad_request".to_owned()));
}

#[tokio::test]
async fn health_and_readiness_follow_the_node() {
    for (node_state, code) in [
        (NodeState::Serving, 200),
        (NodeState::WaitingForInit, 503),
        (NodeState::Recovering, 503),
        (NodeState::NoLeader, 503),
        (NodeState::Stopping, 503),
    ] {
        let cluster = Arc::new(FakeCluster(status(node_state)));
        let router = router(ApiState { cluster, ..state(FakeStore::default()) });
        let (health, body) = answer(&router, get("/health")).await;
        assert_eq!((health, &body["state"]), (code, &json!(node_state.as_str())));
        assert_eq!(body["healthy"], json!(code == 200));
        assert_eq!((body["voters"].as_u64(), body["learners"].as_u64()), (Some(1), Some(1)));
        assert_eq!(answer(&router, get("/readyz")).await.0, code);
        assert_eq!(answer(&router, get("/livez")).await.0, 200);
    }
}

#[tokio::test]
async fn membership_requests_reach_the_controller_or_are_refused() {
    let router = api(FakeStore::default());
    let empty = post("/change-membership", r#"{"voters":[]}"#);
    assert_eq!(refusal(&router, empty).await, (400, "no_voters".to_owned()));
    let nothing = post("/change-membership", "{}");
    assert_eq!(refusal(&router, nothing).await, (400, "bad_request".to_owned()));
    let unknown = post("/change-membership", r#"{"voters":[1,9]}"#);
    assert_eq!(refusal(&router, unknown).await, (404, "unknown_node".to_owned()));
    let (code, body) = answer(&router, post("/change-membership", r#"{"voters":[1,2]}"#)).await;
    assert_eq!((code, body), (200, json!({"voters": [1, 2], "learners": [], "log_index": 12})));
    let twice = Request::post("/init").body(Body::empty()).unwrap();
    assert_eq!(refusal(&router, twice).await, (409, "already_initialized".to_owned()));
}

#[tokio::test]
async fn nodes_are_asked_through_their_agents_or_the_reason_is_told() {
    let agents = Arc::new(FakeAgents::default());
    let router = router(ApiState { agents: agents.clone(), ..state(FakeStore::default()) });
    let snapshot = || Request::post("/nodes/2/snapshot").body(Body::empty()).unwrap();
    let node_id = NodeId(2);
    let failures = [
        (AgentError::Unreachable { node_id, since_ms: 7, reason: "cut".to_owned() }, 502),
        (AgentError::NoAnswer { node_id, waited_ms: 600 }, 504),
        (AgentError::Busy { node_id, in_work: 64 }, 503),
        (AgentError::NotUnderstood { node_id, version: "1".to_owned(), reason: "new".to_owned() }, 502),
        (AgentError::BadLogFilter { filter: "loud".to_owned(), reason: "no level".to_owned() }, 400),
        (AgentError::NotLeading { node_id, leader: Some(NodeId(1)) }, 409),
        (AgentError::NotAVoter { node_id, to: NodeId(9) }, 400),
        (AgentError::NotHandedOver { node_id, reason: "none answers".to_owned() }, 409),
        (AgentError::NotDone { node_id, what: "a snapshot".to_owned(), waited_ms: 9 }, 504),
        (AgentError::Failed { node_id, what: "a snapshot".to_owned(), reason: "no room".to_owned() }, 502),
    ];
    for (error, status) in failures {
        let code = error.code().to_owned();
        *agents.0.lock().unwrap() = Some(Err(error));
        assert_eq!(refusal(&router, snapshot()).await, (status, code));
    }
    let made = SnapshotMade { node_id, snapshot_index: Some(9) };
    *agents.0.lock().unwrap() = Some(Ok(AgentReply::Snapshot(made)));
    assert_eq!(answer(&router, snapshot()).await, (200, json!({"node_id": 2, "snapshot_index": 9})));
    // Another version's agent may answer with anything.
    let elect = Request::post("/nodes/2/elect").body(Body::empty()).unwrap();
    assert_eq!(refusal(&router, elect).await, (502, "node_version".to_owned()));
    assert_eq!(refusal(&router, get("/nodes/3")).await, (404, "unknown_node".to_owned()));
    for no_id in ["/nodes/second", "/nodes/%FF", "/nodes/%C3%A9"] {
        assert_eq!(refusal(&router, get(no_id)).await, (400, "bad_request".to_owned()), "{no_id}");
    }
    let no_ticket = Request::delete("/tickets/%FF").body(Body::empty()).unwrap();
    assert_eq!(refusal(&router, no_ticket).await, (400, "bad_request".to_owned()));
    let misspelt = post("/nodes/2/log-filter", r#"{"fliter":"info"}"#);
    assert_eq!(refusal(&router, misspelt).await, (400, "bad_json".to_owned()));
    let (_, body) = answer(&router, get("/cluster")).await;
    let gone = json!({
        "node_id": 2, "reachable": false, "unreachable_since_ms": 7, "reason": "it is gone"
    });
    assert_eq!((&body["node_id"], &body["nodes"]), (&json!(1), &json!([gone])));
}

#[tokio::test]
async fn tickets_are_checked_before_anything_is_done_with_them() {
    let router = api(FakeStore::default());
    let nonsense = post("/add-learner", r#"{"ticket":"nonsense"}"#);
    assert_eq!(refusal(&router, nonsense).await, (400, "bad_ticket".to_owned()));
    let (code, body) = answer(&router, post("/add-learner", r#"{"ticket":"node-3"}"#)).await;
    assert_eq!((code, &body["learners"]), (200, &json!([3])));
    let half = post("/peers", r#"{"peers":["node-4","nonsense"]}"#);
    assert_eq!(refusal(&router, half).await, (400, "bad_ticket".to_owned()));
    assert_eq!(answer(&router, get("/peers")).await.1, json!({"ticket": "node-1", "peers": []}));
    let (_, body) = answer(&router, post("/peers", r#"{"peers":["node-4"]}"#)).await;
    assert_eq!(body["peers"][0]["node_id"], json!(4));
    assert_eq!(body["peers"][0]["connection"], json!("none"));
}

#[tokio::test]
async fn cluster_shows_each_member_flat() {
    let (_, body) = answer(&api(FakeStore::default()), get("/cluster")).await;
    let member = &body["members"][0];
    assert_eq!((&member["node_id"], &member["role"]), (&json!(1), &json!("leader")));
    assert_eq!(member["addresses"], json!(["127.0.0.1:4701"]));
}
