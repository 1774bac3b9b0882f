//! A quorum that is lost for good: the survivor becomes a cluster of its own, and nobody of the old one
//! gets in again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use aspen::kv::types::{Key, NodeId, NodeState, Role, Value};

use crate::support::cluster::Cluster;
use crate::support::eventually;

fn recover(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
    command.arg("recover").args(words).arg("--data-dir").arg(dir).output().expect("the node's binary runs")
}

fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// All files of a data directory.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &Path| fs::read(path).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.filter(|path| path.is_file()).map(|path| (name(&path), read(&path))).collect()
}

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivor_of_a_lost_quorum_serves_alone_with_all_that_it_held() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    for number in 0..50 {
        let value = Value::new(format!("value {number}")).unwrap();
        client.put(key(&format!("key-{number}")), value).await.unwrap();
    }
    let newest = cluster.nodes[cluster.leader().await].status().await;
    eventually("node 1 has all of it", async || {
        cluster.nodes[0].status().await.applied_index >= newest.applied_index
    })
    .await;
    let old_id = newest.cluster_id.unwrap();

    println!("two of three are lost");
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let dir = cluster.nodes[0].dir.clone();
    assert_says(&recover(&dir, &["--yes"]), 2, &["runs, as process", "stop it first"]);
    cluster.nodes[0].kill();

    println!("a dry run");
    let before = files(&dir);
    let told = recover(&dir, &[]);
    let id = old_id.to_string();
    assert_says(
        &told,
        0,
        &[
            &format!("node 1 of cluster {id}"),
            "1  voter, this node",
            "3  voter",
            "revision 50 with 50 keys",
            "what may be lost",
            "Nothing was changed",
        ],
    );
    assert!(files(&dir) == before, "a dry run has changed something");

    println!("for real");
    assert_says(&recover(&dir, &["--yes"]), 0, &["node 1 is the only member of the new cluster "]);
    cluster.nodes[0].start();
    let node = &cluster.nodes[0];
    eventually("it leads", async || node.status().await.state == NodeState::Serving).await;
    let status = node.status().await;
    let new_id = status.cluster_id.unwrap();
    assert_ne!(new_id, old_id);
    let members: Vec<_> = status.members.iter().map(|member| (member.node_id, member.role)).collect();
    assert_eq!(members, [(NodeId(1), Role::Leader)]);
    for number in 0..50 {
        let kv = node.client().get(key(&format!("key-{number}"))).await.unwrap().unwrap();
        assert_eq!(kv.value.as_bytes(), format!("value {number}").as_bytes());
    }
    let after = node.client().put(key("after"), Value::new("1").unwrap()).await.unwrap();
    assert!(after.revision.0 > 1_000_000_000, "a revision may come twice: {}", after.revision);

    println!("an old member comes back");
    cluster.nodes[1].start();
    let (node, old) = (&cluster.nodes[0], &cluster.nodes[1]);
    eventually("it is turned away", async || node.figure("aspen_transport_rejected_total") > 0.0).await;
    let refused = node.client().add_learner(old.endpoint()).await.unwrap_err().to_string();
    assert!(refused.contains("cluster"), "{refused}");
    let status = old.status().await;
    assert_eq!(status.cluster_id, Some(old_id));
    assert_ne!(status.state, NodeState::Serving, "{}", status.detail);
    assert_eq!(node.status().await.cluster_id, Some(new_id));
    node.client().put(key("after"), Value::new("2").unwrap()).await.unwrap();

    println!("a new one joins");
    cluster.nodes[1].kill();
    let joined = cluster.join(4).await;
    eventually("the new one has it all", async || {
        let kv = cluster.nodes[joined].client().get(key("after")).await;
        kv.is_ok_and(|kv| kv.is_some_and(|kv| kv.value.as_bytes() == b"2"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_majority_goes_on_without_the_one_that_was_recovered_too_early() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.client().put(key("k"), Value::new("1").unwrap()).await.unwrap();
    cluster.nodes[2].kill();
    assert_says(&recover(&cluster.nodes[2].dir, &["--yes"]), 0, &["new cluster"]);
    cluster.nodes[2].start();
    let early = &cluster.nodes[2];
    eventually("it leads alone", async || early.status().await.state == NodeState::Serving).await;
    early.client().put(key("k"), Value::new("of the other cluster").unwrap()).await.unwrap();

    // Each goes on by itself, and neither takes anything from the other.
    let majority = crate::support::cluster::client_of([cluster.nodes[0].http(), cluster.nodes[1].http()]);
    majority.put(key("k"), Value::new("2").unwrap()).await.unwrap();
    for (client, value) in [(majority, "2"), (early.client(), "of the other cluster")] {
        let kv = client.get(key("k")).await.unwrap().unwrap();
        assert_eq!(kv.value.as_bytes(), value.as_bytes());
    }
}
