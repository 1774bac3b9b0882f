//! The load over the HTTP API: one kept connection a client, and no more work a request than it takes.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::plan::{Kind, Operation, RANGE_KEYS};
use super::{OperationError, Session, Target};
use crate::kv::client::Address;
use crate::kv::token::HttpToken;

/// The members under load: the clients are dealt out to them.
#[derive(Clone, Debug)]
pub struct HttpTarget {
    /// Where they listen.
    pub addresses: Vec<Address>,
    /// What they ask for.
    pub token: Option<HttpToken>,
}

/// One client's connection.
#[derive(Debug)]
pub struct HttpSession {
    address: Address,
    token: Option<HttpToken>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Target for HttpTarget {
    type Session = HttpSession;

    async fn connect(&self, client: usize) -> Result<HttpSession, OperationError> {
        let address = self.addresses[client % self.addresses.len()].clone();
        let sender = open(&address).await?;
        Ok(HttpSession { address, token: self.token.clone(), sender: Some(sender) })
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
        let mut sender = match self.sender.take() {
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
        let request = request.body(Full::new(body)).expect("checked parts make a request");
        let failed = |error: hyper::Error| OperationError(error.to_string());
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        // Only a connection whose answer was read to its end can be used again.
        self.sender = Some(sender);
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
