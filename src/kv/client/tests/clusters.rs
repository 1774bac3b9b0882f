//! One cluster for the life of a client, whatever answers at its addresses.

use super::*;

fn both() -> [ClusterId; 2] {
    [ClusterId::random(), ClusterId::random()]
}

fn client_of(cluster_id: ClusterId, nodes: &[&FakeNode]) -> KvClient {
    let addresses = nodes.iter().map(|node| Address::from(node.address));
    KvClient::builder().addresses(addresses).cluster_id(cluster_id).build().unwrap()
}

async fn get(client: &KvClient) -> Result<Option<KeyValue>, ClientError> {
    client.get(Key::new("a").unwrap()).await
}

fn empty() -> Act {
    Act::Answer(200, json!({"revision": 0, "kvs": [], "more": false}))
}

#[tokio::test]
async fn the_first_answer_that_names_a_cluster_is_held_to_by_clones_too() {
    let [own, _] = both();
    let unformed = FakeNode::start([refused(503, &KvError::NotInitialized), written(2)]).await;
    let node = FakeNode::start_in(Some(own), [written(1)]).await;
    let client = client(&[unformed.address, node.address]);
    put(&client).await.unwrap();
    put(&client.clone()).await.unwrap();
    assert_eq!(unformed.meant_for(), [None], "it names none, so none is known");
    assert_eq!(node.meant_for(), [None, Some(own)]);
}

#[tokio::test]
async fn node_of_another_cluster_is_passed_over_and_gets_no_write() {
    let [own, other] = both();
    let founder = FakeNode::start_in(Some(other), [empty()]).await;
    let member = FakeNode::start_in(Some(own), [written(4)]).await;
    let client = client_of(own, &[&founder, &member]);
    assert_eq!(put(&client).await.unwrap().revision, Revision(4));
    put(&client).await.unwrap();
    assert_eq!(founder.meant_for(), [Some(own)], "it is not asked again");
    assert_eq!(member.meant_for(), [Some(own), Some(own)]);
}

#[tokio::test]
async fn where_all_are_of_another_cluster_it_is_said_at_once_with_both_ids_and_what_to_do() {
    let [own, other] = both();
    let nodes =
        [FakeNode::start_in(Some(other), [empty()]).await, FakeNode::start_in(Some(other), [empty()]).await];
    let client = client_of(own, &[&nodes[0], &nodes[1]]);
    let change = client.change_membership(MembershipChange::default());
    for error in [get(&client).await.unwrap_err(), put(&client).await.unwrap_err(), change.await.unwrap_err()]
    {
        assert!(matches!(error, ClientError::OtherCluster { elsewhere: None, .. }), "{error}");
        assert_eq!(
            (error.code(), error.is_outcome_unknown(), error.is_unavailable()),
            ("other_cluster", false, true)
        );
        let sentence = error.to_string();
        assert!(sentence.contains(&own.to_string()) && sentence.contains(&other.to_string()), "{sentence}");
        assert!(error.action().contains("lost its data directory"), "{}", error.action());
        assert!(error.action().contains("aspen-node recover"), "{}", error.action());
    }
    assert!(matches!(client.backup().await, Err(ClientError::OtherCluster { .. })));
    assert_eq!(nodes.map(|node| node.requests().len()), [4, 4]);
}

#[tokio::test]
async fn own_nodes_that_do_not_answer_are_told_of_beside_the_other_cluster() {
    let [own, other] = both();
    let founder = FakeNode::start_in(Some(other), [empty()]).await;
    let gone = dead().await;
    let addresses = [founder.address, gone].map(Address::from);
    let client = KvClient::builder().addresses(addresses).cluster_id(own).build().unwrap();
    let error = get(&client).await.unwrap_err();
    let ClientError::OtherCluster { elsewhere: Some(elsewhere), .. } = &error else { panic!("{error}") };
    assert!(elsewhere.contains(&gone.to_string()) && error.to_string().ends_with(elsewhere), "{error}");

    let silent = FakeNode::start_in(Some(own), [refused(503, &no_quorum())]).await;
    let addresses = [founder.address, silent.address].map(Address::from);
    let client = KvClient::builder().addresses(addresses).cluster_id(own);
    let error = get(&client.timeout(Duration::from_millis(300)).build().unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "no_quorum", "what the own cluster says counts: {error}");
}

/// A founder that has a request before the client knows its cluster, and answers it when the client does.
async fn race(own: ClusterId, other: ClusterId, then: [Act; 2]) -> (KvClient, FakeNode, Arc<Notify>) {
    let told = Arc::new(Notify::new());
    let late = Act::AnswerLater(
        told.clone(),
        200,
        json!({"revision": 1, "succeeded": true, "results": [{"put": {}}], "replayed": false}),
    );
    let founder = FakeNode::start_in(Some(other), [late, Act::HangUp]).await;
    let member = FakeNode::start_in(Some(own), then).await;
    (client_within(&[founder.address, member.address], Duration::from_secs(2)), founder, told)
}

async fn learn_own(client: &KvClient, founder: &FakeNode, told: &Notify) {
    while founder.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    get(client).await.unwrap();
    told.notify_one();
}

#[tokio::test]
async fn write_that_another_cluster_took_before_the_own_was_known_is_not_taken_for_done() {
    let [own, other] = both();
    let (client, founder, told) = race(own, other, [empty(), written(7)]).await;
    let (written, ()) = tokio::join!(put(&client), learn_own(&client, &founder, &told));
    assert_eq!(written.unwrap().revision, Revision(7), "its own cluster has it");

    let (client, founder, told) = race(own, other, [empty(), refused(503, &no_quorum())]).await;
    let (failed, ()) = tokio::join!(put(&client), learn_own(&client, &founder, &told));
    let error = failed.unwrap_err();
    assert_eq!((error.code(), error.outcome_unknown()), ("no_quorum", Some(Effect::Write)), "{error}");
}

#[tokio::test]
async fn change_that_another_cluster_may_have_made_is_not_sent_again_and_its_outcome_is_unknown() {
    let [own, other] = both();
    let (client, founder, told) = race(own, other, [empty(), written(7)]).await;
    let change = client.change_membership(MembershipChange::default());
    let (failed, ()) = tokio::join!(change, learn_own(&client, &founder, &told));
    let error = failed.unwrap_err();
    assert!(matches!(error, ClientError::OtherCluster { .. }), "{error}");
    assert_eq!(error.outcome_unknown(), Some(Effect::Change));
    assert!(error.to_string().contains("may or may not have taken effect, in either"), "{error}");
    assert!(error.action().contains("both clusters"), "{}", error.action());
}

#[tokio::test]
async fn init_is_for_a_node_of_whichever_cluster() {
    let [own, other] = both();
    let refusal = json!({"error": {"code": "already_initialized", "message": "it does", "action": "none"}});
    let node = FakeNode::start_in(Some(other), [Act::Answer(409, refusal)]).await;
    let error = client_of(own, &[&node]).init().await.unwrap_err();
    assert_eq!((error.code(), node.meant_for()), ("already_initialized", vec![None]));
}
