//! Handshakes that are begun and left there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::EndpointAddr;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::support::{Caller, Identity, PATIENCE, TestNode, closed, counted, recorder};
use crate::limits;
use crate::transport::admission::REFUSED;
use crate::transport::protocol::ALPN_RAFT;
use crate::transport::ticket::endpoint_id;

/// What a datagram begins with that opens a connection, and one that asks who opens it to show where it is. Other
/// bits of the byte are protected.
const INITIAL: u8 = 0b1100_0000;
const RETRY: u8 = 0b1111_0000;

fn is(kind: u8, datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & RETRY == kind)
}

/// A wire to a node, out of another address of loopback, on which no handshake is finished: it carries what begins
/// one, and what is needed to prove the address.
async fn wire_to(node: &TestNode, host: u8) -> (SocketAddr, AbortOnDropHandle<()>) {
    let outer = UdpSocket::bind((Ipv4Addr::new(127, 0, 3, host), 0)).await.unwrap();
    outer.connect(node.addr()).await.unwrap();
    let inner = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = inner.local_addr().unwrap();
    let carry = async move {
        let (mut from_caller, mut from_node) = (vec![0; 2_048], vec![0; 2_048]);
        let mut caller = None;
        loop {
            tokio::select! {
                received = inner.recv_from(&mut from_caller) => {
                    let (len, addr) = received.unwrap();
                    caller = Some(addr);
                    if is(INITIAL, &from_caller[..len]) {
                        outer.send(&from_caller[..len]).await.unwrap();
                    }
                }
                received = outer.recv(&mut from_node) => {
                    let len = received.unwrap();
                    if is(RETRY, &from_node[..len]) && let Some(caller) = caller {
                        inner.send_to(&from_node[..len], caller).await.unwrap();
                    }
                }
            }
        }
    };
    (addr, AbortOnDropHandle::new(tokio::spawn(carry)))
}

/// Begins handshakes over a wire, as many at a time as one source may have and some more, for as long as it is
/// held.
fn begin_handshakes(node: &TestNode, caller: &Arc<Caller>, wire: SocketAddr) -> JoinSet<()> {
    let id = endpoint_id(&node.peer().info.public_key).unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..limits::WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT + 16 {
        let (caller, addr) = (caller.clone(), EndpointAddr::new(id).with_ip_addr(wire));
        callers.spawn(async move {
            loop {
                let attempt = caller.endpoint.connect(addr.clone(), ALPN_RAFT);
                let limit = Duration::from_millis(limits::WIRE_CONNECT_TIMEOUT_MS);
                tokio::time::timeout(limit, attempt).await.ok();
            }
        });
    }
    callers
}

#[tokio::test]
async fn one_address_that_begins_handshakes_keeps_nobody_out_and_is_refused_in_the_end() {
    let (recorder, figures) = recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let node = TestNode::start(1).await;
    let known = Caller::known_to(&node).await;
    let (wire, _carried) = wire_to(&node, 1).await;
    let half = Arc::new(Caller::start(Identity::of(3)).await);
    let _callers = begin_handshakes(&node, &half, wire);

    let begun = Instant::now();
    let figure = |name| counted(&figures, name);
    let until = async |name: &'static str| {
        while figure(name) == 0 {
            assert!(begun.elapsed() < PATIENCE, "{name} stays at 0");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until("aspen_transport_handshakes_dropped_total").await;
    let stranger = Caller::start(Identity::of(4)).await;
    assert_eq!(closed(&stranger.connect(&node).await).await.0, u64::from(REFUSED), "it had its handshake");
    known.enter(&node).await;

    until("aspen_transport_strangers_refused_total").await;
    known.enter(&node).await;
}
