//! The load over the HTTP API: kept connections, and no more work a request than it takes.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::plan::{Kind, Operation, RANGE_KEYS};
use super::{OperationError, Session, Target};
use crate::kv::client::Address;
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::token::HttpToken;
use crate::kv::types::ClusterId;

/// Members as their HTTP API has them.
#[derive(Clone, Debug)]
pub struct HttpNodes {
    /// Where they listen.
    pub addresses: Vec<Address>,
    /// What they ask for.
    pub token: Option<HttpToken>,
    /// The cluster that they must be of.
    pub cluster_id: Option<ClusterId>,
}

/// The members under load: the connections are dealt out to them, and the clients to the connections.
#[derive(Debug)]
pub struct HttpTarget {
    nodes: HttpNodes,
    connections: Vec<Connection>,
}

/// A connection, which is opened when it is needed. It carries one request at a time.
type Connection = Arc<Mutex<Option<SendRequest<Full<Bytes>>>>>;

/// One client's place at a connection.
#[derive(Debug)]
pub struct HttpSession {
    address: Address,
    token: Option<HttpToken>,
    cluster: Option<ClusterHeader>,
    connection: Connection,
}

impl HttpTarget {
    /// Members to be put under load over so many connections.
    pub fn new(nodes: HttpNodes, connections: usize) -> Self {
        Self { nodes, connections: (0..connections).map(|_| Connection::default()).collect() }
    }
}

impl Target for HttpTarget {
    type Session = HttpSession;

    async fn connect(&self, client: usize) -> Result<HttpSession, OperationError> {
        let number = client % self.connections.len();
        let address = self.nodes.addresses[number % self.nodes.addresses.len()].clone();
        let connection = self.connections[number].clone();
        let mut sender = connection.lock().await;
        if sender.is_none() {
            *sender = Some(open(&address).await?);
        }
        drop(sender);
        let cluster = self.nodes.cluster_id.map(ClusterHeader::new);
        Ok(HttpSession { address, token: self.nodes.token.clone(), cluster, connection })
    }
}

async fn open(address: &Address) -> Result<SendRequest<Full<Bytes>>, OperationError> {
    let failed =
        |error: &dyn std::fmt::Display| OperationError(format!("no connection to {address}: {error}"));
    let stream = TcpStream::connect(address.authority()).await.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    Ok(sender)
}

impl Session for HttpSession {
    async fn run(&mut self, operation: &Operation) -> Result<(), OperationError> {
        let mut connection = self.connection.lock().await;
        let mut sender = match connection.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => open(&self.address).await?,
        };
        let (path, body) = request_of(operation);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.address.authority())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if let Some(cluster) = &self.cluster {
            request = request.header(ClusterHeader::NAME, cluster.value());
        }
        let request = request.body(Full::new(body)).expect("checked parts make a request");
        let failed = |error: hyper::Error| OperationError(error.to_string());
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        // Only a connection whose answer was read to its end can be used again.
        *connection = Some(sender);
        if status.is_success() {
            Ok(())
        } else {
            Err(OperationError(format!("{status}: {}", String::from_utf8_lossy(&body).trim())))
        }
    }
}

fn request_of(operation: &Operation) -> (&'static str, Bytes) {
    let Operation { kind, key, value } = operation;
    let (path, body) = match kind {
        Kind::Put => ("/write", json!({"put": {"key": key, "value": value}})),
        Kind::Txn => (
            "/write",
            json!({"txn": {
                "compare": [{"key": key, "target": "version", "op": "less", "number": u64::MAX >> 1}],
                "success": [{"put": {"key": key, "value": value}}],
            }}),
        ),
        Kind::Get => ("/read", json!({"get": {"key": key}})),
        Kind::StaleGet => ("/read", json!({"get": {"key": key}, "consistency": "stale"})),
        Kind::Range => ("/read", json!({"range": {"start": key, "limit": RANGE_KEYS}})),
    };
    (path, body.to_string().into())
}
