//! A leader has every entry that was committed before it.
//!
//! ```text
//! for every leader l and every entry e that was committed under a lower leader id: e ∈ log(l)
//! ```

use std::collections::BTreeSet;

use aspen::kv::types::NodeId;

use super::{Event, Invariant, Known, View, text};
use crate::world::Violation;

const NAME: &str = "leader completeness";

/// See the module.
#[derive(Default)]
pub struct LeaderCompleteness {
    checked: BTreeSet<(u64, NodeId)>,
}

impl Invariant for LeaderCompleteness {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        let Event::Looked(views) = event else { return Ok(()) };
        views.iter().filter(|view| view.leads).try_for_each(|view| self.check_leader(view, known))
    }
}

impl LeaderCompleteness {
    fn check_leader(&mut self, view: &View, known: &Known) -> Result<(), Violation> {
        let leader = *view.vote.leader_id();
        if !self.checked.insert((leader.term, leader.node_id)) {
            return Ok(());
        }
        let Some(node) = known.node(view.node) else { return Ok(()) };
        let first = node.purged.map_or(0, |purged| purged.index + 1);
        for committed in known.committed.range(first..).map(|(_, committed)| committed) {
            let mark = &committed.mark;
            if *committed.under.leader_id() < leader && !node.has(mark) {
                let what = format!("node {} leads without a committed entry", view.node);
                let found = text(node.log.get(&mark.id.index).map(|mark| mark.id));
                return Err(Violation::new(NAME, what, mark.id.to_string(), found));
            }
        }
        Ok(())
    }
}
