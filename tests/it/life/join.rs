//! A new machine joins with a ticket: it gets its id, catches up, and gets its vote.

use std::path::Path;
use std::time::Duration;

use aspen::transport::join_ticket::JoinTicket;
use serde_json::json;

use super::{cluster, cluster_id, ids, temporary_directory, voters, wait_for_log};
use crate::support::cluster::Cluster;
use crate::support::http::request;
use crate::support::node::Node;
use crate::support::wait_until;

/// A ticket, made on a member.
fn ticket(member: &Node, form: &serde_json::Value) -> String {
    let made = member.post("/tickets", form).ok();
    made["ticket"].as_str().expect("a ticket is a string").to_owned()
}

fn one_use(member: &Node) -> String {
    ticket(member, &json!({}))
}

/// A node without an id, with a ticket. Its directory is named after `number`, which need not be its id.
fn joining(number: u64, base: &Path, ticket: &str) -> Node {
    Node::new(number, base, &["--join", ticket]).without_id()
}

fn serving(base: &Path) -> Node {
    let mut node = Node::new(1, base, &[]);
    node.start_serving();
    node.put("before", "the others came");
    node
}

fn node_id(node: &Node) -> u64 {
    cluster(node)["node_id"].as_u64().expect("an id is a number")
}

fn learners(node: &Node) -> Vec<u64> {
    ids(node, |member| member["role"] == "learner")
}

/// The node ends with 1 and says why.
fn assert_turned_away(node: &mut Node, parts: &[&str]) {
    node.spawn();
    let status = node.wait_for_end();
    let log = node.last_log();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = log.trim_end().lines().last().unwrap_or_default().to_owned();
    for part in parts {
        assert!(last.contains(part), "'{part}' is missing in {last}");
    }
}

#[test]
fn a_new_machine_with_a_ticket_gets_its_id_catches_up_and_gets_a_vote_by_itself() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let several = ticket(&one, &json!({ "uses": 2, "ttl_s": 600 }));
    let mut nodes: Vec<Node> = [2, 3].map(|number| joining(number, dir.path(), &several)).into();
    for node in &mut nodes {
        node.start();
    }
    wait_until("all three vote", || voters(&one) == [1, 2, 3]);
    for node in &mut nodes {
        node.wait_until_ready();
        assert_eq!(cluster_id(node), cluster_id(&one));
        assert_eq!(node.value("before").as_deref(), Some("the others came"));
    }
    let mut given: Vec<u64> = nodes.iter().map(node_id).collect();
    given.sort_unstable();
    assert_eq!(given, [2, 3]);

    // Its first hello may have come before the others heard that it joined. That is no removal.
    let until = std::time::Instant::now() + Duration::from_secs(4);
    wait_until("the time has passed in which it would be taken for one", || {
        std::time::Instant::now() >= until
    });
    for node in &nodes {
        assert!(!node.log().contains("was removed"), "{}", node.log());
    }

    // The same ticket at the next start is not looked at.
    let two = &mut nodes[0];
    let id = node_id(two);
    two.kill();
    two.start_serving();
    assert_eq!(node_id(two), id);
    assert_eq!(voters(&one), [1, 2, 3]);
}

#[test]
fn a_node_that_joins_as_a_learner_stays_one() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let mut two = joining(2, dir.path(), &one_use(&one)).with_flags(["--learner"]);
    two.start();
    two.wait_until_ready();
    let mut three = joining(3, dir.path(), &one_use(&one));
    three.start();
    wait_until("node 3 has its vote", || voters(&one) == [1, 3]);
    assert_eq!(learners(&one), [2], "node 2 came first, and waits for nothing");
}

