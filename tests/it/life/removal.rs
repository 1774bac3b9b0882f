//! Members leave, are removed and are replaced, and a removed one disturbs nobody.

use std::process::{Command, Output};

use aspen::kv::types::{Key, Value as StoredValue};
use aspen::limits;
use aspen::node::identity::Identity;
use aspen::transport::client::{ClientEndpoint, ConnectError};
use aspen::transport::ticket::NodeTicket;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{cluster, ids, temporary_directory, voters, wait_for_log, wait_until_missed};
use crate::support::cluster::Cluster;
use crate::support::node::{Node, coverage_file};
use crate::support::wait_until;

/// The command line client, on these nodes.
fn aspen(nodes: &[&Node], arguments: &[&str]) -> Output {
    let addresses: Vec<String> = nodes.iter().map(|node| node.http().to_string()).collect();
    aspen_at(&addresses.join(","), arguments)
}

fn aspen_at(addresses: &str, arguments: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_aspen"))
        .args(["--addr", addresses])
        .args(arguments)
        .env_clear()
        .envs(coverage_file())
        .output();
    run.expect("the client runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn error(answer: &crate::support::http::Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    let error = answer.json()["error"].clone();
    assert_eq!(error["code"], code, "{error}");
    error
}

fn remove(through: &Node, id: u64) -> crate::support::http::Answer {
    through.post("/change-membership", &json!({ "remove": [id] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first_and_says_that_it_was_removed() {
    let cluster_of_three = Cluster::start(3, &[]).await;
    let leader = cluster_of_three.leader().await;
    let nodes = &cluster_of_three.nodes;
    let (old, through) = (&nodes[leader], &nodes[(leader + 1) % 3]);
    let changed = remove(through, old.id).ok();
    assert_eq!(changed["voters"].as_array().map(Vec::len), Some(2), "{changed}");
    wait_for_log(old, &["hands the leadership over", "as it is to lose its vote"]);

    wait_for_log(old, &["was removed from its cluster", "--join"]);
    wait_until("its status says so", || cluster(old)["state"] == "removed");
    let term = cluster(through)["term"].clone();
    through.put("after", "the removal");
    // Longer than several elections of a node that stood for one.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(4);
    wait_until("some elections' time has passed", || std::time::Instant::now() >= until);
    assert_eq!(cluster(through)["term"], term, "the removed node moved nobody to another term");
    assert_eq!(through.value("after").as_deref(), Some("the removal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_removed_while_it_was_away_is_cut_off_and_says_so_when_it_comes_back() {
    let mut three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let gone = (leader + 1) % 3;
    three.nodes[gone].kill();
    let id = three.nodes[gone].id;
    remove(&three.nodes[leader], id).ok();
    three.nodes[gone].start();
    wait_for_log(&three.nodes[gone], &["was removed from its cluster"]);
    assert_eq!(ids(&three.nodes[leader], |_| true).len(), 2);
    let answer = three.nodes[gone].post("/write", &json!({ "put": { "key": "a", "value": "b" } }));
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_removed_through_itself_says_that_it_is_and_serves_nobody() {
    let three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let nodes = &three.nodes;
    for (gone, left) in [((leader + 1) % 3, 2), (leader, 1)] {
        let removed = aspen(&[&nodes[gone]], &["member", "remove", &nodes[gone].id.to_string()]);
        assert_eq!(removed.status.code(), Some(0), "{removed:?}");
        assert_eq!(voters(&nodes[(leader + 2) % 3]).len(), left);
        wait_for_log(&nodes[gone], &["was removed from its cluster"]);
        for words in [&["put", "a", "b"][..], &["get", "a"], &["get", "a", "--stale"]] {
            let began = std::time::Instant::now();
            let refused = aspen(&[&nodes[gone]], words);
            assert_eq!(refused.status.code(), Some(3), "{refused:?}");
            assert!(stderr(&refused).contains("was removed from the cluster"), "{refused:?}");
            assert!(began.elapsed() < std::time::Duration::from_secs(3), "{words:?}: {:?}", began.elapsed());
        }
        let elsewhere = aspen(&[&nodes[gone], &nodes[(leader + 2) % 3]], &["put", "a", "b"]);
        assert_eq!(elsewhere.status.code(), Some(0), "{elsewhere:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_lose_quorum_is_refused_unless_forced_and_then_it_says_what_is_at_stake() {
    let mut three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    three.nodes[dead].kill();
    let (dead_id, alive_id) = (three.nodes[dead].id, three.nodes[alive].id);
    wait_until_missed(&three.nodes[leader], dead_id);

    let refused = error(&remove(&three.nodes[leader], alive_id), 409, "quorum_at_stake");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(&format!("node {dead_id} is silent")) && message.contains("no writes"),
        "{message}"
    );
    assert_eq!(voters(&three.nodes[leader]), [1, 2, 3]);
    three.nodes[leader].put("still", "taken");

    // What is gone for good is removed without further ado.
    remove(&three.nodes[leader], dead_id).ok();
    assert_eq!(voters(&three.nodes[leader]).len(), 2);

    // With two voters, of which one is silent, the other one cannot be all there is by mistake.
    let answer = remove(&three.nodes[leader], alive_id);
    assert_eq!(answer.status, 200, "{answer:?}");
    let last = remove(&three.nodes[leader], three.nodes[leader].id);
    error(&last, 400, "no_voters");
    three.nodes[leader].put("alone", "and well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_removal_says_what_is_at_stake() {
    let mut three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    three.nodes[dead].kill();
    wait_until_missed(&three.nodes[leader], three.nodes[dead].id);
    let alive_id = three.nodes[alive].id.to_string();
    let refused = aspen(&[&three.nodes[leader]], &["member", "remove", &alive_id]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(stderr(&refused).contains("--force"), "{refused:?}");

    // It waits for the silent voter, whose part in the quorum is now needed.
    let address = three.nodes[leader].http();
    let forced = std::thread::spawn(move || {
        aspen_at(&address.to_string(), &["--timeout", "40", "member", "remove", "--force", &alive_id])
    });
    wait_for_log(&three.nodes[leader], &["is forced", "the cluster would take no writes"]);
    three.nodes[dead].start();
    let forced = forced.join().expect("the client runs");
    assert!(stderr(&forced).contains("at stake: the voters would be"), "{forced:?}");
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    wait_until("two are left", || voters(&three.nodes[leader]).len() == 2);
    three.nodes[leader].put("after", "the silent one came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_replaced_in_one_step() {
    let mut three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let old = (leader + 1) % 3;
    let through = (leader + 2) % 3;
    three.nodes[leader].put("kept", "through the replacement");
    three.nodes[old].kill();

    let dir = temporary_directory();
    let peer = three.nodes[leader].endpoint();
    let mut new = Node::new(4, dir.path(), &["--bootstrap", "manual", "--peer", &peer]);
    new.start();
    let (old_id, ticket) = (three.nodes[old].id.to_string(), new.endpoint());
    let replaced = aspen(&[&three.nodes[through]], &["member", "replace", &old_id, "--with", &ticket]);
    assert_eq!(replaced.status.code(), Some(0), "{replaced:?}");
    let expected: Vec<u64> = (1..=4).filter(|id| id.to_string() != old_id).collect();
    assert_eq!(voters(&three.nodes[leader]), expected);
    assert_eq!(ids(&three.nodes[leader], |_| true), expected);
    new.wait_until_ready();
    assert_eq!(new.value("kept").as_deref(), Some("through the replacement"));

    // The new one counts: with another one gone, two of three are enough.
    three.nodes[through].kill();
    new.wait_until_writable();
    three.nodes[through].start();
    three.nodes[old].start();
    wait_for_log(&three.nodes[old], &["was removed from its cluster"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_replaced_while_it_runs_says_that_it_was_removed() {
    let three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let old = (leader + 1) % 3;
    let dir = temporary_directory();
    let peer = three.nodes[leader].endpoint();
    let mut new = Node::new(4, dir.path(), &["--bootstrap", "manual", "--peer", &peer]);
    new.start();
    let (old_id, ticket) = (three.nodes[old].id.to_string(), new.endpoint());
    let replaced = aspen(&[&three.nodes[leader]], &["member", "replace", &old_id, "--with", &ticket]);
    assert_eq!(replaced.status.code(), Some(0), "{replaced:?}");
    wait_for_log(&three.nodes[old], &["was removed from its cluster"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_members_key_gets_nothing_from_a_node_that_joined_later_and_still_names_it() {
    const SNAPSHOT_EVERY_ENTRIES: u64 = 500;
    let dir = temporary_directory();
    let config = dir.path().join("aspen.toml");
    let settings = format!("[raft]\nsnapshot_every_entries = {SNAPSHOT_EVERY_ENTRIES}\n");
    std::fs::write(&config, settings).expect("a file can be written");
    let config = ["--config", config.to_str().expect("temporary directories have names in UTF-8")];
    let mut three = Cluster::start_in(temporary_directory(), 3, &config).await;
    let leader = three.leader().await;
    let gone = (leader + 1) % 3;
    let (old_id, old_endpoint) = (three.nodes[gone].id, three.nodes[gone].endpoint());
    three.nodes[gone].kill();
    let removed = remove(&three.nodes[leader], old_id).ok();
    let removed_at = removed["log_index"].as_u64().expect("a change has an entry");

    // Until no log tells of the removed member any more, and all that is left of it stands in the snapshot.
    let client = three.client();
    let value = || StoredValue::new("forgotten").expect("a short value");
    let mut entries = 0;
    while three.nodes[leader].status().await.purged_index <= Some(removed_at) {
        assert!(entries < 3 * limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES, "the log is purged");
        let puts =
            (0..SNAPSHOT_EVERY_ENTRIES).map(|_| client.put(Key::new("log").expect("a short key"), value()));
        let written: Vec<_> = futures::stream::iter(puts).buffer_unordered(64).collect().await;
        written.into_iter().for_each(|put| drop(put.expect("two of two serve")));
        entries += SNAPSHOT_EVERY_ENTRIES;
    }

    let made = three.nodes[leader].post("/tickets", &json!({})).ok();
    let ticket = made["ticket"].as_str().expect("a ticket is a string");
    let mut new = Node::new(4, dir.path(), &["--join", ticket, "--peer", &old_endpoint]).without_id();
    new.start();
    let key = Identity::resolve(&three.nodes[gone].dir, None, None).expect("the old node's key is there");
    for _ in 0..2 {
        new.wait_until_ready();
        wait_for_log(&new, &[&format!("node {old_id}"), "was removed from the cluster: take it out"]);
        let endpoint = ClientEndpoint::open(key.secret_key().clone(), []).await.expect("an endpoint opens");
        let refused = endpoint.connect(&NodeTicket(new.peer()), None).await.err();
        assert!(matches!(refused, Some(ConnectError::Refused { .. })), "{refused:?}");
        endpoint.close().await;
        // The configuration names it at the next start as well.
        assert!(new.terminate().success());
        new.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_disk_is_refused_under_its_old_id_and_joins_under_another() {
    let mut three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let lost = (leader + 1) % 3;
    let id = three.nodes[lost].id;
    let leader_endpoint = three.nodes[leader].endpoint();
    let key = std::fs::read(three.nodes[lost].dir.join("iroh-secret-key")).expect("the key is there");
    let at = three.nodes[lost].iroh_addr();
    three.nodes[lost].kill();

    // The same key and id, and nothing else left of it.
    let dir = temporary_directory();
    let mut wiped = Node::new(id, dir.path(), &["--peer", &leader_endpoint]).at_iroh_addr(at);
    std::fs::create_dir(&wiped.dir).expect("a directory can be made");
    let place = wiped.dir.join("iroh-secret-key");
    std::fs::write(&place, key).expect("the key can be written");
    std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("modes can be set");
    wiped.start();
    wait_for_log(&wiped, &["another data directory than the cluster knows it by", "--join"]);
    wait_for_log(&three.nodes[leader], &[&format!("node {id}"), "another data directory"]);
    assert_eq!(cluster(&wiped)["last_log_index"], Value::Null, "it was sent nothing");
    wiped.kill();

    remove(&three.nodes[leader], id).ok();
    let made = three.nodes[leader].post("/tickets", &json!({})).ok();
    let ticket = made["ticket"].as_str().expect("a ticket is a string");
    std::fs::remove_file(wiped.dir.join("metadata.redb")).expect("the directory is emptied");
    std::fs::remove_file(wiped.dir.join("raft.redb")).expect("the directory is emptied");
    std::fs::remove_file(wiped.dir.join("state.redb")).expect("the directory is emptied");
    let mut back = wiped.without_id().with_flags(["--join", ticket]);
    back.start();
    wait_until("it votes under a new id", || voters(&three.nodes[leader]).contains(&4));
    assert!(!ids(&three.nodes[leader], |_| true).contains(&id));
    back.wait_until_ready();
}
