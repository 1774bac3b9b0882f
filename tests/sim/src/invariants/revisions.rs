//! The revision counts the transactions that change something: it has no gap and never goes back.
//!
//! ```text
//! for all applied indexes i < j: 0 ≤ revision(j) - revision(i) ≤ j - i
//! for every state: the history has a change of every revision in (compacted, current]
//! ```

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::storage::digest::StateDigest;

use super::{Event, Invariant, Known};
use crate::world::Violation;

const NAME: &str = "revision gapless and monotonic";

/// See the module.
#[derive(Default)]
pub struct Revisions {
    /// By applied index plus one.
    seen: BTreeMap<u64, u64>,
}

impl Invariant for Revisions {
    fn check(&mut self, event: &Event<'_>, _known: &Known) -> Result<(), Violation> {
        match event {
            Event::Digested { node, digest } => self.check_state(*node, digest),
            Event::Started { node, found, .. } => self.check_state(*node, &found.state),
            _ => Ok(()),
        }
    }
}

impl Revisions {
    fn check_state(&mut self, node: NodeId, digest: &StateDigest) -> Result<(), Violation> {
        let (index, revision) = (digest.applied.map_or(0, |applied| applied.index + 1), digest.revision.0);
        let in_history = revision - digest.compacted.0;
        if digest.revisions_in_history != in_history {
            let what = format!("the history of node {node} lacks revisions");
            let expected = format!("{in_history} after {} up to {revision}", digest.compacted);
            let found = digest.revisions_in_history.to_string();
            return Err(Violation::new(NAME, what, expected, found));
        }
        let lower = self.seen.range(..index).next_back().map(|(index, revision)| (*index, *revision));
        let upper = self.seen.range(index + 1..).next().map(|(index, revision)| (*index, *revision));
        for ((i, r), (j, s)) in [
            (lower.unwrap_or((0, 0)), (index, revision)),
            ((index, revision), upper.unwrap_or((u64::MAX, u64::MAX))),
        ] {
            if upper.is_none() && j == u64::MAX {
                continue;
            }
            if s < r || s - r > j - i {
                let what = format!("revisions do not fit the log, as node {node} shows");
                let expected = format!("from {r} up to {}", r + (j - i));
                return Err(Violation::new(NAME, what, expected, s.to_string()));
            }
        }
        self.seen.insert(index, revision);
        Ok(())
    }
}
