//! The relay that a node serves, and those who come to it without being let in.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use iroh::dns::DnsResolver;
use iroh::{RelayUrl, SecretKey};
use iroh_relay::client::{Client, ClientBuilder};
use iroh_relay::tls::{CaTlsConfig, default_provider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::support::{PATIENCE, TestNode, client_secret, counted, recorder};
use crate::limits;

const LIMIT: Duration = Duration::from_millis(limits::RELAY_HANDSHAKE_TIMEOUT_MS);

/// Asks for the relay's protocol, and says no more.
const UPGRADE: &str = "GET /relay HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: iroh-relay-v2\r\n\r\n";

struct Relay {
    addr: SocketAddr,
    node: TestNode,
    stop: DropGuard,
}

impl Relay {
    async fn start() -> Self {
        let node = TestNode::start(1).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (transport, stopped) = (node.transport.clone(), stop.clone());
        tokio::spawn(async move { transport.serve_relay(listener, stopped).await });
        Self { addr, node, stop: stop.drop_guard() }
    }

    /// Connects as somebody whom the node lets in, and waits until it is.
    async fn enter(&self) -> Result<Client, String> {
        self.enter_as(client_secret()).await
    }

    async fn enter_as(&self, key: SecretKey) -> Result<Client, String> {
        let url: RelayUrl = format!("http://{}", self.addr).parse().unwrap();
        let tls = CaTlsConfig::default().client_config(default_provider()).unwrap();
        let client = ClientBuilder::new(url, key, DnsResolver::new()).tls_client_config(tls);
        let entered = tokio::time::timeout(PATIENCE, client.connect()).await.expect("the relay answers");
        entered.map_err(|error| format!("{error:#}"))
    }

    /// A connection from another address of loopback that asks for the relay's protocol.
    async fn silent_from(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 2, host), 0).into()).unwrap();
        let mut stream = socket.connect(self.addr).await.unwrap();
        // The relay may have closed it already.
        stream.write_all(UPGRADE.as_bytes()).await.ok();
        stream
    }
}

/// Whether the relay has agreed to speak its protocol and sent its challenge; else it has closed the connection.
async fn is_asked_for_a_key(stream: &mut TcpStream) -> bool {
    let mut said = Vec::new();
    let asked = async {
        while stream.read_buf(&mut said).await.unwrap_or(0) > 0 {
            let head = said.windows(4).position(|end| end == b"\r\n\r\n");
            if head.is_some_and(|end| said.len() > end + 4) {
                assert!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
                return true;
            }
        }
        false
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the relay takes it or closes it")
}

async fn is_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the relay closes it").ok();
}

#[tokio::test]
async fn connections_that_prove_no_key_end_in_time_and_those_of_one_address_keep_nobody_out() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let relay = Relay::start().await;
    let begun = Instant::now();
    let (mut silent, mut closed) = (Vec::new(), 0);
    for _ in 0..limits::RELAY_ARRIVALS_MAX_COUNT * 2 {
        let mut stream = relay.silent_from(1).await;
        if is_asked_for_a_key(&mut stream).await {
            silent.push(stream);
        } else {
            closed += 1;
        }
    }
    assert_eq!(silent.len(), limits::RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT);
    assert_eq!(closed, limits::RELAY_ARRIVALS_MAX_COUNT * 2 - silent.len());

    let _guest = relay.enter().await.unwrap();
    let stranger = relay.enter_as(SecretKey::generate()).await.unwrap_err();
    assert!(stranger.contains("members, declared peers and clients alone"), "{stranger}");
    assert!(begun.elapsed() < LIMIT, "the silent ones were there meanwhile: {:?}", begun.elapsed());

    for stream in &mut silent {
        is_closed(stream).await;
    }
    let took = begun.elapsed();
    assert!(took >= LIMIT && took < LIMIT * 2, "{took:?}");
    assert!(is_asked_for_a_key(&mut relay.silent_from(1).await).await, "there is room again");
    assert_eq!(counted(&figures, "aspen_relay_connections"), 1, "who was let in stays");
}

#[tokio::test]
async fn a_connection_beyond_all_places_waits_until_others_have_had_their_time() {
    let relay = Relay::start().await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for number in 0..limits::RELAY_ARRIVALS_MAX_COUNT {
        let mut stream = relay.silent_from(u8::try_from(1 + number % 2).unwrap()).await;
        assert!(is_asked_for_a_key(&mut stream).await);
        silent.push(stream);
    }
    let _guest = relay.enter().await.unwrap();
    let took = begun.elapsed();
    assert!(took >= LIMIT && took < LIMIT * 2, "{took:?}");
}

#[tokio::test]
async fn connections_without_a_key_end_with_the_relay() {
    let relay = Relay::start().await;
    let mut silent = relay.silent_from(1).await;
    assert!(is_asked_for_a_key(&mut silent).await);
    let begun = Instant::now();
    drop(relay.stop);
    is_closed(&mut silent).await;
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    relay.node.stop().await;
}

#[tokio::test]
async fn a_guest_too_many_is_told_so_and_comes_in_once_another_has_left() {
    let relay = Relay::start().await;
    let mut guests = Vec::new();
    for _ in 0..limits::RELAY_GUESTS_MAX_COUNT {
        guests.push(relay.enter().await.unwrap());
    }
    let refused = relay.enter().await.unwrap_err();
    assert!(refused.contains("as many connections as it takes"), "{refused}");
    guests.pop();
    let begun = Instant::now();
    while let Err(refused) = relay.enter().await {
        assert!(begun.elapsed() < PATIENCE, "{refused}");
        tokio::task::yield_now().await;
    }
}
