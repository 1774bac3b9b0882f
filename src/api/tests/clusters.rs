//! Which cluster answers, and requests that are meant for another one.

use super::*;
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::types::ClusterId;

/// A router of a node of this cluster, or of none.
fn api_of(cluster_id: Option<ClusterId>, kv: FakeStore) -> Router {
    let cluster = Arc::new(FakeCluster(ClusterStatus { cluster_id, ..status(NodeState::Serving) }));
    router(ApiState { cluster, ..state(kv) })
}

/// The status of the answer, and the cluster that it says it is of.
async fn seen(router: &Router, request: Request<Body>) -> (u16, Option<ClusterId>) {
    let response = router.clone().oneshot(request).await.unwrap();
    let cluster_id =
        response.headers().get(ClusterHeader::NAME).map(|id| id.to_str().unwrap().parse().unwrap());
    (response.status().as_u16(), cluster_id)
}

fn meant_for(cluster: &str, mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().insert(ClusterHeader::NAME, cluster.parse().unwrap());
    request
}

fn a_write() -> Request<Body> {
    post("/write", r#"{"put":{"key":"a","value":"1"}}"#)
}

#[tokio::test]
async fn answers_say_which_cluster_they_are_of_errors_too_and_open_probes_do_not() {
    let own = Some(ClusterId::random());
    let router = api_of(own, FakeStore::default());
    for (request, status) in [
        (a_write(), 200),
        (get("/cluster"), 200),
        (get("/metrics"), 200),
        (get("/health"), 200),
        (get("/nowhere"), 404),
        (get("/write"), 405),
        (post("/write", "{"), 400),
    ] {
        let path = request.uri().path().to_owned();
        assert_eq!(seen(&router, request).await, (status, own), "{path}");
    }
    assert_eq!(seen(&api_of(own, FakeStore::panicking()), a_write()).await, (500, own));
    for probe in ["/livez", "/readyz"] {
        assert_eq!(seen(&router, get(probe)).await, (200, None));
        let other = meant_for(&ClusterId::random().to_string(), get(probe));
        assert_eq!(seen(&router, other).await, (200, None), "a probe asks whether the node lives");
    }
}

#[tokio::test]
async fn who_is_not_let_in_learns_of_no_cluster() {
    let (own, token) = (Some(ClusterId::random()), Some(HttpToken::new(TOKEN).unwrap()));
    let cluster = Arc::new(FakeCluster(ClusterStatus { cluster_id: own, ..status(NodeState::Serving) }));
    let asks = router(ApiState { token, cluster, ..state(FakeStore::default()) });
    assert_eq!(seen(&asks, get("/cluster")).await, (401, None));
    let other = meant_for(&ClusterId::random().to_string(), get("/cluster"));
    assert_eq!(seen(&asks, other).await, (401, None));
    let page = Request::get("/cluster").header(header::ORIGIN, "null").body(Body::empty()).unwrap();
    assert_eq!(seen(&api_of(own, FakeStore::default()), page).await, (403, None));
}

#[tokio::test]
async fn request_for_another_cluster_reaches_no_handler() {
    let own = ClusterId::random();
    let untouched = || FakeStore::writing(|_| panic!("no write of another cluster gets here"));
    let router = api_of(Some(own), untouched());
    let asked = ClusterId::random();
    let (status, body) = answer(&router, meant_for(&asked.to_string(), a_write())).await;
    assert_eq!((status, &body["error"]["code"]), (421, &json!("other_cluster")));
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(&own.to_string()) && message.contains(&asked.to_string()), "{message}");
    assert_eq!(body["error"]["details"], json!({"own": own, "asked": asked}));
    let refused = seen(&router, meant_for(&asked.to_string(), get("/cluster"))).await;
    assert_eq!(refused, (421, Some(own)), "the refusal says whose it is");

    for no_id in ["", "mine", "7ab6271e"] {
        let refusal = refusal(&router, meant_for(no_id, a_write())).await;
        assert_eq!(refusal, (400, "bad_request".to_owned()), "{no_id}");
    }
}

#[tokio::test]
async fn request_for_this_cluster_is_served_however_the_id_is_written() {
    let own = ClusterId::random();
    let router = api_of(Some(own), FakeStore::default());
    for id in [own.to_string(), own.to_string().to_uppercase(), own.0.simple().to_string()] {
        assert_eq!(seen(&router, meant_for(&id, a_write())).await, (200, Some(own)), "{id}");
    }
}

#[tokio::test]
async fn node_without_a_cluster_takes_requests_for_any_and_says_none() {
    let router = api_of(None, FakeStore::failing(KvError::NotInitialized));
    let any = ClusterId::random().to_string();
    assert_eq!(seen(&router, meant_for(&any, a_write())).await, (503, None));
    assert_eq!(refusal(&router, meant_for("mine", a_write())).await, (400, "bad_request".to_owned()));
}

#[tokio::test]
async fn cluster_that_a_node_comes_to_is_said_from_then_on() {
    let (own_cluster, own) = (OwnCluster::default(), ClusterId::random());
    let of = |cluster_id| FakeCluster(ClusterStatus { cluster_id, ..status(NodeState::Serving) });
    assert_eq!(own_cluster.header(&of(None)), None);
    assert_eq!(own_cluster.header(&of(Some(own))).unwrap(), own.to_string());
    assert_eq!(own_cluster.header(&of(None)).unwrap(), own.to_string(), "it is not asked for again");
}
