//! What must hold of a connection to the HTTP interface, whatever comes on it: a target of `fuzz/`.

use std::cell::OnceCell;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::fakes::{FakeAgents, FakeCluster, FakePeers};
use super::{ApiState, router};
use crate::kv::backup::BackupStream;
use crate::kv::fuzzing::{self, Seeds};
use crate::kv::interface::KeyValueStore;
use crate::kv::types::{BackupOrigin, Command, KvError, ReadReply, ReadRequest, WriteReply};

/// What fits into a connection that nobody reads.
const STREAM_BYTES: usize = 64 * 1024;

/// A store that begins anew with each request.
struct FreshStore;

#[async_trait]
impl KeyValueStore for FreshStore {
    async fn write(&self, command: Command) -> Result<WriteReply, KvError> {
        fuzzing::write(command)
    }

    async fn read(&self, request: ReadRequest) -> Result<ReadReply, KvError> {
        let (revision, range) = fuzzing::read(&request)?;
        Ok(ReadReply { revision, range, staleness: None })
    }

    async fn backup(&self, _: BackupOrigin) -> Result<BackupStream, KvError> {
        Err(KvError::BackupsFull { in_work: 1 })
    }
}

thread_local! {
    static SERVER: OnceCell<(Runtime, Router)> = const { OnceCell::new() };
}

fn server() -> (Runtime, Router) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime needs little");
    let state = ApiState {
        kv: Arc::new(FreshStore),
        cluster: Arc::new(FakeCluster::serving()),
        agents: Arc::new(FakeAgents::default()),
        peers: Arc::new(FakePeers::default()),
        render_metrics: Arc::new(String::new),
        render_iroh_metrics: Arc::new(String::new),
        token: None,
    };
    let router = runtime.block_on(async { router(state) });
    (runtime, router)
}

/// All that comes on a connection.
///
/// Each request is answered, none with a fault of the node's own, and each that fails with an error in JSON.
/// It is taken if the first one succeeds.
pub(crate) fn http_request(input: &[u8]) -> bool {
    let answers = SERVER.with(|server_once| {
        let (runtime, router) = server_once.get_or_init(server);
        runtime.block_on(talk(router.clone(), input))
    });
    let mut rest = &answers[..];
    let mut first = None;
    while let Some(answer) = Answer::take(&mut rest) {
        first = first.or(Some(answer.status));
        assert_ne!(answer.status, 500, "a request is answered with a fault of the node's own");
        // hyper answers what is no HTTP, and with nothing but a status.
        if answer.status >= 400 && !answer.body.is_empty() {
            let error: serde_json::Value = serde_json::from_slice(answer.body).expect("an error is JSON");
            assert!(error["error"]["code"].is_string(), "an error has a code: {error}");
        }
    }
    first.is_some_and(|status| status < 300)
}

/// What is answered until the connection ends.
async fn talk(router: Router, input: &[u8]) -> Vec<u8> {
    let (server, client) = tokio::io::duplex(STREAM_BYTES);
    let (mut reader, mut writer) = tokio::io::split(client);
    // All requests are sent before the first answer is read, and each is to be answered.
    let serve = http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), TowerToHyperService::new(router));
    let send = async {
        // The server may have had enough.
        writer.write_all(input).await.ok();
        writer.shutdown().await.ok();
    };
    let mut answers = Vec::new();
    let read = reader.read_to_end(&mut answers);
    let (_, (), read) = tokio::join!(serve, send, read);
    read.expect("a stream within the process does not break");
    answers
}

struct Answer<'a> {
    status: u16,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The next of several answers; none where they end, or one has no length.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let head_bytes = rest.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let (head, behind) = rest.split_at(head_bytes);
        let head = std::str::from_utf8(head).expect("the head of an answer is text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.expect("an answer begins with its status");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a length is a number"));
        // A HEAD request gets the length alone.
        let (body, behind) = behind.split_at(behind.len().min(length));
        let is_whole = length == body.len() && (behind.is_empty() || behind.starts_with(b"HTTP/1.1 "));
        *rest = if is_whole { behind } else { &[] };
        Some(Self { status, body: if is_whole { body } else { &[] } })
    }
}

pub(crate) fn request_seeds() -> Seeds {
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: [::1]:4600\r\n\r\n").into_bytes();
    let chunked = "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n1f\r\n{\"put\":{\"key\":\"a\",\"value\":\"1\"}}\r\n0\r\n\r\n";
    let two = [get("/livez"), post("/read", r#"{"get":{"key":"a"}}"#)].concat();
    vec![
        ("write", post("/write", r#"{"put":{"key":"a","value":"1"}}"#)),
        ("write-chunked", chunked.into()),
        ("read", post("/read", r#"{"range":{"prefix":"YQ=="},"encoding":"base64"}"#)),
        ("compact", post("/write", r#"{"compact":{"revision":2}}"#)),
        ("two", two),
        ("tickets", get("/tickets")),
        ("new-ticket", post("/tickets", r#"{"uses":2}"#)),
        ("revoke", b"DELETE /tickets/abababababababab HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
        ("add-learner", post("/add-learner", r#"{"ticket":"node-3"}"#)),
        ("change-membership", post("/change-membership", r#"{"voters":[1,2]}"#)),
        ("transfer-leader", post("/transfer-leader", "{}")),
        ("peers", get("/peers")),
        ("add-peers", post("/peers", r#"{"peers":["node-4"]}"#)),
        ("cluster", get("/cluster")),
        ("health", get("/health")),
        ("metrics", get("/metrics")),
    ]
}
