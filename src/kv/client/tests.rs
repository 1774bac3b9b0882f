//! The client against servers that answer as they are told.

mod clusters;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes as Body;
use hyper::{HeaderMap, StatusCode};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::json::{ErrorBody, OTHER_CLUSTER};
use crate::kv::types::{KvError, LeaderHint, MembershipChange, NodeId};

/// What the fake node does with one request.
enum Act {
    Answer(u16, Json),
    /// Answers once it is told to.
    AnswerLater(Arc<Notify>, u16, Json),
    /// Takes the request and closes the connection.
    HangUp,
    /// Never answers.
    Hang,
}

/// A node that plays its acts in order, the last one for ever, and keeps the requests.
#[derive(Clone)]
struct FakeNode {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Json>>>,
    /// The cluster that each of them was meant for.
    meant_for: Arc<Mutex<Vec<Option<ClusterId>>>>,
}

impl FakeNode {
    async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::start_in(None, acts).await
    }

    /// A node of a cluster, which refuses requests for another one as nodes do.
    async fn start_in(own: Option<ClusterId>, acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Json>>> = Arc::default();
        let acts = Arc::new(Mutex::new(acts.into_iter().collect::<VecDeque<_>>()));
        let meant_for: Arc<Mutex<Vec<Option<ClusterId>>>> = Arc::default();
        let (seen, meant) = (requests.clone(), meant_for.clone());
        let router = Router::new().fallback(async move |headers: HeaderMap, body: Body| {
            seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap_or(Json::Null));
            let asked = headers.get(ClusterHeader::NAME).map(|id| id.to_str().unwrap().parse().unwrap());
            meant.lock().unwrap().push(asked);
            let mut said = HeaderMap::new();
            if let Some(own) = own {
                said.insert(ClusterHeader::NAME, ClusterHeader::new(own).value().clone());
            }
            if let (Some(own), Some(asked)) = (own, asked)
                && own != asked
            {
                let error = ErrorBody::new(OTHER_CLUSTER, format!("{own}, not {asked}"), "a");
                return (StatusCode::MISDIRECTED_REQUEST, said, axum::Json(json!({ "error": error })));
            }
            let act = {
                let mut acts = acts.lock().unwrap();
                match (acts.len(), acts.front()) {
                    (1, Some(Act::Answer(status, body))) => Act::Answer(*status, body.clone()),
                    _ => acts.pop_front().unwrap_or(Act::Hang),
                }
            };
            match act {
                Act::Answer(status, body) => (StatusCode::from_u16(status).unwrap(), said, axum::Json(body)),
                Act::AnswerLater(told, status, body) => {
                    told.notified().await;
                    (StatusCode::from_u16(status).unwrap(), said, axum::Json(body))
                }
                Act::HangUp => panic!("the fake node hangs up"),
                Act::Hang => std::future::pending().await,
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, requests, meant_for }
    }

    fn requests(&self) -> Vec<Json> {
        self.requests.lock().unwrap().clone()
    }

    fn meant_for(&self) -> Vec<Option<ClusterId>> {
        self.meant_for.lock().unwrap().clone()
    }
}

fn written(revision: u64) -> Act {
    Act::Answer(
        200,
        json!({"revision": revision, "succeeded": true, "results": [{"put": {}}], "replayed": false}),
    )
}

fn refused(status: u16, error: &KvError) -> Act {
    Act::Answer(status, json!({ "error": ErrorBody::from(error) }))
}

/// An address where nothing listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn client(addresses: &[SocketAddr]) -> KvClient {
    client_within(addresses, Duration::from_secs(20))
}

fn client_within(addresses: &[SocketAddr], timeout: Duration) -> KvClient {
    let addresses = addresses.iter().map(|address| Address::from(*address));
    KvClient::builder().addresses(addresses).timeout(timeout).build().unwrap()
}

async fn put(client: &KvClient) -> Result<WriteReply, ClientError> {
    client.put(Key::new("a").unwrap(), Value::new("1").unwrap()).await
}

fn no_quorum() -> KvError {
    KvError::NoQuorum { waited_ms: 5_000, reason: "two of three are away".to_owned() }
}

