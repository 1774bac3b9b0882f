//! What all parts of one run share: the trace, the figures, and the first thing that must not be.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};

use aspen::kv::types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::invariants::{Event, Invariants};
use crate::trace::{Trace, Weight};

/// Something that must never be, with both sides of the contradiction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The invariant that does not hold.
    pub invariant: String,
    /// What does not fit, in a sentence.
    pub what: String,
    /// One side: what was promised or seen before.
    pub expected: String,
    /// The other side: what was found.
    pub found: String,
}

impl Violation {
    /// A violation of the invariant with this name.
    pub fn new(
        invariant: &str,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            invariant: invariant.to_owned(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// The shared part of a run. Clones share it.
#[derive(Clone, Default)]
pub struct World(Arc<Inner>);

#[derive(Default)]
struct Inner {
    trace: Mutex<Trace>,
    figures: Mutex<BTreeMap<String, u64>>,
    violation: Mutex<Option<Violation>>,
    invariants: Mutex<Invariants>,
    ended: Notify,
}

impl World {
    /// Notes a detail.
    pub fn note(&self, node: NodeId, what: impl Display) {
        lock(&self.0.trace).note(Weight::Detail, node, &what);
    }

    /// Notes something that changes what follows.
    pub fn milestone(&self, node: NodeId, what: impl Display) {
        lock(&self.0.trace).note(Weight::Milestone, node, &what);
    }

    /// Adds to a figure.
    pub fn count(&self, figure: impl Into<String>) {
        *lock(&self.0.figures).entry(figure.into()).or_default() += 1;
    }

    /// All figures so far.
    pub fn figures(&self) -> BTreeMap<String, u64> {
        lock(&self.0.figures).clone()
    }

    /// The trace.
    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.0.trace)
    }

    /// Shows an event to every invariant.
    pub fn saw(&self, event: &Event<'_>) {
        let checked = lock(&self.0.invariants).check(event);
        if let Err(violation) = checked {
            self.broken(violation);
        }
    }

    /// Notes the first violation; what comes after it is its consequence.
    pub fn broken(&self, violation: Violation) {
        self.milestone(NodeId(0), format_args!("VIOLATION {}: {}", violation.invariant, violation.what));
        lock(&self.0.violation).get_or_insert(violation);
        self.0.ended.notify_waiters();
        self.0.ended.notify_one();
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<Violation> {
        lock(&self.0.violation).clone()
    }

    /// Returns when something is violated.
    pub async fn violated(&self) {
        while self.violation().is_none() {
            self.0.ended.notified().await;
        }
    }
}

/// A lock on what is shared. A run is one thread, and a panic ends it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
