//! Nodes that have no business with each other: unknown keys, and other clusters.

use serde_json::{Value, json};

use super::{assert_data_kept, serving_with_data, temporary_directory};
use crate::support::http::Answer;
use crate::support::node::Node;
use crate::support::wait_until;

const TURNED_AWAY: &str = "a connection was turned away";
const REJECTED: &str = "aspen_transport_rejected_total";

fn add_learner(to: &Node, learner: &Node) -> Answer {
    to.post("/add-learner", &json!({ "ticket": learner.endpoint() }))
}

fn declare(at: &Node, peer: &Node) {
    at.post("/peers", &json!({ "peers": [peer.endpoint()] })).ok();
}

fn member_ids(node: &Node) -> Vec<u64> {
    let cluster = node.get("/cluster").ok();
    let members = cluster["members"].as_array().expect("members are a list");
    members.iter().map(|member| member["node_id"].as_u64().expect("an id is a number")).collect()
}

fn assert_unreachable(answer: &Answer, parts: &[&str]) {
    assert_eq!(answer.status, 502, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "unreachable", "{error}");
    let message = error["message"].as_str().unwrap_or_default();
    for part in parts {
        assert!(message.contains(part), "'{part}' is missing in {error}");
    }
    assert!(error["action"].as_str().is_some_and(|action| !action.is_empty()), "{error}");
}

#[test]
fn unknown_key_is_turned_away_logged_once_and_counted() {
    let dir = temporary_directory();
    let known = serving_with_data(1, dir.path());
    let mut stranger = Node::new(2, dir.path(), &["--peer", &known.endpoint()]);
    stranger.start();
    stranger.post_text("/init", "").ok();

    for _ in 0..3 {
        let reason = "neither a member's nor a declared peer's";
        assert_unreachable(&add_learner(&stranger, &known), &["node 1 could not be reached", reason]);
    }
    wait_until("the attempts are counted", || known.figure(REJECTED) >= 3.0);
    let log = known.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(TURNED_AWAY)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains(&stranger.peer().info.public_key.to_string()[..10]), "{log}");

    assert_eq!((member_ids(&known), member_ids(&stranger)), (vec![1], vec![2]));
    assert_data_kept(&known);
    stranger.put("k", "v");

    // Declared at runtime, it is let in; nothing has to be started again.
    declare(&known, &stranger);
    let answer = add_learner(&stranger, &known);
    assert_unreachable(&answer, &["cluster"]);
}

#[test]
fn node_of_another_cluster_is_refused_and_neither_cluster_is_harmed() {
    let dir = temporary_directory();
    let mut one = serving_with_data(1, dir.path());
    let mut two = serving_with_data(2, dir.path());
    declare(&one, &two);
    declare(&two, &one);
    let cluster_id = |node: &Node| match &node.get("/cluster").ok()["cluster_id"] {
        Value::String(id) => id.clone(),
        other => panic!("{other} is no cluster id"),
    };
    let ids = [cluster_id(&one), cluster_id(&two)];
    assert_ne!(ids[0], ids[1]);

    for (leader, learner) in [(&one, &two), (&two, &one)] {
        let refused = format!("node {} could not be reached", learner.id);
        assert_unreachable(&add_learner(leader, learner), &[&refused, &ids[0], &ids[1]]);
    }
    for (node, other) in [(&one, 2), (&two, 1)] {
        let log = node.log();
        let refused = format!("a hello from node {other} was refused");
        assert!(log.contains(&refused) && log.contains(&ids[0]) && log.contains(&ids[1]), "{log}");
    }

    for restarted in [false, true] {
        if restarted {
            for node in [&mut one, &mut two] {
                node.kill();
                node.start_serving();
            }
        }
        for node in [&one, &two] {
            assert_eq!(member_ids(node), [node.id]);
            assert_data_kept(node);
        }
        assert_eq!([cluster_id(&one), cluster_id(&two)], ids);
    }
}

#[test]
fn peer_that_claims_a_known_id_with_another_key_is_refused() {
    let dir = temporary_directory();
    let one = serving_with_data(1, dir.path());
    let mut two = Node::new(2, dir.path(), &["--peer", &one.endpoint()]);
    two.start();
    add_learner(&one, &two).ok();
    two.wait_until_ready();

    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory can be made");
    for (id, reason) in [(1, "node 1, which is this node's own id"), (2, "node 2 is known with the key")] {
        let mut impostor = Node::new(id, &elsewhere, &["--bootstrap", "manual"]);
        impostor.start();
        let answers =
            [add_learner(&one, &impostor), one.post("/peers", &json!({ "peers": [impostor.endpoint()] }))];
        for answer in answers {
            assert_eq!(answer.status, 400, "{answer:?}");
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "bad_ticket", "{error}");
            assert!(error["message"].as_str().is_some_and(|message| message.contains(reason)), "{error}");
        }
    }
    assert_eq!(member_ids(&one), [1, 2]);
    assert_data_kept(&one);
    assert_eq!(two.value("new").as_deref(), Some("and what is written now"));
}

#[test]
fn learner_that_does_not_answer_is_refused_in_time_and_not_added() {
    let dir = temporary_directory();
    let one = serving_with_data(1, dir.path());
    let mut gone = Node::new(2, dir.path(), &["--peer", &one.endpoint()]);
    gone.start();
    let ticket = gone.endpoint();
    gone.kill();

    let answer = one.post("/add-learner", &json!({ "ticket": ticket }));
    assert_unreachable(&answer, &["node 2 could not be reached"]);
    assert_eq!(member_ids(&one), [1]);
    assert_data_kept(&one);
}
