//! Real nodes whose files are damaged: they say so and stop, and `verify` and `repair` do what they say.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::cluster::Cluster;
use crate::support::node::Node;

/// What belongs to a block that a database uses at a time.
const BLOCK_BYTES: usize = 4096;

fn aspen_node(words: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
    command.args(words).arg("--data-dir").arg(dir).output().expect("the node's binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// Flips a bit in every block that holds something, the header left out.
fn damage(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    for (number, block) in fs::read(path).unwrap().chunks(BLOCK_BYTES).enumerate().skip(1) {
        if let Some(at) = block.iter().position(|byte| *byte != 0) {
            file.write_all_at(&[block[at] ^ 2], (number * BLOCK_BYTES + at) as u64).unwrap();
        }
    }
}

fn contents(dir: &Path) -> Vec<Vec<u8>> {
    ["metadata.redb", "raft.redb", "state.redb"].map(|name| fs::read(dir.join(name)).unwrap()).into()
}

/// A node of a cluster of its own, with snapshots and a purged log, that has written some keys.
fn written(base: &Path) -> Node {
    let mut node = Node::new(1, base, &[])
        .with_env("ASPEN_RAFT__SNAPSHOT_EVERY_ENTRIES", "20")
        .with_env("ASPEN_STORAGE_OPTIONS__SCRUB_INTERVAL_S", "1");
    node.start_serving();
    for number in 0..50 {
        node.put(&format!("key-{number}"), &format!("value {number}"));
    }
    node
}

fn assert_data_kept(node: &Node) {
    for number in 0..50 {
        assert_eq!(node.value(&format!("key-{number}")), Some(format!("value {number}")), "{}", node.log());
    }
}

#[test]
fn damaged_state_is_reported_and_made_anew_and_the_node_serves_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = written(dir.path());
    assert!(node.terminate().success(), "{}", node.log());
    assert_says(&aspen_node(&["verify"], &node.dir), 0, &["node 1 of cluster", "state.redb", "all is well"]);

    damage(&node.dir.join("state.redb"));
    let found = aspen_node(&["verify"], &node.dir);
    assert_says(&found, 1, &["state.redb, offset ", "DAMAGED", "1 piece of damage"]);
    let report = aspen_node(&["verify", "--json"], &node.dir);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert!(report["damage"][0]["place"]["offset"].as_u64().unwrap() > 0, "{report}");
    node.spawn();
    assert_eq!(node.wait_for_end().code(), Some(1));
    assert!(node.last_log().contains("aspen-node repair"), "{}", node.last_log());

    let before = contents(&node.dir);
    assert_says(&aspen_node(&["repair", "--dry-run"], &node.dir), 0, &["would make state.redb anew"]);
    assert!(contents(&node.dir) == before && !node.dir.join("state.redb.damaged-1").exists());
    let repaired = aspen_node(&["repair"], &node.dir);
    assert_says(&repaired, 0, &["made state.redb anew from", "state.redb.damaged-1"]);
    assert!(contents(&node.dir)[..2] == before[..2], "more than the state was replaced");
    assert_says(&aspen_node(&["verify"], &node.dir), 0, &["all is well"]);
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn damaged_log_is_not_repaired_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = written(dir.path());
    assert!(node.terminate().success(), "{}", node.log());
    damage(&node.dir.join("raft.redb"));
    let before = contents(&node.dir);
    assert_says(&aspen_node(&["verify"], &node.dir), 1, &["raft.redb, offset "]);
    let told = aspen_node(&["repair"], &node.dir);
    assert_says(
        &told,
        1,
        &["must not vote again", "aspen member remove 1", "aspen ticket new", "--join TICKET"],
    );
    assert!(contents(&node.dir) == before, "something was touched");
}

#[test]
fn log_that_cannot_be_read_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = written(dir.path());
    assert!(node.terminate().success(), "{}", node.log());
    let log = node.dir.join("raft.redb");
    fs::rename(&log, node.dir.join("kept")).unwrap();
    fs::create_dir(&log).unwrap();
    let found = aspen_node(&["verify"], &node.dir);
    assert_says(&found, 1, &["UNREADABLE", "failure: ", "no damage was found in what could be read"]);
    let told = aspen_node(&["repair"], &node.dir);
    assert_says(
        &told,
        1,
        &["cannot be repaired now: ", "raft.redb", "run this again", "aspen member remove 1"],
    );
    assert_says(&aspen_node(&["recover"], &node.dir), 2, &["cannot be read or written", "see to the disk"]);

    fs::remove_dir(&log).unwrap();
    fs::rename(node.dir.join("kept"), &log).unwrap();
    assert_says(&aspen_node(&["repair"], &node.dir), 0, &["there is nothing to repair"]);
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn running_node_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let node = written(dir.path());
    let holder = format!("runs, as process {}", node.pid());
    for command in ["verify", "repair"] {
        assert_says(&aspen_node(&[command], &node.dir), 2, &[&holder, "stop it first"]);
    }
    assert_data_kept(&node);
    assert_says(&aspen_node(&["verify"], &dir.path().join("absent")), 2, &["does not exist"]);
    assert_says(&aspen_node(&["verify"], dir.path()), 2, &["holds no data of an Aspen node"]);
}