#[test]
fn a_ticket_that_is_used_expired_or_of_another_cluster_is_refused_with_the_reason() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let used = one_use(&one);
    let mut two = joining(2, dir.path(), &used);
    two.start();
    wait_until("node 2 is a member", || ids(&one, |_| true) == [1, 2]);
    assert_turned_away(&mut joining(3, dir.path(), &used), &["the ticket is used up", "aspen ticket new"]);

    let short = ticket(&one, &json!({ "ttl_s": 1 }));
    let expired = std::time::Instant::now() + Duration::from_millis(1_200);
    wait_until("the ticket expires", || std::time::Instant::now() >= expired);
    assert_turned_away(&mut joining(4, dir.path(), &short), &["the ticket expired", "aspen ticket new"]);

    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory can be made");
    let other = serving(&elsewhere);
    let mut foreign: JoinTicket = one_use(&other).parse().expect("a ticket is valid");
    foreign.members = used.parse::<JoinTicket>().expect("a ticket is valid").members;
    let (given, own) = (foreign.cluster_id.to_string(), cluster_id(&one).expect("it serves"));
    assert_turned_away(&mut joining(5, dir.path(), &foreign.to_string()), &["one of cluster", &given, &own]);

    // Its cluster's name, and a secret that was never issued there.
    let mut guessed: JoinTicket = used.parse().expect("a ticket is valid");
    guessed.secret = one_use(&other).parse::<JoinTicket>().expect("a ticket is valid").secret;
    let before = cluster(&one)["last_log_index"].clone();
    assert_turned_away(&mut joining(6, dir.path(), &guessed.to_string()), &["knows no such ticket"]);
    assert_eq!(cluster(&one)["last_log_index"], before, "a stranger's guess costs no entry");

    assert_turned_away(&mut joining(7, dir.path(), "nonsense"), &["no join ticket", "aspenjoin"]);
    assert_eq!(ids(&one, |_| true), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_listed_without_their_secrets_and_one_that_is_revoked_lets_nobody_in() {
    let cluster = Cluster::start(3, &[]).await;
    let dir = temporary_directory();
    let leader = cluster.leader().await;
    let (one, other) = (&cluster.nodes[(leader + 1) % 3], &cluster.nodes[(leader + 2) % 3]);
    assert_eq!(one.get("/tickets").ok(), json!({ "tickets": [] }));

    let made = one.post("/tickets", &json!({ "ttl_s": 600, "uses": 2 })).ok();
    let kept = other.post("/tickets", &json!({})).ok();
    let (id, secret) = (made["id"].as_str().expect("an id"), made["ticket"].as_str().expect("a ticket"));
    let shown = |ticket: &serde_json::Value| json!({ "id": ticket["id"], "expires_at_ms": ticket["expires_at_ms"], "uses_left": ticket["uses"] });
    let listed = |node: &Node| node.get("/tickets").ok()["tickets"].as_array().expect("a list").clone();
    for node in &cluster.nodes {
        let tickets = listed(node);
        assert_eq!(tickets.len(), 2);
        assert!(tickets.contains(&shown(&made)) && tickets.contains(&shown(&kept)), "{tickets:?}");
    }
    let mut new = joining(4, dir.path(), secret);
    new.start();
    wait_until("it is a member", || ids(one, |_| true) == [1, 2, 3, 4]);
    let left = listed(other).into_iter().find(|ticket| ticket["id"] == id).expect("it is listed");
    assert_eq!(left["uses_left"], 1);

    let revoke = |id: &str| request(other.http(), "DELETE", &format!("/tickets/{id}"), "", b"");
    assert_eq!(revoke(id).ok(), json!({ "revoked": id }));
    assert_eq!(listed(one), [shown(&kept)]);
    assert_turned_away(&mut joining(5, dir.path(), secret), &["knows no such ticket"]);
    assert_eq!(ids(one, |_| true), [1, 2, 3, 4], "who came in stays");
    for (id, status, code) in [(id, 404, "unknown_ticket"), ("nonsense", 400, "bad_request")] {
        let refused = revoke(id);
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (status, Some(code)));
    }
}

#[test]
fn a_ticket_for_one_node_that_two_use_at_once_lets_one_in() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let shared = one_use(&one);
    let mut rivals: Vec<Node> = (2..6).map(|number| joining(number, dir.path(), &shared)).collect();
    for rival in &mut rivals {
        rival.spawn();
    }
    let refused = |rival: &Node| rival.log().contains("the ticket is used up");
    let came_in = |rival: &Node| rival.log().contains("this is node 2 of cluster");
    wait_until("each knows", || rivals.iter().all(|rival| refused(rival) || came_in(rival)));
    assert_eq!(rivals.iter().filter(|rival| came_in(rival)).count(), 1);
    wait_until("the one votes", || voters(&one) == [1, 2]);
}

