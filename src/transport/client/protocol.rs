//! The messages between clients and nodes. The rules of `transport/protocol.rs` hold here as well.

use irpc::channel::{mpsc, oneshot};
use irpc::rpc_requests;
use serde::{Deserialize, Serialize};

use crate::kv::types::{ClusterId, Command, KvError, NodeId, ReadReply, ReadRequest, WriteReply};
use crate::transport::numbered::{Numbered, Payload};
use crate::transport::protocol::Refusal;

/// The first request on every connection.
#[rpc_requests(message = ClientHelloMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::transport) enum ClientHelloProtocol {
    /// Whom the client looks for.
    #[rpc(tx = oneshot::Sender<Result<ClientWelcome, Refusal>>)]
    Hello(ClientHello),
}

/// Whom a client looks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::transport) struct ClientHello {
    /// The cluster, if the client has one in mind.
    pub cluster_id: Option<ClusterId>,
    /// Drawn when the client's endpoint was opened.
    pub boot: u64,
}

/// The answer of a node that lets the client in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::transport) struct ClientWelcome {
    /// The node.
    pub node_id: NodeId,
    /// Its cluster, if it belongs to one.
    pub cluster_id: Option<ClusterId>,
}

/// What a client asks for.
#[rpc_requests(message = ClientRpcMessage)]
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::transport) enum ClientRpcProtocol {
    /// A stream of reads and writes, each answered when it is served.
    #[rpc(tx = mpsc::Sender<Numbered<ClientAnswer>>, rx = mpsc::Receiver<Numbered<ClientRequest>>)]
    Serve(ClientStream),
}

/// Opens a stream of reads and writes.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::transport) struct ClientStream;

/// A read or a write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::transport) enum ClientRequest {
    Write(Command),
    Read(ReadRequest),
}

/// The reply to a request of the same kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::transport) enum ClientReply {
    Written(WriteReply),
    Read(ReadReply),
}

/// What a node says to a request.
pub(in crate::transport) type ClientAnswer = Result<ClientReply, KvError>;

impl Payload for ClientRequest {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Write(command) => command.payload_bytes(),
            Self::Read(request) => request.range.payload_bytes(),
        }
    }
}

impl Payload for ClientAnswer {
    fn payload_bytes(&self) -> usize {
        match self {
            Ok(ClientReply::Written(reply)) => reply.payload_bytes(),
            Ok(ClientReply::Read(reply)) => reply.range.payload_bytes(),
            Err(_) => 0,
        }
    }
}
