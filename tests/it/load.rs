//! Many clients at once: no request fails, and memory stays bounded. The figures that this prints are
//! those of a debug build.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aspen::kv::types::{Key, Value};

use crate::support::cluster::{Cluster, client_of};

const CLIENTS: usize = 64;
const VALUE_BYTES: usize = 256;
const DURATION: Duration = Duration::from_secs(5);

/// Above what a node needs under this load, and far below what one leaked copy of its writes would take.
const RESIDENT_MAX_BYTES: u64 = 250 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_write_to_three_nodes_and_no_request_fails() {
    let cluster = Cluster::start(3, &[]).await;
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.http()).collect();
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let until = Instant::now() + DURATION;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = client_of([addresses[number % addresses.len()]]);
            let latencies = latencies.clone();
            tokio::spawn(async move {
                let mut own = Vec::new();
                while Instant::now() < until {
                    let key = Key::new(format!("load/{number}/{}", own.len() % 100)).unwrap();
                    let began = Instant::now();
                    let put = client.put(key, Value::new(vec![b'v'; VALUE_BYTES]).unwrap()).await;
                    put.unwrap_or_else(|error| panic!("client {number}: {error}"));
                    own.push(began.elapsed());
                }
                latencies.lock().unwrap().extend(own);
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no request fails");
    }
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap());
    latencies.sort_unstable();
    println!(
        "{} clients, {VALUE_BYTES} B: {:.0} puts a second, p50 {:?}, p99 {:?}",
        CLIENTS,
        latencies.len() as f64 / DURATION.as_secs_f64(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    for node in &cluster.nodes {
        let resident = resident_bytes(node.pid());
        println!("node {} has {} MiB resident", node.id, resident / 1024 / 1024);
        assert!(resident < RESIDENT_MAX_BYTES, "node {} has {resident} bytes resident", node.id);
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("it is a number");
    kib * 1024
}
