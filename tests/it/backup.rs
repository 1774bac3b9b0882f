//! Backups of real clusters under load, restored into others and into the same one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aspen::kv::client::KvClient;
use aspen::kv::types::{Key, KeyRange, ReadRequest, Revision, Value};
use bytes::Bytes;

use crate::support::cluster::Cluster;
use crate::support::eventually;

/// Keys that take up several chunks of a backup together.
const KEYS: u64 = 40;
const VALUE_BYTES: usize = 50_000;

fn aspen(cluster: &Cluster, words: &[&str]) -> Command {
    let addresses: Vec<String> = cluster
        .nodes
        .iter()
        .filter(|node| node.is_running())
        .map(|node| format!("http://{}", node.http()))
        .collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
    command.args(["--addr", &addresses.join(",")]).args(words).stdin(Stdio::null());
    command
}

async fn run(cluster: &Cluster, words: &[&str]) -> Output {
    let mut command = aspen(cluster, words);
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("the command is waited for").expect("the command line's binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_ends(output: &Output, code: i32, parts: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn key(text: impl Into<String>) -> Key {
    Key::new(text.into()).expect("it is short")
}

fn value(text: impl Into<Vec<u8>>) -> Value {
    Value::new(text.into()).expect("it is short")
}

/// All keys with their values.
async fn content(client: &KvClient) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    let mut start = Bytes::new();
    loop {
        let page = client.range(KeyRange::Span { start, end: None }).await.expect("the cluster serves").range;
        for kv in &page.kvs {
            let name = String::from_utf8(kv.key.as_bytes().to_vec()).expect("the keys are text");
            found.insert(name, kv.value.clone().into_bytes());
        }
        match page.kvs.last() {
            Some(last) if page.more => start = [last.key.as_bytes(), b"\0"].concat().into(),
            _ => return found,
        }
    }
}

async fn fill(client: &KvClient, mark: u8) {
    for number in 0..KEYS {
        let large = value(vec![mark; VALUE_BYTES]);
        client.put(key(format!("large/{number:03}")), large).await.expect("a put is acknowledged");
    }
}

/// Writes that keep two keys at the same number, in one transaction.
struct Pairs {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<()>,
}

impl Pairs {
    fn start(client: KvClient) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (done, stopped) = (acknowledged.clone(), stop.clone());
        let writer = tokio::spawn(async move {
            for number in 1_u64.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let number_text = || value(number.to_string());
                let pair = [(key("pair/left"), number_text()), (key("pair/right"), number_text())];
                if client.set_multi(pair).await.is_ok() {
                    done.store(number, Ordering::SeqCst);
                }
            }
        });
        Self { acknowledged, stop, writer }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.writer.await.expect("the writer does not panic");
    }
}

fn number(content: &BTreeMap<String, Bytes>, key: &str) -> u64 {
    std::str::from_utf8(&content[key]).expect("it is text").parse().expect("it is a number")
}

