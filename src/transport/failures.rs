//! Why other nodes are not talked to, and what is said about it.
//!
//! # Tiger Style
//! One line in the log for each way in which dials to a node fail, until one succeeds: not one for each dial. A
//! refusal is worth another one where its reason changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use iroh::endpoint::{ConnectError, ConnectingError, ConnectionError, TransportErrorCode};

use crate::kv::types::NodeId;
use crate::limits;

/// What TLS calls it when whoever answers does not have the key that was called.
const UNKNOWN_CA: u8 = 48;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    #[error("nothing is known about it; its ticket can be declared with POST /peers")]
    Unknown,
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no connection within {0} ms")]
    ConnectTimeout(u128),
    #[error(
        "no connection: a node with another key answers where it was. If that is the same machine, it {}",
        began_anew(.0)
    )]
    OtherKey(NodeId),
    #[error("it refused the connection: {0}")]
    Refused(String),
    /// A member that takes this one for a stranger.
    #[error("it turned this node away: {reason}. Unless others do so too, it {}", began_anew(.target))]
    TurnedAway { target: NodeId, reason: String },
    #[error("it closed the connections of this node's former process, or to where it was, first")]
    Restarted,
}

fn began_anew(node_id: &NodeId) -> String {
    format!(
        "has lost its data directory, and may have founded a cluster of its own: stop it and bring the directory back, or remove it (`aspen member remove {node_id}`) and let it join on an empty one with a ticket (`aspen ticket new`, `aspen-node --join`)"
    )
}

/// In which way there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    NotFound,
    OtherKey,
    Refused,
    TurnedAway,
}

impl LinkError {
    /// An attempt to connect to a node that failed before its hello.
    pub(super) fn of(target: NodeId, error: &ConnectError) -> Self {
        let cause = match error {
            ConnectError::Connecting { source: ConnectingError::ConnectionError { source, .. }, .. }
            | ConnectError::Connection { source, .. } => Some(source),
            _ => None,
        };
        match cause {
            Some(ConnectionError::TransportError(cause))
                if cause.code == TransportErrorCode::crypto(UNKNOWN_CA) =>
            {
                Self::OtherKey(target)
            }
            _ => Self::Connect(format!("{error:#}")),
        }
    }

    /// Whether the node was not found, rather than would not talk.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout(_) | Self::OtherKey(_))
    }

    /// Whether the node was found and would not talk.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::TurnedAway { .. })
    }

    fn way(&self) -> Way {
        match self {
            Self::Unknown | Self::Connect(_) | Self::ConnectTimeout(_) | Self::Restarted => Way::NotFound,
            Self::OtherKey(_) => Way::OtherKey,
            Self::Refused(_) => Way::Refused,
            Self::TurnedAway { .. } => Way::TurnedAway,
        }
    }
}

/// Dials to a node that have failed, one after the other.
struct Failure {
    /// When it began to be lost, or to refuse.
    since: Instant,
    last: LinkError,
    /// In which ways it was said to fail.
    said: BTreeSet<Way>,
}

/// Why the last dial to each node failed; nothing once one has succeeded.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<NodeId, Failure>>);

impl Failures {
    /// Notes what a dial came to.
    pub(super) fn note(&self, target: NodeId, failure: Option<&LinkError>) {
        let mut failures = self.lock();
        let before = failures.remove(&target);
        let Some(error) = failure else {
            if before.is_some_and(|before| !before.said.is_empty()) {
                tracing::info!(peer = %target, "node {target} can be reached again");
            }
            return;
        };
        let way = error.way();
        let (mut since, mut said) = (Instant::now(), BTreeSet::new());
        if let Some(before) = before {
            if before.last.is_lost() == error.is_lost() {
                since = before.since;
            }
            said = before.said;
            if way == Way::Refused && before.last != *error {
                // Refused for another reason than before, or again after something else.
                said.remove(&way);
            }
        }
        // A member that was away may not have heard yet that this node joined.
        let patience = Duration::from_millis(limits::TURNED_AWAY_SAID_AFTER_MS);
        let is_due = way != Way::TurnedAway || since.elapsed() >= patience;
        if is_due && said.insert(way) {
            match way {
                Way::NotFound | Way::OtherKey => {
                    tracing::warn!(peer = %target, "node {target} cannot be reached: {error}");
                }
                Way::Refused | Way::TurnedAway => {
                    tracing::warn!(peer = %target, "node {target} and this node do not talk: {error}");
                }
            }
        }
        failures.insert(target, Failure { since, last: error.clone(), said });
    }

