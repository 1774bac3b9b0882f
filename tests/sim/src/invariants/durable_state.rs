//! The state on disk never passes the log on disk, unless by a snapshot, and the log never lacks what the
//! state on disk does not have.
//!
//! ```text
//! always:        durable(n) ≤ max(flushed(n), index of a snapshot that n received)
//! at each start: purged(n) ≤ applied(n) ≤ max(last entry of n's log, index of such a snapshot)
//! ```

use super::{Event, Invariant, Known, text};
use crate::world::Violation;

const NAME: &str = "applied ≤ durable";

/// See the module.
#[derive(Default)]
pub struct DurableState;

impl Invariant for DurableState {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        match event {
            Event::Looked(views) => {
                for view in *views {
                    let snapshot = known.node(view.node).and_then(|node| node.snapshot);
                    if view.durable > view.flushed.max(snapshot) {
                        let what = format!("the state on node {}'s disk passed its log", view.node);
                        let (expected, found) = (text(view.flushed.max(snapshot)), text(view.durable));
                        return Err(Violation::new(NAME, what, format!("at most {expected}"), found));
                    }
                }
                Ok(())
            }
            Event::Started { node, found, .. } => {
                let applied = found.state.applied.map(|id| id.index);
                let purged = found.purged.map(|id| id.index);
                if applied < purged {
                    let what = format!("node {node}'s log was purged past the state on its disk");
                    let expected = format!("at least {}", text(purged));
                    return Err(Violation::new(NAME, what, expected, text(applied)));
                }
                let last = found.entries.last().map(|entry| entry.log_id.index).max(purged);
                let snapshot = known.node(*node).and_then(|node| node.snapshot);
                if applied > last.max(snapshot) {
                    let what = format!("the state on node {node}'s disk passed the log on its disk");
                    let expected = format!("at most {}", text(last.max(snapshot)));
                    return Err(Violation::new(NAME, what, expected, text(applied)));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
