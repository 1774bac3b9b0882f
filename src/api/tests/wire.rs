//! The accept loop, seen from a socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

async fn start(kv: FakeStore) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(listener, api(kv), shutdown.clone()));
    (address, shutdown, served)
}

/// Sends bytes and takes all that comes until the server closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_no_other() {
    let (address, shutdown, served) = start(FakeStore::default()).await;
    let answer = exchange(address, b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer =
        exchange(address, b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"alive":true}"#), "{answer}");
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn refusal_of_a_body_arrives_although_the_body_was_still_being_sent() {
    let (address, shutdown, served) = start(FakeStore::default()).await;
    let body = vec![b' '; 10_000_000];
    let head = format!(
        "POST /write HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = exchange(address, &[head.as_bytes(), &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn silent_connection_is_closed_in_time() {
    let (address, _shutdown, _served) = start(FakeStore::default()).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"GET /livez HT").await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // From here on only timers are left, so that the paused clock runs to the next one.
    tokio::time::pause();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    idle.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_requests_in_work_but_not_for_ever() {
    let store = FakeStore::hanging();
    let started = store.started.clone();
    let (address, shutdown, served) = start(store).await;
    let request = tokio::spawn(async move {
        let body = r#"{"get":{"key":"a"}}"#;
        let head = format!(
            "POST /read HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(address, head.as_bytes()).await
    });
    started.notified().await;
    let idle = TcpStream::connect(address).await.unwrap();
    shutdown.cancel();
    let bound = Duration::from_millis(limits::STOP_TIMEOUT_MS * 2);
    tokio::time::timeout(bound, served).await.expect("it stops in time").unwrap();
    assert_eq!(request.await.unwrap(), "", "the request was cut");
    drop(idle);
}

#[tokio::test]
async fn refusal_for_the_wrong_cluster_arrives_although_the_body_was_still_being_sent() {
    let (address, shutdown, served) = start(FakeStore::default()).await;
    let body = vec![b' '; limits::HTTP_BODY_MAX_BYTES];
    let head = format!(
        "POST /write HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naspen-cluster-id: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        crate::kv::types::ClusterId::random(),
        body.len()
    );
    let answer = exchange(address, &[head.as_bytes(), &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("other_cluster"), "{answer}");
    shutdown.cancel();
    served.await.unwrap();
}
