//! What an attempt came to, and what to do about it.
//!
//! The question that matters for a write is whether it may have taken effect. It has not where no node
//! saw it, and where the node that answered says so; it may have in every other case.

use bytes::Bytes;
use hyper::StatusCode;
use serde::de::DeserializeOwned;

use super::address::hinted;
use super::held::Stray;
use super::{Address, ClientError};
use crate::kv::json::{ErrorBody, ErrorForm, OTHER_CLUSTER};

/// Failures that lie in the answering node or in the cluster, and that may be gone with the next
/// attempt. Nothing was changed.
const TRANSIENT: [&str; 9] = [
    "not_leader",
    "no_quorum",
    "not_initialized",
    "recovering",
    "overloaded",
    "backups_full",
    "broken_body",
    "removed",
    OTHER_CLUSTER,
];

/// Those of them that the node itself gets over by no amount of waiting: only another one may do better.
const LASTING: [&str; 3] = ["not_initialized", "removed", OTHER_CLUSTER];

/// Failures of which the node cannot say whether the request took effect.
const UNCERTAIN: [&str; 5] = ["outcome_unknown", "timeout", "stopping", "storage", "internal"];

/// Failures that lie in the node that a request is about. Another one would say the same of it.
const OF_A_NODE: [&str; 3] = ["node_unreachable", "node_silent", "node_busy"];

/// Whether the cluster could not serve, rather than would not.
pub(super) fn is_unavailable(code: &str) -> bool {
    may_pass(code) || OF_A_NODE.contains(&code)
}

/// Whether another attempt may do better.
fn may_pass(code: &str) -> bool {
    TRANSIENT.contains(&code) || UNCERTAIN.contains(&code)
}

/// What one attempt came to.
pub(super) enum Attempt {
    /// Something answered.
    Answered { status: StatusCode, body: Bytes },
    /// A node of another cluster did.
    Astray { stray: Stray, status: StatusCode, body: Bytes },
    /// No node got to see it.
    NotSent { reason: String },
    /// It went out, and nothing whole came back.
    NoAnswer { reason: String },
}

impl Attempt {
    /// Whether a node of the cluster, or what stands in its place, got to see it.
    pub(super) fn was_heard(&self) -> bool {
        !matches!(self, Self::NotSent { .. } | Self::Astray { .. })
    }
}

/// What to do after an attempt.
pub(super) enum Verdict<R> {
    /// It is answered.
    Done(R),
    /// Another attempt would end the same.
    Fail { error: ClientError, unsure: bool },
    /// Another attempt may do better.
    Again(Again),
}

/// Why another attempt may do better.
pub(super) struct Again {
    /// What the node said, if one did.
    pub(super) error: Option<ClientError>,
    /// The same for logs, or what went wrong without a node's words.
    pub(super) reason: String,
    /// Where to go.
    pub(super) leader: Option<Address>,
    /// Whether the request may have taken effect.
    pub(super) unsure: bool,
}

impl Again {
    /// Whether waiting for this node is of no use.
    pub(super) fn is_lasting(&self) -> bool {
        self.error.as_ref().is_some_and(|error| LASTING.contains(&error.code()))
    }

    /// Whether it was another cluster that answered.
    pub(super) fn is_stray(&self) -> bool {
        matches!(self.error, Some(ClientError::OtherCluster { .. }))
    }
}

/// What to make of an attempt; `also_answer` is a status besides success that carries an answer.
pub(super) fn judge<R: DeserializeOwned>(
    also_answer: Option<StatusCode>,
    address: &Address,
    attempt: Attempt,
) -> Verdict<R> {
    let again = |reason, unsure| Verdict::Again(Again { error: None, reason, leader: None, unsure });
    let (status, body) = match attempt {
        Attempt::NotSent { reason } => return again(reason, false),
        Attempt::NoAnswer { reason } => return again(reason, true),
        Attempt::Astray { stray, status, body } => return astray(address, stray, status, &body),
        Attempt::Answered { status, body } => (status, body),
    };
    let refusal = serde_json::from_slice::<ErrorForm>(&body);
    if status.is_success() || (also_answer == Some(status) && refusal.is_err()) {
        return match serde_json::from_slice(&body) {
            Ok(reply) => Verdict::Done(reply),
            Err(error) => {
                Verdict::Fail { error: not_understood(address, status, error.to_string()), unsure: true }
            }
        };
    }
    match refusal {
        Ok(form) => judge_refusal(address, form.error),
        // A proxy in between, whose node may have got the request.
        Err(_) if status.is_server_error() => {
            let reason = "it is no error of a node".to_owned();
            let error = Some(not_understood(address, status, reason.clone()));
            Verdict::Again(Again { error, reason, leader: None, unsure: true })
        }
        Err(error) => {
            Verdict::Fail { error: not_understood(address, status, error.to_string()), unsure: false }
        }
    }
}

/// An answer of another cluster says nothing of the own one, but whether the request was carried out there: a
/// first one may have gone out before the client knew which cluster to ask for.
fn astray<R>(address: &Address, stray: Stray, status: StatusCode, body: &[u8]) -> Verdict<R> {
    let refusal = serde_json::from_slice::<ErrorForm>(body).ok();
    let unsure = match refusal.map(|form| judge_refusal::<R>(address, form.error)) {
        Some(Verdict::Fail { unsure, .. } | Verdict::Again(Again { unsure, .. })) => unsure,
        Some(Verdict::Done(_)) | None => status.is_success() || status.is_server_error(),
    };
    let Stray { asked, found } = stray;
    let error = ClientError::OtherCluster {
        address: address.clone(),
        asked,
        found,
        elsewhere: None,
        outcome_unknown: None,
    };
    Verdict::Again(Again { reason: error.to_string(), error: Some(error), leader: None, unsure })
}

fn judge_refusal<R>(address: &Address, error: ErrorBody) -> Verdict<R> {
    let leader = error.leader.as_ref().and_then(|leader| leader.http_addr);
    let leader = leader.and_then(|http_addr| hinted(address, http_addr));
    let reason = format!("{}: {}", error.code, error.message);
    let unsure = UNCERTAIN.contains(&error.code.as_str());
    let may_pass = may_pass(&error.code);
    let address = address.clone();
    let error = ClientError::Refused { error: Box::new(error), address, outcome_unknown: None };
    if may_pass {
        Verdict::Again(Again { error: Some(error), reason, leader, unsure })
    } else {
        Verdict::Fail { error, unsure: false }
    }
}

fn not_understood(address: &Address, status: StatusCode, reason: String) -> ClientError {
    ClientError::NotUnderstood {
        address: address.clone(),
        status: status.as_u16(),
        reason,
        outcome_unknown: None,
    }
}