    /// A node came, and was let in: what it once refused is of the past.
    pub(super) fn note_met(&self, peer: NodeId) {
        let mut failures = self.lock();
        if failures.get(&peer).is_some_and(|failure| failure.last.is_refusal()) {
            failures.remove(&peer);
        }
    }

    pub(super) fn of(&self, target: NodeId) -> Option<String> {
        self.lock().get(&target).map(|failure| failure.last.to_string())
    }

    /// For how long a node has not been found; nothing if the last dial found it, even if it refused.
    pub(super) fn lost_for(&self, target: NodeId) -> Option<Duration> {
        let failures = self.lock();
        failures.get(&target).filter(|failure| failure.last.is_lost()).map(|failure| failure.since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Failure>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn lost() -> LinkError {
        LinkError::ConnectTimeout(3_000)
    }

    fn turned_away() -> LinkError {
        LinkError::TurnedAway { target: PEER, reason: "a stranger".to_owned() }
    }

    /// Has it failed for so long.
    fn make_older(failures: &Failures, ms: u64) {
        failures.lock().get_mut(&PEER).unwrap().since -= Duration::from_millis(ms);
    }

    #[test]
    fn node_is_lost_for_as_long_as_it_is_not_found_and_not_while_it_refuses() {
        let failures = Failures::default();
        failures.note(PEER, Some(&turned_away()));
        make_older(&failures, 20);
        assert_eq!(failures.lost_for(PEER), None);
        let before = Instant::now();
        failures.note(PEER, Some(&lost()));
        assert!(failures.lost_for(PEER).unwrap() <= before.elapsed(), "it was found until now");
        make_older(&failures, 20);
        failures.note(PEER, Some(&LinkError::OtherKey(PEER)));
        assert!(failures.lost_for(PEER).unwrap() >= Duration::from_millis(20));
        failures.note(PEER, None);
        assert_eq!((failures.lost_for(PEER), failures.of(PEER)), (None, None));
    }

    #[test]
    fn refusal_is_forgotten_once_the_node_comes_itself_and_silence_is_not() {
        let failures = Failures::default();
        failures.note(PEER, Some(&turned_away()));
        failures.note_met(PEER);
        assert_eq!(failures.of(PEER), None);
        failures.note(PEER, Some(&lost()));
        failures.note_met(PEER);
        assert!(failures.of(PEER).is_some());
    }

    #[test]
    fn each_way_is_said_once_and_being_turned_away_only_if_it_lasts() {
        let failures = Failures::default();
        let said = || failures.lock()[&PEER].said.iter().copied().collect::<Vec<_>>();
        failures.note(PEER, Some(&turned_away()));
        assert_eq!(said(), []);
        make_older(&failures, limits::TURNED_AWAY_SAID_AFTER_MS);
        failures.note(PEER, Some(&turned_away()));
        assert_eq!(said(), [Way::TurnedAway]);
        failures.note(PEER, Some(&lost()));
        failures.note(PEER, Some(&LinkError::Connect("no route".to_owned())));
        failures.note(PEER, Some(&LinkError::OtherKey(PEER)));
        assert_eq!(said(), [Way::NotFound, Way::OtherKey, Way::TurnedAway]);
    }
}
