//! The one place that says which failure is answered with which status.

use axum::Json;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::PeerError;
use crate::kv::json::{ErrorBody, ErrorForm, FormError, OTHER_CLUSTER, OTHER_CLUSTER_ACTION};
use crate::kv::types::{AgentError, ClusterError, ClusterId, KvError, ParseNodeIdError, ParseTicketIdError};
use crate::limits;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    BadNodeId(#[from] ParseNodeIdError),
    #[error(transparent)]
    BadTicketId(#[from] ParseTicketIdError),
    #[error("the path {path} is not understood: {reason}")]
    BadPath { path: String, reason: String },
    #[error("the change names neither voters nor members to remove")]
    NoChange,
    #[error("{name} is {given}, and must be from 1 to {max}")]
    OutOfBounds { name: &'static str, given: u64, max: u64 },
    #[error("the body is not the JSON that this path takes: {0}")]
    BadJson(#[from] serde_json::Error),
    #[error("the body broke off: {reason}")]
    BrokenBody { reason: String },
    #[error("the body has more than the {max_bytes} bytes that a request may have")]
    BodyTooLarge { max_bytes: usize },
    #[error("the request's content type is {given}, and this path takes application/json only")]
    WrongContentType { given: String },
    #[error("there is no path {path}")]
    UnknownPath { path: String },
    #[error("the path {path} takes no {method}")]
    WrongMethod { path: String, method: Method },
    #[error("{problem}")]
    Unauthorized { problem: &'static str },
    #[error("the header 'aspen-cluster-id' is '{given}', which is no cluster id")]
    BadClusterId { given: String },
    #[error("this node belongs to cluster {own}, and the request is meant for cluster {asked}")]
    OtherCluster { own: ClusterId, asked: ClusterId },
    #[error("{problem}, and this node, which asks for no token, answers no pages of browsers")]
    FromPage { problem: &'static str },
    #[error("the node holds {max_bytes} bytes of request bodies, the most it takes")]
    BodiesFull { max_bytes: usize },
    #[error("the request took longer than {waited_ms} ms; if it was a write, it may or may not take effect")]
    Timeout { waited_ms: u64 },
    #[error("a part of the node panicked on this request; its log says where")]
    Panicked,
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Kv(error) | Self::Cluster(ClusterError::Kv(error)) => kv_status(error),
            Self::Cluster(error) => cluster_status(error),
            Self::Agent(error) => agent_status(error),
            Self::Peer(PeerError::BadTicket { .. }) => StatusCode::BAD_REQUEST,
            Self::Peer(PeerError::UnsupportedByBackend { .. }) => StatusCode::NOT_IMPLEMENTED,
            Self::Peer(PeerError::NotSaved { .. }) | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Form(FormError::Limit { error, .. }) => kv_status(error),
            Self::Form(FormError::NotUtf8 { .. }) => StatusCode::NOT_ACCEPTABLE,
            Self::Form(_)
            | Self::NoChange
            | Self::OutOfBounds { .. }
            | Self::BadNodeId(_)
            | Self::BadTicketId(_)
            | Self::BadPath { .. }
            | Self::BadClusterId { .. }
            | Self::BadJson(_)
            | Self::BrokenBody { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::WrongContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownPath { .. } => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::OtherCluster { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::FromPage { .. } => StatusCode::FORBIDDEN,
            Self::BodiesFull { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn body(&self) -> ErrorBody {
        let (code, action) = match self {
            Self::Kv(error) => return error.into(),
            Self::Cluster(error) => return error.into(),
            Self::Form(error) => (error.code(), error.action()),
            Self::Peer(error) => (error.code(), error.action()),
            Self::Agent(error) => (error.code(), error.action()),
            Self::BadNodeId(_) => ("bad_request", "name a member by its id; GET /cluster lists them"),
            Self::BadTicketId(_) => ("bad_request", "name a ticket by its id; GET /tickets lists them"),
            Self::BadPath { .. } => ("bad_request", "write its names as UTF-8, percent-encoded"),
            Self::BadJson(_) => ("bad_json", "correct the body; docs/http-api.md shows its form"),
            Self::NoChange => ("bad_request", "send \"voters\", or \"remove\", or both"),
            Self::OutOfBounds { .. } => ("bad_request", "send a number within the bounds"),
            Self::BrokenBody { .. } => ("broken_body", "send the request again"),
            Self::BodyTooLarge { .. } => ("body_too_large", "split the request into smaller ones"),
            Self::WrongContentType { .. } => {
                ("wrong_content_type", "send the header 'content-type: application/json'")
            }
            Self::UnknownPath { .. } => ("unknown_path", "see docs/http-api.md for the paths there are"),
            Self::WrongMethod { .. } => ("wrong_method", "use the method that the header 'allow' names"),
            Self::Unauthorized { .. } => {
                ("unauthorized", "send the header 'authorization: Bearer TOKEN' with the node's token")
            }
            Self::BadClusterId { .. } => {
                ("bad_request", "send the id that GET /cluster shows, or leave the header out")
            }
            Self::OtherCluster { .. } => (OTHER_CLUSTER, OTHER_CLUSTER_ACTION),
            Self::FromPage { .. } => (
                "not_from_pages",
                "name the node by its IP address or as localhost, or give it an http_token_file",
            ),
            Self::BodiesFull { .. } => ("overloaded", "try again in a moment"),
            Self::Timeout { .. } => (
                "timeout",
                "send it again, a write with the same session and sequence; or read to see what is there",
            ),
            Self::Panicked => ("internal", "read the node's log, and report what it says"),
        };
        ErrorBody { details: self.details(), ..ErrorBody::new(code, self.to_string(), action) }
    }

    /// The values that this layer's own errors name.
    fn details(&self) -> Map<String, Value> {
        let fields: Vec<(&str, Value)> = match self {
            Self::BadJson(error) => {
                vec![("line", error.line().into()), ("column", error.column().into())]
            }
            Self::BodyTooLarge { max_bytes } | Self::BodiesFull { max_bytes } => {
                vec![("max_bytes", (*max_bytes).into())]
            }
            Self::OtherCluster { own, asked } => {
                vec![("own", own.to_string().into()), ("asked", asked.to_string().into())]
            }
            Self::Timeout { waited_ms } => vec![("waited_ms", (*waited_ms).into())],
            Self::Agent(error) => agent_details(error),
            Self::Form(FormError::Limit { error, .. }) => return ErrorBody::from(error).details,
            _ => Vec::new(),
        };
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(super) fn body_too_large() -> Self {
        Self::BodyTooLarge { max_bytes: limits::HTTP_BODY_MAX_BYTES }
    }
}

/// The values that the sentence of an agent's error names, of those that are numbers.
fn agent_details(error: &AgentError) -> Vec<(&'static str, Value)> {
    match error {
        AgentError::Unreachable { node_id, since_ms, .. } => {
            vec![("node_id", node_id.0.into()), ("since_ms", (*since_ms).into())]
        }
        AgentError::NoAnswer { node_id, waited_ms } | AgentError::NotDone { node_id, waited_ms, .. } => {
            vec![("node_id", node_id.0.into()), ("waited_ms", (*waited_ms).into())]
        }
        AgentError::NotLeading { node_id, leader } => {
            vec![("node_id", node_id.0.into()), ("leader", leader.map(|leader| leader.0).into())]
        }
        AgentError::NotAVoter { to, .. } => vec![("node_id", to.0.into())],
        AgentError::Busy { node_id, in_work } => {
            vec![("node_id", node_id.0.into()), ("in_work", (*in_work).into())]
        }
        AgentError::NotAMember { node_id }
        | AgentError::NotUnderstood { node_id, .. }
        | AgentError::NotHandedOver { node_id, .. }
        | AgentError::Failed { node_id, .. } => vec![("node_id", node_id.0.into())],
        AgentError::BadLogFilter { .. } | AgentError::UnsupportedByBackend { .. } => Vec::new(),
    }
}

fn kv_status(error: &KvError) -> StatusCode {
    match error {
        KvError::EmptyKey | KvError::ZeroSequence | KvError::FutureRevision { .. } => StatusCode::BAD_REQUEST,
        KvError::KeyTooLarge { .. }
        | KvError::ValueTooLarge { .. }
        | KvError::TooManyOps { .. }
        | KvError::CommandTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        KvError::BadRestore { .. } => StatusCode::BAD_REQUEST,
        KvError::NotForClients | KvError::NotOverIroh => StatusCode::FORBIDDEN,
        KvError::SequenceTooOld { .. }
        | KvError::SessionExpired { .. }
        | KvError::NotEmpty { .. }
        | KvError::NoSuchRestore { .. }
        | KvError::RestoreOutOfOrder { .. } => StatusCode::CONFLICT,
        KvError::Compacted { .. } => StatusCode::GONE,
        KvError::NotLeader { .. }
        | KvError::NoQuorum { .. }
        | KvError::NotInitialized
        | KvError::Recovering
        | KvError::Overloaded { .. }
        | KvError::Contended { .. }
        | KvError::BackupsFull { .. }
        | KvError::Removed { .. }
        | KvError::Stopping { .. } => StatusCode::SERVICE_UNAVAILABLE,
        KvError::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        KvError::Storage { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        KvError::UnsupportedByBackend { .. } => StatusCode::NOT_IMPLEMENTED,
        KvError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
    }
}

fn agent_status(error: &AgentError) -> StatusCode {
    match error {
        AgentError::NotAMember { .. } => StatusCode::NOT_FOUND,
        AgentError::BadLogFilter { .. } | AgentError::NotAVoter { .. } => StatusCode::BAD_REQUEST,
        AgentError::NotLeading { .. } | AgentError::NotHandedOver { .. } => StatusCode::CONFLICT,
        AgentError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        AgentError::Unreachable { .. } | AgentError::NotUnderstood { .. } | AgentError::Failed { .. } => {
            StatusCode::BAD_GATEWAY
        }
        AgentError::NoAnswer { .. } | AgentError::NotDone { .. } => StatusCode::GATEWAY_TIMEOUT,
        AgentError::UnsupportedByBackend { .. } => StatusCode::NOT_IMPLEMENTED,
    }
}

fn cluster_status(error: &ClusterError) -> StatusCode {
    match error {
        ClusterError::AlreadyInitialized { .. }
        | ClusterError::JoinRefused(_)
        | ClusterError::QuorumAtStake { .. }
        | ClusterError::NotHandedOver { .. }
        | ClusterError::CatchingUp { .. }
        | ClusterError::MakesNoCluster { .. }
        | ClusterError::NodeIdTaken { .. }
        | ClusterError::ChangeInProgress => StatusCode::CONFLICT,
        ClusterError::UnknownNode { .. } | ClusterError::UnknownTicket { .. } => StatusCode::NOT_FOUND,
        ClusterError::NoVoters => StatusCode::BAD_REQUEST,
        ClusterError::Unreachable { .. } => StatusCode::BAD_GATEWAY,
        ClusterError::Kv(error) => kv_status(error),
    }
}

/// Beside an answer: the request failed for this reason, which lies in the node.
#[derive(Clone)]
pub(super) struct OwnFault(pub String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(ErrorForm { error: self.body() })).into_response();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            response.extensions_mut().insert(OwnFault(self.to_string()));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
