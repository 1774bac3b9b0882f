//! Strangers by the thousand: none of them gets in, nothing is left of them, and the cluster goes on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aspen::kv::client::KvClient;
use aspen::kv::types::{Key, Peer, Value};
use aspen::limits;
use iroh::endpoint::{ConnectionError, PortmapperConfig, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use tokio::sync::Mutex;

use crate::support::cluster::Cluster;
use crate::support::node::Node;
use crate::support::{PATIENCE, eventually};

/// All that a node answers.
const ALPNS: [&[u8]; 5] =
    [b"aspen/raft/1", b"aspen/snapshot/1", b"aspen/client/1", b"aspen/join/1", b"aspen/actor/1"];

/// Connections in all.
const CONNECTIONS: usize = 10_000;

/// Addresses that they come from, all of them on loopback.
const SOURCES: u8 = 20;

/// Keys at each address.
const KEYS_OF_SOURCE: usize = 5;

/// Connections under way at a time.
const UNDER_WAY: usize = 64;

/// Time between two of them. Other tests run beside this one.
const PACE: Duration = Duration::from_millis(2);

/// Memory that a node may have taken for them. iroh remembers for a minute whom it had a handshake with.
const GROWTH_MAX_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// How a node turned a stranger away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// It did not look at it.
    Unseen,
    /// After the handshake, with this code.
    Closed(u64),
}

async fn stranger(source: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((Ipv4Addr::new(127, 0, 1, source), 0)))
        .expect("the address is loopback's")
        .bind()
        .await
        .expect("an endpoint opens")
}

/// Calls, begins a message, and is silent.
async fn call(endpoint: &Endpoint, node: EndpointAddr, alpn: &[u8]) -> End {
    let Ok(connection) = endpoint.connect(node, alpn).await else { return End::Unseen };
    let half = async {
        let (mut send, recv) = connection.open_bi().await.ok()?;
        send.write_all(&[200, 1, 2, 3]).await.ok()?;
        Some((send, recv))
    };
    let half = half.await;
    let ended = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed in time");
    if let Some((_send, mut recv)) = half {
        assert_eq!(recv.read_to_end(1024).await.unwrap_or_default(), b"", "a stranger got an answer");
    }
    match ended {
        ConnectionError::ApplicationClosed(close) => End::Closed(close.error_code.into_inner()),
        // The word of the end was lost, or comes for a handshake that was given up.
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::ConnectionClosed(_) => {
            End::Unseen
        }
        other => panic!("a stranger's connection ended otherwise: {other}"),
    }
}

/// The strangers, each with its connections one after the other.
async fn storm(node: &Peer) -> BTreeMap<End, usize> {
    let mut strangers = Vec::new();
    for source in 1..=SOURCES {
        for _ in 0..KEYS_OF_SOURCE {
            strangers.push(stranger(source).await);
        }
    }
    let (strangers, next) = (Arc::new(strangers), Arc::new(AtomicUsize::new(0)));
    let pace = Arc::new(Mutex::new(tokio::time::interval(PACE)));
    let id = EndpointId::from_bytes(&node.info.public_key.0).expect("a node's key is valid");
    let addr = EndpointAddr::new(id).with_ip_addr(node.info.addresses[0]);
    let callers = (0..UNDER_WAY).map(|_| {
        let (strangers, next, pace) = (strangers.clone(), next.clone(), pace.clone());
        let addr = addr.clone();
        tokio::spawn(async move {
            let mut ends: BTreeMap<End, usize> = BTreeMap::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= CONNECTIONS {
                    return ends;
                }
                pace.lock().await.tick().await;
                let alpn = ALPNS[number % ALPNS.len()];
                let end = call(&strangers[number % strangers.len()], addr.clone(), alpn).await;
                *ends.entry(end).or_default() += 1;
            }
        })
    });
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    for counted in futures::future::join_all(callers).await {
        for (end, count) in counted.expect("no caller panics") {
            *ends.entry(end).or_default() += count;
        }
    }
    for endpoint in strangers.iter() {
        // They have said all that they had to say.
        tokio::time::timeout(Duration::from_millis(50), endpoint.close()).await.ok();
    }
    ends
}

/// Writes until it is told to stop, and says how many there were and how long the longest took.
async fn write_on(client: KvClient, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut writes, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let key = Key::new(format!("during/{writes}")).expect("a short key is valid");
        let value = Value::new("the storm").expect("a short value is valid");
        client.put(key, value).await.expect("the cluster takes writes");
        longest = longest.max(begun.elapsed());
        writes += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (writes, longest)
}

/// A figure of a node's iroh endpoint.
fn iroh_figure(node: &Node, name: &str) -> f64 {
    let page = node.get("/iroh-metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} is missing in {page}"))
}

/// Two peers, to and from each of which there may be a connection for each of the five lanes. Some are opened only when
/// they are needed, as those of a member through which the client comes to write.
const MEMBERS_CONNECTIONS_MAX: f64 = 20.0;

fn open_connections(node: &Node) -> f64 {
    iroh_figure(node, "aspen_iroh_socket_num_conns_opened_total")
        - iroh_figure(node, "aspen_iroh_socket_num_conns_closed_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_strangers_get_nothing_leave_nothing_and_stop_nobody() {
    let three = Cluster::start(3, &[]).await;
    let leader = three.leader().await;
    let node = &three.nodes[leader];
    let before = node.status().await;
    let figures = |names: &[&str]| names.iter().map(|name| node.figure(name)).collect::<Vec<_>>();
    let fds = node.figure("process_open_fds");
    let memory = node.figure("process_resident_memory_bytes");

    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_on(three.client(), stop.clone()));
    let begun = Instant::now();
    let ends = storm(&node.peer()).await;
    stop.store(true, Ordering::Relaxed);
    let (writes, longest) = writing.await.expect("the writer does not panic");
    let counted = figures(&[
        "aspen_transport_rejected_total",
        "aspen_transport_strangers_refused_total",
        "aspen_transport_handshakes_dropped_total",
    ]);
    let grown = node.figure("process_resident_memory_bytes") - memory;
    println!(
        "{ends:?} in {:?}; {writes} writes, the longest {longest:?}; rejected, refused, dropped {counted:?}; {grown} bytes more",
        begun.elapsed()
    );

    assert_eq!(ends.values().sum::<usize>(), CONNECTIONS);
    assert!(ends.keys().all(|end| matches!(end, End::Unseen | End::Closed(403 | 503 | 0))), "{ends:?}");
    assert!(counted[0] >= limits::STRANGERS_MAX_COUNT as f64, "some had their handshake: {counted:?}");
    assert!(counted[1] >= CONNECTIONS as f64 / 2.0, "most were refused by their first packet: {counted:?}");
    assert!(grown < GROWTH_MAX_BYTES, "{grown} bytes more");
    assert!(node.log().contains("strangers keep calling"), "{}", node.log());

    let is_left_to_members = async || open_connections(node) <= MEMBERS_CONNECTIONS_MAX;
    eventually("their connections are gone", is_left_to_members).await;
    eventually("their sockets are gone", async || node.figure("process_open_fds") <= fds + 2.0).await;
    let after = node.status().await;
    assert_eq!((after.term, after.leader), (before.term, before.leader), "nobody lost the lead");
    assert_eq!(after.members.len(), 3);
    assert!(writes > 0 && longest < Duration::from_secs(5), "{longest:?}");
}
