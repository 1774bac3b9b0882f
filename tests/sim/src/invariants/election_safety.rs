//! Each leader was elected, and leads once.
//!
//! A term can have several leaders here: a leader's id is its term with its node, and these are ordered.
//!
//! ```text
//! for every leader id (t, n) under which some process leads:
//!     exactly one process ever leads under it
//!     in each configuration of voters in effect, a majority has saved a vote ≥ (t, n)
//! ```

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::raft::types::Vote;

use super::{Event, Invariant, Known, View};
use crate::world::Violation;

const NAME: &str = "election safety";

/// See the module.
#[derive(Default)]
pub struct ElectionSafety {
    /// Leader ids, as the votes for them, with the life of the process that leads.
    leaders: BTreeMap<(u64, NodeId), u64>,
}

impl Invariant for ElectionSafety {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        let Event::Looked(views) = event else { return Ok(()) };
        views.iter().filter(|view| view.leads).try_for_each(|view| self.check_leader(view, known))
    }
}

impl ElectionSafety {
    fn check_leader(&mut self, view: &View, known: &Known) -> Result<(), Violation> {
        let leader = *view.vote.leader_id();
        let led = self.leaders.insert((leader.term, leader.node_id), view.life);
        match led {
            Some(life) if life == view.life => return Ok(()),
            Some(life) => {
                let what = format!("node {} leads again under a leader id that was in use", view.node);
                let expected = format!("process {life} alone leads under {}", view.vote);
                return Err(Violation::new(NAME, what, expected, format!("process {} does", view.life)));
            }
            None => {}
        }
        // A configuration that this leader has proposed did not elect it.
        let is_own = view.membership.log_id().as_ref().is_some_and(|id| id.leader_id == leader);
        if is_own {
            return Ok(());
        }
        let vote = Vote::new(leader.term, leader.node_id);
        let has_voted =
            |id: &NodeId| known.node(*id).and_then(|node| node.vote).is_some_and(|saved| saved >= vote);
        for config in view.membership.get_joint_config() {
            let voted = config.iter().filter(|id| has_voted(id)).count();
            if voted * 2 <= config.len() {
                let what = format!("node {} leads without a majority's votes", view.node);
                let expected = format!("a majority of {config:?} has voted for {vote}");
                return Err(Violation::new(NAME, what, expected, format!("{voted} have")));
            }
        }
        Ok(())
    }
}
