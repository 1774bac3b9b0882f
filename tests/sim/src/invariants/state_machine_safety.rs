//! No two nodes apply different entries at one index.
//!
//! ```text
//! for all nodes a, b and indexes i that both have applied: applied(a, i) = applied(b, i) = committed(i)
//! ```

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::raft::types::LogId;

use super::{Event, Invariant, Known};
use crate::world::Violation;

const NAME: &str = "state-machine safety";

/// See the module.
#[derive(Default)]
pub struct StateMachineSafety {
    applied: BTreeMap<u64, LogId>,
}

impl Invariant for StateMachineSafety {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        match event {
            Event::Looked(views) => {
                views.iter().try_for_each(|view| self.check_applied(view.node, view.applied, known))
            }
            Event::Digested { node, digest } => self.check_applied(*node, digest.applied, known),
            Event::Started { node, found, .. } => self.check_applied(*node, found.state.applied, known),
            _ => Ok(()),
        }
    }
}

impl StateMachineSafety {
    fn check_applied(
        &mut self,
        node: NodeId,
        applied: Option<LogId>,
        known: &Known,
    ) -> Result<(), Violation> {
        let Some(applied) = applied else { return Ok(()) };
        let first = *self.applied.entry(applied.index).or_insert(applied);
        let committed = known.committed.get(&applied.index).map(|committed| committed.mark.id);
        for expected in [Some(first), committed].into_iter().flatten() {
            if expected != applied {
                let what = format!("node {node} has applied another entry at index {}", applied.index);
                return Err(Violation::new(NAME, what, expected.to_string(), applied.to_string()));
            }
        }
        Ok(())
    }
}
