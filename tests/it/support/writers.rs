//! Writers that keep book of what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aspen::kv::client::KvClient;
use aspen::kv::types::{Key, KeyRange, Value};
use bytes::Bytes;

use super::eventually;

const WRITERS: usize = 8;

/// What writers were told: for each key the value of its last acknowledged write, and that of a later
/// write whose outcome nobody knows.
#[derive(Default)]
pub struct Ledger {
    acknowledged: BTreeMap<String, u64>,
    in_doubt: BTreeMap<String, u64>,
    /// Acknowledged writes.
    pub count: u64,
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
pub struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Sets them to work.
    pub fn start(client: &KvClient) -> Self {
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

    /// The longest time without an acknowledged write, since this was asked last.
    pub fn take_longest_gap(&self) -> Duration {
        std::mem::take(&mut self.ledger.lock().unwrap().longest_gap)
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn progress(&self, more: u64) {
        let target = self.count() + more;
        eventually("the writers get on", async || self.count() >= target).await;
    }

    /// Stops them.
    pub async fn stop(self) -> Ledger {
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
pub async fn check(ledger: &Ledger, client: &KvClient, where_: &str) {
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