fn path(file: &Path) -> &str {
    file.to_str().expect("temporary directories have names in UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_under_load_is_of_one_revision_and_is_restored_into_an_empty_and_a_running_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("monday.aspen");
    let cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    fill(&client, b'a').await;
    let load = Pairs::start(client.clone());
    eventually("the load runs", async || load.acknowledged.load(Ordering::SeqCst) > 20).await;

    println!("a backup under load");
    let before = load.acknowledged.load(Ordering::SeqCst);
    let taken = run(&cluster, &["backup", path(&file)]).await;
    assert_ends(&taken, 0, &["monday.aspen: 42 keys at revision ", " of cluster "]);
    let after = load.acknowledged.load(Ordering::SeqCst);
    assert_ends(&run(&cluster, &["backup", "--check", path(&file)]).await, 0, &["is whole: 42 keys"]);
    let kept = fs::read(&file).unwrap();
    assert_ends(&run(&cluster, &["backup", path(&file)]).await, 2, &["is there already", "--force"]);
    assert!(fs::read(&file).unwrap() == kept, "the file was touched");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["monday.aspen"], "nothing unfinished is left");

    println!("into an empty cluster");
    let other = Cluster::start(1, &[]).await;
    assert_ends(&run(&other, &["restore", path(&file)]).await, 0, &["restored 42 keys of revision "]);
    let restored = content(&other.client()).await;
    assert_eq!(restored.len(), 42);
    let (left, right) = (number(&restored, "pair/left"), number(&restored, "pair/right"));
    assert_eq!(left, right, "a transaction was torn");
    assert!((before..=after + 1).contains(&left), "{left} is not from {before} to {after}");

    println!("into the running cluster");
    fill(&client, b'b').await;
    client.put(key("vanishes"), value("x")).await.unwrap();
    let revision = cluster.nodes[0].status().await.revision;
    let refused = run(&cluster, &["restore", path(&file)]).await;
    assert_ends(&refused, 4, &["the cluster holds 43 keys at revision ", "--replace"]);
    assert_eq!(content(&client).await["large/000"][0], b'b');
    let replaced = run(&cluster, &["restore", path(&file), "--replace"]).await;
    assert_ends(&replaced, 0, &["the 43 keys that the cluster holds", "restored 42 keys"]);
    load.stop().await;
    let mut found = content(&client).await;
    assert!(!found.contains_key("vanishes"));
    // The load went on, before the commit and after it.
    let (left, right) = (number(&found, "pair/left"), number(&found, "pair/right"));
    assert_eq!(left, right, "a transaction was torn");
    let mut expected = restored;
    for pair in ["pair/left", "pair/right"] {
        found.remove(pair);
        expected.remove(pair);
    }
    assert!(found == expected, "other keys than those of the backup are there");

    println!("no revision comes again");
    let kv = client.get(key("large/000")).await.unwrap().unwrap();
    assert!(kv.mod_revision > revision, "{} is not above {revision}", kv.mod_revision);
    let old = ReadRequest { revision: Some(revision), ..ReadRequest::get(key("large/000")) };
    assert_eq!(client.read(old).await.unwrap_err().code(), "compacted");
    for node in &cluster.nodes {
        eventually("each member has the same", async || {
            let there = node.client().get(key("large/000")).await;
            there.is_ok_and(|there| there.is_some_and(|there| there.mod_revision == kv.mod_revision))
        })
        .await;
    }
    assert!(client.put(key("next"), value("1")).await.unwrap().revision > kv.mod_revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_that_is_cut_altered_newer_or_none_is_refused_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    fill(&client, b'a').await;
    assert_ends(&run(&cluster, &["backup", path(&good)]).await, 0, &[]);
    let whole = fs::read(&good).unwrap();
    // Wherever a chunk ends, too: its head tells how long it is.
    let at = |from: usize| u32::from_le_bytes(whole[from..from + 4].try_into().unwrap()) as usize;
    let header_end = 12 + 8 + at(12);
    let first_chunk_end = header_end + 8 + at(header_end);
    let trailer = whole.len() - 28;
    let altered = |at: usize, by: u8| {
        let mut altered = whole.clone();
        altered[at] ^= by;
        altered
    };
    let mut cases: Vec<(Vec<u8>, &str)> =
        [0, 5, 12, 20, header_end, first_chunk_end, trailer, whole.len() - 1]
            .into_iter()
            .map(|length| (whole[..length].to_vec(), "ends in the middle"))
            .collect();
    let step = whole.len() / 12;
    cases.extend((21..whole.len()).step_by(step).map(|at| (altered(at, 0x40), "the backup's ")));
    cases.push((altered(header_end + 9, 1), "fails its checksum: it was altered, or is damaged"));
    cases.push((altered(8, 3), "has format 2, and this program knows format 1 only"));
    cases.push((altered(0, 1), "this is no backup of Aspen's"));
    cases.push((b"#!/bin/sh\n".to_vec(), "this is no backup of Aspen's"));
    cases.push(([&whole[..], b"x"].concat(), "bytes follow"));

    let stands = cluster.nodes[0].status().await;
    for (bytes, sentence) in cases {
        fs::write(&bad, &bytes).unwrap();
        for words in [&["restore", path(&bad), "--replace"][..], &["backup", "--check", path(&bad)]] {
            assert_ends(&run(&cluster, words).await, 2, &[path(&bad), sentence]);
        }
    }
    let absent = dir.path().join("absent");
    assert_ends(&run(&cluster, &["restore", path(&absent)]).await, 2, &["cannot be read"]);
    let now = cluster.nodes[0].status().await;
    assert_eq!(
        (now.revision, now.last_log_index),
        (stands.revision, stands.last_log_index),
        "something was sent"
    );
}

/// Begins to restore, and gives the process once some of the chunks are in the log.
async fn begin_to_restore(cluster: &Cluster, leader: usize, file: &Path) -> Child {
    let last = async || cluster.nodes[leader].status().await.last_log_index.unwrap_or_default();
    let before = last().await;
    let mut command = aspen(cluster, &["restore", path(file), "--replace"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some chunks are staged", async || last().await > before + 4).await;
    child
}

async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_survives_its_leader_and_one_that_is_cut_leaves_the_keys_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    for _ in 0..5 {
        fill(&client, b'a').await;
    }
    // Many chunks, so that there is a middle.
    for number in 0..150 {
        client.put(key(format!("more/{number}")), value(vec![b'm'; 200_000])).await.unwrap();
    }
    assert_ends(&run(&cluster, &["backup", path(&file)]).await, 0, &[]);
    let backed_up = content(&client).await;
    fill(&client, b'b').await;

    println!("the one who restores is killed");
    let leader = cluster.leader().await;
    let mut child = begin_to_restore(&cluster, leader, &file).await;
    child.kill().unwrap();
    assert_eq!(ended(child).await.status.code(), None, "it had not ended by itself");
    assert_eq!(content(&client).await["large/000"][0], b'b');
    let aborted = run(&cluster, &["restore", "--abort"]).await;
    assert_ends(&aborted, 0, &["thrown away; the keys were not touched"]);
    assert_ends(&run(&cluster, &["restore", "--abort"]).await, 0, &["no restore is under way"]);

    println!("the leader is killed");
    let leader = cluster.leader().await;
    let revision = cluster.nodes[leader].status().await.revision;
    let child = begin_to_restore(&cluster, leader, &file).await;
    cluster.nodes[leader].kill();
    assert_ends(&ended(child).await, 0, &["restored 190 keys"]);
    let client = cluster.client();
    assert!(content(&client).await == backed_up);
    cluster.nodes[leader].start();
    let back = &cluster.nodes[leader];
    eventually("the old leader has it, too", async || {
        back.client()
            .get(key("large/000"))
            .await
            .is_ok_and(|kv| kv.is_some_and(|kv| kv.mod_revision > revision))
    })
    .await;
    assert!(content(&back.client()).await == backed_up);
    assert!(client.get(key("large/000")).await.unwrap().unwrap().mod_revision > Revision(1_000_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_of_a_cluster_without_a_quorum_is_refused_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("backup");
    let mut cluster = Cluster::start(2, &[]).await;
    cluster.nodes[1].kill();
    let refused = run(&cluster, &["--timeout", "8", "backup", path(&file)]).await;
    assert_ends(&refused, 3, &["no leader with a quorum"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