#[tokio::test]
async fn dead_member_is_passed_over_and_not_asked_again() {
    let node = FakeNode::start([written(1)]).await;
    let client = client(&[dead().await, node.address]);
    assert_eq!(put(&client).await.unwrap().revision, Revision(1));
    put(&client).await.unwrap();
    let requests = node.requests();
    assert_eq!(requests.len(), 2);
    let session = |index: usize| &requests[index]["session"];
    assert_eq!(session(0)["id"], session(1)["id"], "one write at a time needs one session");
    assert_eq!((&session(0)["sequence"], &session(1)["sequence"]), (&json!(1), &json!(2)));
    assert_eq!((&session(0)["since"], &session(1)["since"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn leader_that_a_node_names_is_asked_next() {
    let leader = FakeNode::start([written(1)]).await;
    let hint = LeaderHint { node_id: NodeId(2), http_addr: Some(leader.address) };
    let error = KvError::NotLeader { leader: hint, reason: "cut".to_owned() };
    let follower = FakeNode::start([refused(503, &error)]).await;
    let client = client(&[follower.address]);
    put(&client).await.unwrap();
    put(&client).await.unwrap();
    assert_eq!((follower.requests().len(), leader.requests().len()), (1, 2));
}

#[tokio::test]
async fn retry_of_a_write_keeps_session_and_sequence() {
    let first = FakeNode::start([Act::HangUp, written(4)]).await;
    let second = FakeNode::start([refused(504, &KvError::OutcomeUnknown { waited_ms: 5_000 })]).await;
    let client = client(&[first.address, second.address]);
    assert_eq!(put(&client).await.unwrap().revision, Revision(4));
    let sent = [first.requests(), second.requests()].concat();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|request| *request == sent[0]), "{sent:?}");
}

#[tokio::test]
async fn new_write_of_a_forgotten_session_goes_out_again_with_a_newer_since() {
    let expired = KvError::SessionExpired { forgotten: Revision(9) };
    let node = FakeNode::start([refused(409, &expired), written(12)]).await;
    put(&client(&[node.address])).await.unwrap();
    let requests = node.requests();
    assert_eq!(requests[0]["session"]["since"], json!(0));
    assert_eq!(requests[1]["session"]["since"], json!(9));
    assert_eq!(requests[0]["session"]["id"], requests[1]["session"]["id"]);
}

#[tokio::test]
async fn forgotten_session_on_a_retry_is_an_unknown_outcome() {
    let expired = KvError::SessionExpired { forgotten: Revision(9) };
    let node = FakeNode::start([Act::HangUp, refused(409, &expired), written(12)]).await;
    let client = client(&[node.address]);
    let error = put(&client).await.unwrap_err();
    assert_eq!((error.code(), error.is_outcome_unknown()), ("session_expired", true));
    assert!(error.to_string().contains("may or may not have taken effect"), "{error}");
    put(&client).await.unwrap();
    let requests = node.requests();
    assert_ne!(requests[1]["session"]["id"], requests[2]["session"]["id"], "its lane was dropped");
}

#[tokio::test]
async fn deadline_is_respected_and_silence_of_a_write_is_an_unknown_outcome() {
    let node = FakeNode::start([Act::Hang]).await;
    let start = Instant::now();
    let client = client_within(&[node.address], Duration::from_millis(300));
    let error = put(&client).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(error.is_outcome_unknown() && error.is_unavailable(), "{error}");
    let error = client.get(Key::new("a").unwrap()).await.unwrap_err();
    assert!(!error.is_outcome_unknown() && error.is_unavailable(), "{error}");
}

#[tokio::test]
async fn write_that_no_node_saw_is_known_not_to_have_happened() {
    let address = dead().await;
    let client = client_within(&[address], Duration::from_millis(200));
    let error = put(&client).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { outcome_unknown: None, .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn addresses_where_nobody_listens_are_given_up_before_the_time_is() {
    let client = client(&[dead().await, dead().await]);
    let start = Instant::now();
    let error = put(&client).await.unwrap_err();
    let ClientError::Unreachable { tried, waited_ms, outcome_unknown: None, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(tried.len(), 2);
    assert!((limits::CLIENT_ABSENT_TIMEOUT_MS..limits::CLIENT_TIMEOUT_MS / 2).contains(waited_ms), "{error}");
    assert!(start.elapsed().as_millis() >= u128::from(*waited_ms));
}

#[tokio::test]
async fn lost_quorum_is_waited_for_and_then_reported_in_the_nodes_words() {
    let node = FakeNode::start([refused(503, &no_quorum()), refused(503, &no_quorum()), written(3)]).await;
    put(&client(&[node.address])).await.unwrap();
    let node = FakeNode::start([refused(503, &no_quorum())]).await;
    let client = client_within(&[node.address, dead().await], Duration::from_millis(300));
    let error = put(&client).await.unwrap_err();
    assert_eq!(
        (error.code(), error.is_outcome_unknown(), error.is_unavailable()),
        ("no_quorum", false, true)
    );
}

#[tokio::test]
async fn refusal_is_final_and_leaves_the_session_usable() {
    let error = KvError::TooManyOps { ops: 200, max_ops: 128 };
    let node = FakeNode::start([refused(413, &error), written(1)]).await;
    let client = client(&[node.address]);
    let refusal = put(&client).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.is_unavailable()), ("too_many_ops", false));
    put(&client).await.unwrap();
    let requests = node.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1]["session"]["id"], requests[0]["session"]["id"]);
}

#[tokio::test]
async fn cluster_that_was_never_formed_is_reported_at_once() {
    let nodes = [
        FakeNode::start([refused(503, &KvError::NotInitialized)]).await,
        FakeNode::start([refused(503, &KvError::NotInitialized)]).await,
    ];
    let error = put(&client(&[nodes[0].address, nodes[1].address])).await.unwrap_err();
    assert_eq!((error.code(), error.is_outcome_unknown()), ("not_initialized", false));
    assert_eq!(nodes.map(|node| node.requests().len()), [1, 1]);
}

#[tokio::test]
async fn node_that_was_removed_is_passed_over_and_reported_at_once_where_there_is_no_other() {
    let removed = || refused(503, &KvError::Removed { node_id: NodeId(1) });
    let (gone, member) = (FakeNode::start([removed()]).await, FakeNode::start([written(3)]).await);
    put(&client(&[gone.address, member.address])).await.unwrap();
    let gone = FakeNode::start([removed()]).await;
    let error = put(&client(&[gone.address])).await.unwrap_err();
    assert_eq!((error.code(), error.is_outcome_unknown(), error.is_unavailable()), ("removed", false, true));
    assert_eq!(gone.requests().len(), 1);
}

#[tokio::test]
async fn membership_change_is_never_sent_twice_once_a_node_may_have_begun_it() {
    let node = FakeNode::start([Act::HangUp, written(1)]).await;
    let error = client(&[node.address]).change_membership(MembershipChange::default()).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn unknown_outcome_is_said_once_with_advice_that_fits_what_was_asked_for() {
    let unknown = || refused(504, &KvError::OutcomeUnknown { waited_ms: 5_000 });
    let node = FakeNode::start([unknown(), unknown()]).await;
    let client = client_within(&[node.address], Duration::from_millis(300));
    let change = client.change_membership(MembershipChange::default()).await.unwrap_err();
    assert_eq!(change.to_string().matches("may or may not").count(), 1, "{change}");
    assert_eq!(change.outcome_unknown(), Some(Effect::Change));
    assert!(change.action().contains("aspen member list"), "{}", change.action());
    let write = put(&client).await.unwrap_err();
    assert_eq!(write.to_string().matches("may or may not").count(), 1, "{write}");
    assert!(write.action().contains("read the keys"), "{}", write.action());
}

#[tokio::test]
async fn what_is_no_node_is_said_to_be_none() {
    let other = FakeNode::start([Act::Answer(404, json!("no such page"))]).await;
    let error = put(&client(&[other.address])).await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood { status: 404, outcome_unknown: None, .. }));
    let strange = FakeNode::start([Act::Answer(200, json!({"ok": true}))]).await;
    let error = put(&client(&[strange.address])).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NotUnderstood { outcome_unknown: Some(Effect::Write), .. }),
        "{error}"
    );
}

#[tokio::test]
async fn health_of_a_node_that_does_not_serve_is_an_answer() {
    let health = json!({
        "healthy": false, "state": "no_leader", "detail": "it waits", "node_id": 1, "cluster_id": null,
        "role": "follower", "leader": null, "term": 3, "revision": 9, "voters": 3, "learners": 0
    });
    let node = FakeNode::start([Act::Answer(503, health)]).await;
    assert!(!client(&[node.address]).health().await.unwrap().healthy);
}

#[tokio::test]
async fn parallel_writes_have_a_session_each() {
    let node = FakeNode::start([written(1)]).await;
    let client = client(&[node.address]);
    let (a, b, c) = tokio::join!(put(&client), put(&client), put(&client));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let sessions: std::collections::BTreeSet<_> =
        node.requests().iter().map(|request| request["session"]["id"].to_string()).collect();
    assert_eq!(sessions.len(), 3);
}
