//! Nothing that a node knows goes back.
//!
//! ```text
//! for every process p, and moments s < t of it:
//!     vote(s) ≤ vote(t), committed(s) ≤ committed(t), applied(s) ≤ applied(t), revision(s) ≤ revision(t)
//! for every process p, and the process q that follows it:
//!     applied(q at start) ≥ what p took for durable
//! ```
//! (That a vote outlives its process is a matter of the durable promises.)

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;

use super::{Event, Invariant, Known, View, text};
use crate::world::Violation;

const NAME: &str = "monotonic term, commit and applied";

/// See the module.
#[derive(Default)]
pub struct Monotonic {
    last: BTreeMap<NodeId, View>,
}

impl Invariant for Monotonic {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        match event {
            Event::Looked(views) => views.iter().try_for_each(|view| self.check_view(view)),
            Event::Started { node, found, .. } => {
                let applied = found.state.applied.map(|id| id.index);
                let durable = known.node(*node).and_then(|node| node.durable);
                if applied < durable {
                    let what = format!("node {node} lost state that it took for durable");
                    let expected = format!("at least {}", text(durable));
                    return Err(Violation::new(NAME, what, expected, text(applied)));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Monotonic {
    fn check_view(&mut self, view: &View) -> Result<(), Violation> {
        let last = self.last.insert(view.node, view.clone());
        let Some(last) = last.filter(|last| last.life == view.life) else { return Ok(()) };
        let back = |what: &str, before: String, now: String| {
            Err(Violation::new(NAME, format!("the {what} of node {} went back", view.node), before, now))
        };
        // Votes of one term and node differ in being committed or not; others are ordered.
        if view.vote < last.vote {
            return back("vote", last.vote.to_string(), view.vote.to_string());
        }
        if view.committed < last.committed {
            return back("committed index", text(last.committed), text(view.committed));
        }
        if view.applied < last.applied {
            return back("applied index", text(last.applied), text(view.applied));
        }
        if view.revision < last.revision {
            return back("revision", last.revision.to_string(), view.revision.to_string());
        }
        Ok(())
    }
}
