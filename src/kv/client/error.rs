//! What a caller of the client library gets to see when a call fails.

use super::Address;
use crate::kv::json::{ErrorBody, FormError, OTHER_CLUSTER, OTHER_CLUSTER_ACTION};
use crate::kv::types::ClusterId;

/// Failures whose sentence says that the outcome is not known.
const SAY_SO: [&str; 2] = ["outcome_unknown", "timeout"];

/// Why a client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// There is nowhere to send a request to.
    #[error("no address of a node was given")]
    NoAddress,
}

/// What a request may have done of which it is not known whether it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keys were changed.
    Write,
    /// The cluster was changed: its members, or who may become one.
    Change,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// A node refused the request, or could not serve it until time was up. Nothing was changed,
    /// unless `outcome_unknown` says otherwise.
    #[error("{}{}", .error.message, unsaid(error, *.outcome_unknown))]
    Refused {
        /// The node's words: code, sentence, what to do.
        error: Box<ErrorBody>,
        /// The node.
        address: Address,
        /// What an earlier attempt may have done.
        outcome_unknown: Option<Effect>,
    },
    /// No node answered in time.
    #[error("no answer within {waited_ms} ms from {}: {reason}{}", list(.tried), unknown(*.outcome_unknown))]
    Unreachable {
        /// Where it was tried.
        tried: Vec<Address>,
        /// For how long, in all.
        waited_ms: u64,
        /// What the last attempt came to.
        reason: String,
        /// What an attempt may have done.
        outcome_unknown: Option<Effect>,
    },
    /// Something answered that is no Aspen node, or a newer one.
    #[error("the answer of {address} is not understood (status {status}): {reason}{}", unknown(*.outcome_unknown))]
    NotUnderstood {
        /// What answered.
        address: Address,
        /// The answer's status.
        status: u16,
        /// What is wrong with it.
        reason: String,
        /// What the request may have done.
        outcome_unknown: Option<Effect>,
    },
    /// Those that answered belong to another cluster than the one that this client is of.
    #[error(
        "{address} belongs to cluster {found}, and this client asks for cluster {asked}{}{}",
        and(.elsewhere.as_deref()),
        unknown_in_either(*.outcome_unknown)
    )]
    OtherCluster {
        /// The last one.
        address: Address,
        /// The client's cluster.
        asked: ClusterId,
        /// The node's.
        found: ClusterId,
        /// What came of an address where nothing answered.
        elsewhere: Option<String>,
        /// What the request may have done, there or in the client's cluster.
        outcome_unknown: Option<Effect>,
    },
    /// All of this client's writes in work took until time was up.
    #[error(
        "{in_work} writes of this client are in work, the most it takes, and none ended within {waited_ms} ms"
    )]
    Busy {
        /// How many are in work.
        in_work: usize,
        /// How long it waited.
        waited_ms: u64,
    },
    /// An answer that came in pieces did not come to its end.
    #[error("what {address} sent broke off: {reason}")]
    BrokenOff {
        /// The node.
        address: Address,
        /// What happened.
        reason: String,
    },
    /// A request that cannot be said over HTTP. Nothing was sent.
    #[error(transparent)]
    Form(#[from] FormError),
}

impl ClientError {
    /// Whether the request may have taken effect, or may still do so.
    pub fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown().is_some()
    }

    /// What the request may have done, or may still do.
    pub fn outcome_unknown(&self) -> Option<Effect> {
        match self {
            Self::Refused { outcome_unknown, .. }
            | Self::Unreachable { outcome_unknown, .. }
            | Self::OtherCluster { outcome_unknown, .. }
            | Self::NotUnderstood { outcome_unknown, .. } => *outcome_unknown,
            Self::Busy { .. } | Self::BrokenOff { .. } | Self::Form(_) => None,
        }
    }

    /// The error's stable name: the node's where a node answered.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { error, .. } => &error.code,
            Self::Unreachable { .. } => "unreachable_cluster",
            Self::OtherCluster { .. } => OTHER_CLUSTER,
            Self::NotUnderstood { .. } => "not_understood",
            Self::Busy { .. } => "busy_client",
            Self::BrokenOff { .. } => "broken_off",
            Self::Form(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn action(&self) -> &str {
        match self.outcome_unknown() {
            Some(_) if matches!(self, Self::OtherCluster { .. }) => {
                return "see in both clusters whether it took effect, and name the nodes of one alone";
            }
            Some(Effect::Write) => return "read the keys to see whether the write took effect",
            Some(Effect::Change) => {
                return "see with `aspen member list`, or `aspen ticket list`, whether it took effect";
            }
            None => {}
        }
        match self {
            Self::Refused { error, .. } => &error.action,
            Self::OtherCluster { .. } => OTHER_CLUSTER_ACTION,
            Self::Unreachable { .. } => "check that the nodes run and that their addresses are right",
            Self::NotUnderstood { .. } => "check that the address is that of an Aspen node's HTTP API",
            Self::Busy { .. } => "send fewer writes at a time, or wait longer",
            Self::BrokenOff { .. } => "run it again; the node's log says what happened there",
            Self::Form(error) => error.action(),
        }
    }

    /// Whether the cluster could not serve, rather than would not: it was not reached, has no quorum,
    /// or is not formed yet.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::OtherCluster { .. }
            | Self::NotUnderstood { .. }
            | Self::Busy { .. }
            | Self::BrokenOff { .. } => true,
            Self::Refused { error, .. } => super::verdict::is_unavailable(&error.code),
            Self::Form(_) => false,
        }
    }

    /// The same with what came of another address.
    pub(super) fn beside(mut self, silence: &Option<String>) -> Self {
        if let Self::OtherCluster { elsewhere, .. } = &mut self {
            elsewhere.clone_from(silence);
        }
        self
    }

    /// The same failure of a request that may have taken effect.
    pub(super) fn with_outcome(mut self, unknown: Option<Effect>) -> Self {
        match &mut self {
            Self::Refused { outcome_unknown, .. }
            | Self::Unreachable { outcome_unknown, .. }
            | Self::OtherCluster { outcome_unknown, .. }
            | Self::NotUnderstood { outcome_unknown, .. } => *outcome_unknown = unknown,
            Self::Busy { .. } | Self::BrokenOff { .. } | Self::Form(_) => {}
        }
        self
    }
}

fn unknown_in_either(outcome_unknown: Option<Effect>) -> &'static str {
    if outcome_unknown.is_some() { "; the request may or may not have taken effect, in either" } else { "" }
}

fn and(elsewhere: Option<&str>) -> String {
    elsewhere.map(|elsewhere| format!("; {elsewhere}")).unwrap_or_default()
}

fn unknown(outcome_unknown: Option<Effect>) -> &'static str {
    if outcome_unknown.is_some() { "; the request may or may not have taken effect" } else { "" }
}

/// The same, unless the node has said so.
fn unsaid(error: &ErrorBody, outcome_unknown: Option<Effect>) -> &'static str {
    if SAY_SO.contains(&error.code.as_str()) { "" } else { unknown(outcome_unknown) }
}

fn list(tried: &[Address]) -> String {
    let tried: Vec<_> = tried.iter().map(Address::to_string).collect();
    if tried.is_empty() { "any node".to_owned() } else { tried.join(", ") }
}
