//! What every failed request is answered with.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kv::types::{ClusterError, KvError, LeaderHint};

/// The body of a failed request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorForm {
    /// What went wrong.
    pub error: ErrorBody,
}

/// An error as programs and people read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Its stable name.
    pub code: String,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do about it.
    pub action: String,
    /// Where the leader is, if this is known and matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderHint>,
    /// The values that the sentence names, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl ErrorBody {
    /// An error without a leader or details.
    pub fn new(code: &str, message: impl Into<String>, action: &str) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            action: action.to_owned(),
            leader: None,
            details: Map::new(),
        }
    }

    /// A whole number of the details.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.details.get(name)?.as_u64()
    }
}

impl From<&KvError> for ErrorBody {
    fn from(error: &KvError) -> Self {
        let leader = match error {
            KvError::NotLeader { leader, .. } => Some(leader.clone()),
            _ => None,
        };
        let details = fields(error);
        Self { leader, details, ..Self::new(error.code(), error.to_string(), error.action()) }
    }
}

impl From<&ClusterError> for ErrorBody {
    fn from(error: &ClusterError) -> Self {
        match error {
            ClusterError::Kv(kv) => Self { action: error.action().to_owned(), ..kv.into() },
            other => {
                let details = fields(other);
                Self { details, ..Self::new(other.code(), other.to_string(), other.action()) }
            }
        }
    }
}

/// The fields of an error's variant that the sentence names; the leader has a place of its own.
fn fields(error: &impl Serialize) -> Map<String, Value> {
    let Ok(Value::Object(tagged)) = serde_json::to_value(error) else {
        return Map::new();
    };
    match tagged.into_iter().next() {
        Some((_, Value::Object(mut fields))) => {
            fields.remove("leader");
            fields
        }
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::types::{NodeId, Revision};

    #[test]
    fn error_carries_its_values_for_programs() {
        let body = ErrorBody::from(&KvError::SessionExpired { forgotten: Revision(7) });
        assert_eq!(body.code, "session_expired");
        assert_eq!(body.number("forgotten"), Some(7));
        let body = ErrorBody::from(&ClusterError::NoVoters);
        assert!(body.details.is_empty());
    }

    #[test]
    fn leader_stands_beside_the_details_and_not_in_them() {
        let leader = LeaderHint { node_id: NodeId(3), http_addr: Some("10.0.0.3:4600".parse().unwrap()) };
        let body = ErrorBody::from(&KvError::NotLeader { leader: leader.clone(), reason: "cut".into() });
        assert_eq!(body.leader, Some(leader));
        assert_eq!(body.details.keys().collect::<Vec<_>>(), ["reason"]);
    }
}