#[test]
fn damage_under_a_running_node_ends_it_with_file_and_offset() {
    for file in ["state.redb", "raft.redb"] {
        let dir = tempfile::tempdir().unwrap();
        let mut node = written(dir.path());
        crate::support::wait_until("the scrub has passed once", || {
            node.figure("aspen_scrub_passes_total") > 0.0
        });
        damage(&node.dir.join(file));
        let status = node.wait_for_end();
        let log = node.last_log();
        assert_eq!(status.code(), Some(1), "{log}");
        let last = log.trim_end().lines().last().unwrap();
        assert!(last.contains("the node ends") && last.contains(&format!("{file}, offset ")), "{log}");
    }
}

/// Who was away for long gets a snapshot. One that rotted on the leader's disk ends neither of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_damaged_at_the_leader_is_made_anew_before_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let node = |id| Node::new(id, dir.path(), &[]).with_env("ASPEN_RAFT__SNAPSHOT_EVERY_ENTRIES", "20");
    let nodes = (1..=3).map(node).collect();
    let mut cluster = Cluster::form(dir, nodes).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let known = cluster.nodes[away].status().await.last_log_index;
    assert!(cluster.nodes[away].terminate().success());
    let mut number = 0;
    while cluster.nodes[leader].status().await.purged_index <= known {
        number += 1;
        // Large ones: behind a snapshot as many stay as 64 MiB hold.
        cluster.nodes[leader].put("key", &format!("{number} {}", "x".repeat(900_000)));
        assert!(number < 1_000, "nothing is purged");
    }
    cluster.nodes[leader].put("last", "key");
    // No other snapshot takes the place of the damaged one, and none that was taken up before is sent.
    crate::support::eventually("the newest snapshot is made", async || {
        let status = cluster.nodes[leader].status().await;
        status.snapshot_index.is_some_and(|snapshot| status.last_log_index < Some(snapshot + 20))
    })
    .await;
    let failures = |node: &Node| node.log().matches("sending a snapshot to node").count();

    let snapshots = fs::read_dir(cluster.nodes[leader].dir.join("snapshots")).unwrap();
    for file in snapshots.map(|file| file.unwrap().path()) {
        let at = fs::metadata(&file).unwrap().len() / 2;
        let open = fs::File::options().read(true).write(true).open(&file).unwrap();
        let mut byte = [0];
        open.read_exact_at(&mut byte, at).unwrap();
        open.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
    let before = failures(&cluster.nodes[leader]);
    crate::support::wait_until("another attempt to send it begins", || {
        failures(&cluster.nodes[leader]) > before
    });
    cluster.nodes[away].start();
    crate::support::wait_until("the node has caught up", || {
        let read = serde_json::json!({"get": {"key": "last"}, "consistency": "stale"});
        cluster.nodes[away].post("/read", &read).json()["kvs"][0]["value"] == "key"
    });
    let log = cluster.nodes[leader].log();
    assert!(log.contains("is damaged and is made anew"), "{log}");
    for node in &mut cluster.nodes {
        node.assert_running();
    }
}
