//! The management calls of a Hiqlite cluster, over its HTTP API.
//!
//! # Tiger Style
//! A call ends within the bound that it is given; an answer is at most
//! [`limits::HIQLITE_ANSWER_MAX_BYTES`] long.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::view::View;
use crate::kv::types::NodeId;
use crate::limits;

/// The header that carries the secret of the API.
const SECRET_HEADER: &str = "X-API-SECRET";

/// Calls to the nodes of a Hiqlite cluster.
#[derive(Clone)]
pub struct Management {
    http: reqwest::Client,
    scheme: &'static str,
    secret: String,
}

/// Why a call failed. [`CallError::told`] adds what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent, or nothing came back.
    #[error("the Hiqlite node at {addr} cannot be reached over {scheme}: {reason}")]
    Unreachable {
        /// Where.
        addr: String,
        /// How.
        scheme: &'static str,
        /// Why.
        reason: String,
    },
    /// It listens and gives no answer: it ends, or there is TLS where there should be none, or the other way round.
    #[error("the Hiqlite node at {addr} breaks off over {scheme}: {reason}")]
    BrokenOff {
        /// Where.
        addr: String,
        /// How.
        scheme: &'static str,
        /// Why.
        reason: String,
    },
    /// Its certificate is not one that is taken.
    #[error("the certificate of the Hiqlite node at {addr} is not trusted: {reason}")]
    NotTrusted {
        /// Where.
        addr: String,
        /// Why.
        reason: String,
    },
    /// The secret is another.
    #[error("the Hiqlite node at {addr} refuses the secret of the API")]
    SecretRefused {
        /// Where.
        addr: String,
    },
    /// It answered with an error.
    #[error("the Hiqlite node at {addr} answered {status}: {reason}")]
    Refused {
        /// Where.
        addr: String,
        /// The status.
        status: u16,
        /// What it said.
        reason: String,
    },
}

/// A node, as the API names it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Learner {
    pub node_id: u64,
    pub addr_api: String,
    pub addr_raft: String,
}

#[derive(Serialize)]
struct Leave {
    node_id: u64,
    stay_as_learner: bool,
}