#[test]
fn a_node_that_is_killed_while_it_joins_goes_on_with_the_id_that_it_got() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let mut two = joining(2, dir.path(), &one_use(&one));
    two.spawn();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(120));
        two.kill();
        two.spawn();
    }
    two.await_ports();
    wait_until("node 2 votes", || voters(&one) == [1, 2]);
    assert_eq!(node_id(&two), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_a_follower_made_is_taken_by_any_member_and_not_without_a_quorum() {
    let mut cluster = Cluster::start(3, &[]).await;
    let dir = temporary_directory();
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let made = one_use(&cluster.nodes[followers[0]]);
    let mut only: JoinTicket = made.parse().expect("a ticket is valid");
    only.members.retain(|peer| peer.node_id.0 == cluster.nodes[followers[0]].id);

    cluster.nodes[leader].kill();
    cluster.nodes[followers[1]].kill();
    let mut new = joining(9, dir.path(), &only.to_string());
    new.spawn();
    wait_until("it waits", || new.log().contains("not let into the cluster yet"));
    cluster.nodes[followers[1]].start();
    wait_until("it came in through a node that may be no leader", || {
        ids(&cluster.nodes[followers[0]], |_| true) == [1, 2, 3, 4]
    });
    new.await_ports();
    wait_until("it votes", || voters(&cluster.nodes[followers[0]]) == [1, 2, 3, 4]);
}

#[test]
fn a_node_that_waits_to_be_made_a_member_makes_no_cluster_of_its_own() {
    let dir = temporary_directory();
    let mut one = serving(dir.path());
    let mut two = joining(2, dir.path(), &one_use(&one));
    two.spawn();
    wait_until("it has its id", || two.log().contains("this is node 2 of cluster"));
    one.kill();
    two.kill();
    two.start();
    if cluster(&two)["state"] == "waiting_for_init" {
        let answer = two.post_text("/init", "");
        assert_eq!(answer.status, 409, "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], "makes_no_cluster", "{answer:?}");
    }
    one.start_serving();
    wait_until("it votes", || voters(&one) == [1, 2]);
}

#[test]
fn a_node_that_took_a_ticket_and_cannot_be_reached_costs_no_quorum() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let mut two = joining(2, dir.path(), &one_use(&one));
    two.start();
    wait_until("node 2 is a member", || ids(&one, |_| true) == [1, 2]);
    two.kill();
    assert_eq!(voters(&one), [1], "it was not there for long enough to get a vote");
    // What it had got of the log is the newest there is, so the leader must find out by asking. To add the
    // node may still be under way.
    let mut answer = one.post("/change-membership", &json!({ "voters": [1, 2] }));
    wait_until("the leader has asked", || {
        if answer.status == 409 {
            answer = one.post("/change-membership", &json!({ "voters": [1, 2] }));
        }
        answer.status != 409
    });
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(voters(&one), [1]);
    one.put("still", "here");
    two.start();
    wait_until("node 2 votes", || voters(&one) == [1, 2]);
}

#[test]
fn a_directory_that_has_an_id_or_a_cluster_does_not_join_another() {
    let dir = temporary_directory();
    let one = serving(dir.path());
    let mut two = Node::new(2, dir.path(), &["--bootstrap", "manual"]);
    two.start();
    assert!(two.terminate().success());
    let mut two = two.without_id().with_flags(["--join".to_owned(), one_use(&one)]);
    assert_turned_away(&mut two, &["is that of node 2", "empty data directory"]);

    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory can be made");
    let mut other = serving(&elsewhere);
    assert!(other.terminate().success());
    let mut other = other.without_id().with_flags(["--join".to_owned(), one_use(&one)]);
    assert_turned_away(&mut other, &["belongs to cluster", "empty data directory"]);
}

#[test]
fn a_ticket_in_a_file_or_a_credential_is_taken_and_one_that_others_can_read_is_not() {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    let dir = temporary_directory();
    let one = serving(dir.path());
    let file = dir.path().join("ticket");
    let path = file.to_str().expect("a path in UTF-8");
    write(&file, one_use(&one)).expect("a file can be written");
    set_permissions(&file, Permissions::from_mode(0o644)).expect("modes can be set");
    let flags = ["--join-ticket-file", path];
    let mut two = Node::new(2, dir.path(), &flags).without_id();
    assert_turned_away(&mut two, &["can be read by others"]);
    set_permissions(&file, Permissions::from_mode(0o600)).expect("modes can be set");
    two.start();
    two.wait_until_ready();

    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).expect("a directory can be made");
    let credential = credentials.join("join-ticket");
    write(&credential, one_use(&one)).expect("a file can be written");
    set_permissions(&credential, Permissions::from_mode(0o400)).expect("modes can be set");
    let place = credentials.to_str().expect("a path in UTF-8");
    let mut three = Node::new(3, dir.path(), &[]).without_id().with_env("CREDENTIALS_DIRECTORY", place);
    three.start();
    wait_until("all vote", || voters(&one) == [1, 2, 3]);
    wait_for_log(&three, &["this is node 3 of cluster"]);
}
