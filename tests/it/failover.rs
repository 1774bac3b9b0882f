//! Real processes that are killed under load: no acknowledged write is lost, and none is invented.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aspen::kv::client::KvClient;
use aspen::kv::types::{Key, KeyRange, Value};
use bytes::Bytes;

use crate::support::cluster::Cluster;
use crate::support::eventually;

const WRITERS: usize = 8;

/// What writers were told: for each key the value of its last acknowledged write, and that of a later
/// write whose outcome nobody knows.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<String, u64>,
    in_doubt: BTreeMap<String, u64>,
    count: u64,
    longest_gap: Duration,
    last_acknowledged: Option<Instant>,
}

impl Ledger {
    fn acknowledge(&mut self, key: &str, value: u64) {
        let now = Instant::now();
        if let Some(last) = self.last_acknowledged.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.acknowledged.insert(key.to_owned(), value);
        self.in_doubt.remove(key);
        self.count += 1;
    }
}

/// Writers that each keep counting up keys of their own until they are stopped.
struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &KvClient) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write_on(writer, client.clone(), ledger.clone(), stop.clone())))
            .collect();
        Self { ledger, stop, writers }
    }

    fn count(&self) -> u64 {
        self.ledger.lock().unwrap().count
    }

    fn take_longest_gap(&self) -> Duration {
        std::mem::take(&mut self.ledger.lock().unwrap().longest_gap)
    }

    /// Waits until so many more writes are acknowledged.
    async fn progress(&self, more: u64) {
        let target = self.count() + more;
        eventually("the writers get on", async || self.count() >= target).await;
    }

    async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        for writer in self.writers {
            writer.await.expect("a writer does not panic");
        }
        Arc::into_inner(self.ledger).expect("all writers have ended").into_inner().unwrap()
    }
}

async fn write_on(writer: usize, client: KvClient, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    let mut value = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        value += 1;
        let key = format!("load/{writer}/{}", value % 50);
        ledger.lock().unwrap().in_doubt.insert(key.clone(), value);
        let put = client.put(text_key(&key), Value::new(value.to_string()).unwrap()).await;
        match put {
            Ok(_) => ledger.lock().unwrap().acknowledge(&key, value),
            // Its outcome stays in doubt: a later read may show it or not.
            Err(error) => assert!(error.is_outcome_unknown() || error.is_unavailable(), "{error}"),
        }
    }
}

fn text_key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

/// Every acknowledged write is there, or a later one to the same key which is in doubt.
async fn check(ledger: &Ledger, client: &KvClient, where_: &str) {
    let range = KeyRange::Prefix(Bytes::from_static(b"load/"));
    let found = client.range(range).await.unwrap_or_else(|error| panic!("{where_}: {error}"));
    let found: BTreeMap<String, u64> = found
        .range
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8(kv.key.as_bytes().to_vec()).unwrap();
            (key, std::str::from_utf8(kv.value.as_bytes()).unwrap().parse().unwrap())
        })
        .collect();
    for (key, acknowledged) in &ledger.acknowledged {
        let value = found.get(key).unwrap_or_else(|| panic!("{where_}: {key}={acknowledged} is lost"));
        let doubted = ledger.in_doubt.get(key);
        assert!(
            value == acknowledged || Some(value) == doubted,
            "{where_}: {key} is {value}; acknowledged was {acknowledged}, in doubt {doubted:?}"
        );
    }
    for (key, value) in &found {
        let written = ledger.acknowledged.get(key) == Some(value) || ledger.in_doubt.get(key) == Some(value);
        assert!(written, "{where_}: {key}={value} was invented");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_acknowledged_write_and_comes_back_at_another_port() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let load = Load::start(&client);
    load.progress(200).await;

    let old = cluster.leader().await;
    load.take_longest_gap();
    cluster.nodes[old].kill();
    load.progress(200).await;
    let gap = load.take_longest_gap();
    println!("clients waited {gap:?} for a write at the most while the leader changed");

    cluster.nodes[old].move_at_next_start();
    cluster.nodes[old].start();
    load.progress(200).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let load = Load::start(&client);
    for kill in 0..20 {
        load.progress(50).await;
        // Leaders and followers in turn.
        let victim = if kill % 2 == 0 { cluster.leader().await } else { kill % 3 };
        cluster.nodes[victim].kill();
        load.progress(20).await;
        cluster.nodes[victim].start();
    }
    load.progress(50).await;
    let ledger = load.stop().await;
    println!("{} writes were acknowledged across twenty kills", ledger.count);
    for node in &cluster.nodes {
        check(&ledger, &node.client(), &format!("read through node {}", node.id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_that_is_killed_has_every_acknowledged_write_after_its_restart() {
    let mut cluster = Cluster::start(1, &[]).await;
    for _ in 0..5 {
        let load = Load::start(&cluster.client());
        load.progress(100).await;
        cluster.nodes[0].kill();
        let ledger = load.stop().await;
        cluster.nodes[0].start();
        check(&ledger, &cluster.client(), "after the restart").await;
        let cleared = cluster.client().delete_prefix("load/").await;
        cleared.expect("the keys can be deleted");
    }
}
