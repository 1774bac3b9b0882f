//! A node hears nobody who is neither a member nor declared.
//!
//! ```text
//! for every message from a to b that is delivered at time t:
//!     a was declared to b, or a was a member for b at some time in [t - 100 ms, t]
//! ```
//! (The membership comes to the door a moment after it comes to Raft.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aspen::kv::types::NodeId;

use super::{Event, Invariant, Known};
use crate::world::Violation;

const NAME: &str = "admission";

const GRACE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Default)]
pub struct Admission {
    members: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// When the second was last a member for the first.
    left: BTreeMap<(NodeId, NodeId), Instant>,
}

impl Invariant for Admission {
    fn check(&mut self, event: &Event<'_>, _known: &Known) -> Result<(), Violation> {
        match event {
            Event::Looked(views) => {
                let now = Instant::now();
                for view in *views {
                    let members = view.members();
                    if self.members.get(&view.node) == Some(&members) {
                        continue;
                    }
                    let before = self.members.insert(view.node, members).unwrap_or_default();
                    self.left.extend(before.into_iter().map(|member| ((view.node, member), now)));
                }
                Ok(())
            }
            Event::Delivered { from, to, kind, is_declared: false } => {
                let is_member = self.members.get(to).is_some_and(|members| members.contains(from));
                let left = self.left.get(&(*to, *from));
                if is_member || left.is_some_and(|left| left.elapsed() <= GRACE) {
                    return Ok(());
                }
                let what = format!("node {to} heard a {kind} from node {from}, which is none of its members");
                let members = format!("one of {:?}", self.members.get(to).cloned().unwrap_or_default());
                Err(Violation::new(NAME, what, members, format!("node {from}")))
            }
            _ => Ok(()),
        }
    }
}
