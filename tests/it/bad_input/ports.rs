//! Ports that are taken, and ports on which nonsense arrives.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{
    FAILED, assert_data_kept, assert_ends, serving_with_data, stopped_with_data, temporary_directory,
};
use crate::support::http::{connect, exchange};
use crate::support::node::Node;
use crate::support::skipped;

/// How soon a node that is busy with nonsense still answers.
const SOON: Duration = Duration::from_secs(2);

/// Bytes without a pattern, the same each time.
fn garbage(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn ports_in_use_are_named_and_cost_no_data() {
    let dir = temporary_directory();
    let owner = stopped_with_data(1, dir.path());
    let again = |flag: &str, addr: &str| Node::new(1, dir.path(), &[flag, addr]);

    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = tcp.local_addr().expect("it has an address").to_string();
    let named = format!("the HTTP address {addr} cannot be used");
    assert_ends(&mut again("--http-addr", &addr), FAILED, &[&named, "give --http-addr another port"]);

    let named = format!("the address {addr} cannot be used to serve a relay");
    assert_ends(&mut again("--serve-relay", &addr), FAILED, &[&named, "give --serve-relay another address"]);

    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let addr = udp.local_addr().expect("it has an address").to_string();
    let named = format!("the UDP address {addr} cannot be used");
    assert_ends(&mut again("--iroh-addr", &addr), FAILED, &[&named, "give --iroh-addr another port"]);

    let elsewhere = "192.0.2.1:4601";
    let named = format!("the UDP address {elsewhere} cannot be used");
    assert_ends(&mut again("--iroh-addr", elsewhere), FAILED, &[&named, "--iroh-addr"]);

    let mut owner = owner;
    owner.start_serving();
    assert_data_kept(&owner);
}

#[test]
fn garbage_on_the_udp_port_is_ignored_and_peers_still_connect() {
    let dir = temporary_directory();
    let first = serving_with_data(1, dir.path());
    let mut second = Node::new(2, dir.path(), &["--peer", &first.endpoint()]);
    second.start();

    for node in [&first, &second] {
        let target = node.peer().info.addresses[0];
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        for (seed, length) in [1, 20, 100, 1_200, 1_400, 9_000].into_iter().cycle().take(300).enumerate() {
            let mut datagram = garbage(length, seed as u64);
            // Every other one looks like the first packet of QUIC, version 1.
            if seed % 2 == 0 && length > 20 {
                datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            }
            socket.send_to(&datagram, target).expect("a datagram can be sent");
        }
    }

    first.post("/add-learner", &serde_json::json!({ "ticket": second.endpoint() })).ok();
    second.wait_until_ready();
    assert_eq!(second.value("kept").as_deref(), Some("what was written before"));
    assert_data_kept(&first);
    assert!(!first.log().contains("panicked"), "{}", first.log());
}

#[test]
fn garbage_on_the_relays_port_is_ignored_and_fills_no_log() {
    let dir = temporary_directory();
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let addr = free.expect("a port is free");
    let mut node = Node::new(1, dir.path(), &["--serve-relay", &addr.to_string()]);
    node.start_serving();
    node.put("kept", "what was written before");
    for bytes in [
        garbage(2_000, 1),
        b"GET\r\n\r\n".to_vec(),
        b"GET /relay HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(),
    ] {
        let answer = String::from_utf8_lossy(&exchange(addr, &bytes)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    }
    let probe = exchange(addr, b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(probe.starts_with(b"HTTP/1.1 200"), "the relay still answers");
    assert_data_kept(&node);
    assert!(!["panicked", "ERROR"].iter().any(|bad| node.log().contains(bad)), "{}", node.log());
}

#[test]
fn garbage_on_the_http_port_is_answered_with_400_and_nothing_else_suffers() {
    let dir = temporary_directory();
    let node = serving_with_data(1, dir.path());
    let addr = node.http();
    let long_head = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1_000_000));
    for bytes in [
        garbage(2_000, 1),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /write HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"POST /write HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"
            .to_vec(),
    ] {
        let answer = String::from_utf8_lossy(&exchange(addr, &bytes)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{answer}");
    }
    let mut stream = connect(addr);
    // It may be cut off before all of it is sent.
    stream.write_all(long_head.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    assert_data_kept(&node);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn silent_connections_and_half_requests_stop_nobody_else() {
    let dir = temporary_directory();
    const COUNT: usize = 1_100;
    if let Err(reason) = allow_own_files(4 * COUNT) {
        skipped("silent_connections_and_half_requests_stop_nobody_else", &reason);
        return;
    }
    // The limit that systems start processes with.
    let mut node = Node::new(1, dir.path(), &[]).with_launcher(&["prlimit", "--nofile=1024:"]);
    node.start_serving();
    node.put("kept", "what was written before");
    let addr = node.http();
    let halves: [&[u8]; 4] = [
        b"",
        b"GET /liv",
        b"POST /write HTTP/1.1\r\nhost: localhost\r\ncontent-ty",
        b"POST /write HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{",
    ];
    let silent: Vec<TcpStream> = (0..COUNT)
        .map(|index| {
            let mut stream = connect(addr);
            stream.write_all(halves[index % halves.len()]).expect("the node takes the bytes");
            stream
        })
        .collect();

    let start = Instant::now();
    assert_eq!(node.get("/livez").status, 200);
    assert_data_kept(&node);
    assert!(
        start.elapsed() < SOON,
        "it took {:?} beside {} silent connections",
        start.elapsed(),
        silent.len()
    );

    // A stop does not wait for them either.
    let start = Instant::now();
    assert!(node.terminate().success(), "{}", node.log());
    assert!(
        start.elapsed() < Duration::from_millis(2 * aspen::limits::STOP_TIMEOUT_MS),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
}

/// Lets this process open so many files.
fn allow_own_files(count: usize) -> Result<(), String> {
    let pid = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={count}:")]).output();
    let raised = raised.map_err(|error| format!("prlimit cannot be run: {error}"))?;
    if raised.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&raised.stderr).trim().to_owned())
}
