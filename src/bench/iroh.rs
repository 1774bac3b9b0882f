//! The load over iroh: an admitted client's connections, each with the requests of many clients.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::plan::{Kind, Operation, RANGE_KEYS};
use super::{OperationError, Session, Target};
use crate::kv::types::{
    Command, Compare, CompareOp, CompareTarget, Consistency, Key, KeyRange, KvError, ReadRequest, Txn, TxnOp,
    Value, WriteOp,
};
use crate::transport::client::{ClientEndpoint, IrohClient};
use crate::transport::ticket::NodeTicket;

/// The members under load: the connections are dealt out to them, and the clients to the connections.
#[derive(Debug)]
pub struct IrohTarget(Vec<Arc<Connection>>);

/// A connection, which is opened when it is needed.
#[derive(Debug)]
struct Connection {
    endpoint: ClientEndpoint,
    node: NodeTicket,
    client: Mutex<Option<IrohClient>>,
}

/// One client's place at a connection.
#[derive(Debug)]
pub struct IrohSession(Arc<Connection>);

impl IrohTarget {
    /// Members to be put under load over so many connections.
    pub fn new(endpoint: &ClientEndpoint, nodes: &[NodeTicket], connections: usize) -> Self {
        let nodes = nodes.iter().cycle().take(connections);
        let connection = |node: &NodeTicket| {
            Arc::new(Connection { endpoint: endpoint.clone(), node: node.clone(), client: Mutex::default() })
        };
        Self(nodes.map(connection).collect())
    }
}

impl Target for IrohTarget {
    type Session = IrohSession;

    async fn connect(&self, client: usize) -> Result<IrohSession, OperationError> {
        let connection = &self.0[client % self.0.len()];
        connection.client().await?;
        Ok(IrohSession(connection.clone()))
    }
}

impl Connection {
    async fn client(&self) -> Result<IrohClient, OperationError> {
        let mut client = self.client.lock().await;
        if let Some(open) = client.as_ref().filter(|client| client.is_open()) {
            return Ok(open.clone());
        }
        let opened = self.endpoint.connect(&self.node, None).await.map_err(failed)?;
        Ok(client.insert(opened).clone())
    }
}

impl Session for IrohSession {
    async fn run(&mut self, operation: &Operation) -> Result<(), OperationError> {
        let request = request_of(operation).map_err(failed)?;
        let client = self.0.client().await?;
        match request {
            Request::Write(command) => client.write(command).await.map(drop).map_err(failed),
            Request::Read(request) => client.read(request).await.map(drop).map_err(failed),
        }
    }
}

fn failed(error: impl std::error::Error) -> OperationError {
    OperationError(error.to_string())
}

enum Request {
    Write(Command),
    Read(ReadRequest),
}

fn request_of(Operation { kind, key, value }: &Operation) -> Result<Request, KvError> {
    let (key, value) = (Key::new(key.clone())?, Value::new(value.clone())?);
    Ok(match kind {
        Kind::Put => Request::Write(Command::put(key, value)),
        Kind::Txn => {
            let (op, target) = (CompareOp::Less, CompareTarget::Version(u64::MAX >> 1));
            let compare = vec![Compare { key: key.clone(), op, target }];
            let success = vec![TxnOp::Put { key, value, lease: 0 }];
            Request::Write(Command::new(WriteOp::Txn(Txn { compare, success, failure: Vec::new() })))
        }
        Kind::Get => Request::Read(ReadRequest::get(key)),
        Kind::StaleGet => {
            Request::Read(ReadRequest { consistency: Consistency::Stale, ..ReadRequest::get(key) })
        }
        Kind::Range => {
            let range = KeyRange::Span { start: key.into_bytes(), end: None };
            Request::Read(ReadRequest { limit: Some(RANGE_KEYS), ..ReadRequest::range(range) })
        }
    })
}