impl Management {
    /// Calls that carry the secret, with TLS or without, and with certificates that are checked or not.
    ///
    /// # Errors
    /// The reason, where the certificates of the system cannot be read.
    pub fn new(secret: String, tls: bool, is_verified: bool) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .http2_prior_knowledge()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(!is_verified)
            .connect_timeout(Duration::from_millis(limits::HIQLITE_CONNECT_TIMEOUT_MS))
            .build();
        let http = http.map_err(|error| sentence(&error))?;
        Ok(Self { http, scheme: if tls { "https" } else { "http" }, secret })
    }

    /// What a node says of its cluster.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn view(&self, addr: &str, bound: Duration) -> Result<View, CallError> {
        let text = self.call(Method::GET, addr, "/cluster/metrics/sqlite", None::<&()>, bound).await?;
        serde_json::from_str(&text).map_err(|error| CallError::Refused {
            addr: addr.to_owned(),
            status: StatusCode::OK.as_u16(),
            reason: format!("these are no metrics of a known shape: {error}"),
        })
    }

    /// Whether anything answers there.
    pub(super) async fn answers(&self, addr: &str, bound: Duration) -> bool {
        self.call(Method::GET, addr, "/ping", None::<&()>, bound).await.is_ok()
    }

    /// Has the leader add a node without a vote.
    pub(super) async fn add_learner(
        &self,
        leader: &str,
        new: &Learner,
        bound: Duration,
    ) -> Result<(), CallError> {
        self.call(Method::POST, leader, "/cluster/add_learner/sqlite", Some(new), bound).await.map(drop)
    }

    /// Has the leader set the voters. A voter that is not named would leave the cluster.
    pub(super) async fn set_voters(
        &self,
        leader: &str,
        voters: &[NodeId],
        bound: Duration,
    ) -> Result<(), CallError> {
        let path = "/cluster/membership/sqlite";
        self.call(Method::POST, leader, path, Some(&voters), bound).await.map(drop)
    }

    /// Has the leader take a node's vote, and remove it unless it stays as a learner.
    pub(super) async fn leave(
        &self,
        leader: &str,
        node_id: NodeId,
        stay_as_learner: bool,
        bound: Duration,
    ) -> Result<(), CallError> {
        let leave = Leave { node_id: node_id.0, stay_as_learner };
        let path = "/cluster/membership/sqlite";
        self.call(Method::DELETE, leader, path, Some(&leave), bound).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        addr: &str,
        path: &str,
        body: Option<&impl Serialize>,
        bound: Duration,
    ) -> Result<String, CallError> {
        let url = format!("{}://{addr}{path}", self.scheme);
        let request = self.http.request(method, url).header(SECRET_HEADER, &self.secret);
        let request = request.header("accept", "application/json").timeout(bound);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let failed = |error: reqwest::Error| self.failed(addr, &error);
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > limits::HIQLITE_ANSWER_MAX_BYTES {
                let reason = format!("its answer is longer than {} bytes", limits::HIQLITE_ANSWER_MAX_BYTES);
                return Err(CallError::Refused { addr: addr.to_owned(), status: status.as_u16(), reason });
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match status {
            _ if status.is_success() => Ok(text),
            StatusCode::UNAUTHORIZED => Err(CallError::SecretRefused { addr: addr.to_owned() }),
            _ => Err(CallError::Refused {
                addr: addr.to_owned(),
                status: status.as_u16(),
                reason: said(&text),
            }),
        }
    }

    /// A call that brought no answer.
    fn failed(&self, addr: &str, error: &reqwest::Error) -> CallError {
        let (addr, scheme, reason) = (addr.to_owned(), self.scheme, sentence(error));
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(_)) => CallError::NotTrusted { addr, reason },
            None if error.is_connect() || error.is_timeout() => {
                CallError::Unreachable { addr, scheme, reason }
            }
            // What speaks TLS breaks off at the first word without.
            _ => CallError::BrokenOff { addr, scheme, reason },
        }
    }
}

impl CallError {
    /// What to do about it.
    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } | Self::Refused { .. } => None,
            Self::BrokenOff { .. } => Some(
                "If it runs, give hiqlite.tls the value of the cluster's nodes: off, or self-signed where they have certificates",
            ),
            Self::NotTrusted { .. } => Some(
                "Have an authority sign it that this system trusts, or set hiqlite.tls to self-signed, which takes any",
            ),
            Self::SecretRefused { .. } => {
                Some("Give every node and client of the cluster the same hiqlite.secret_api_file")
            }
        }
    }

    /// Why calls failed, and once what to do about it.
    #[must_use]
    pub fn told(errors: &[Self]) -> String {
        let mut text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let advices: BTreeSet<_> = errors.iter().filter_map(Self::advice).collect();
        for advice in advices {
            text += ". ";
            text += advice;
        }
        text
    }
}

/// What TLS found wrong, if that is why.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = error.downcast_ref() {
        return Some(error);
    }
    // An I/O error passes the one that it holds over, and names that one's source as its own.
    let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    held.and_then(|held| tls_error(held)).or_else(|| error.source().and_then(tls_error))
}

/// Hiqlite's errors are objects of one field.
fn said(text: &str) -> String {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) if fields.len() == 1 => {
            fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
        }
        _ => text.chars().take(limits::HIQLITE_REASON_MAX_CHARS).collect(),
    }
}

/// An error with its causes, without the address, which the caller names.
fn sentence(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut last = if error.is_timeout() { "it took too long".to_owned() } else { error.to_string() };
    while let Some(error) = cause {
        last = error.to_string();
        cause = error.source();
    }
    last
}
