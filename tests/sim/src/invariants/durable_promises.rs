//! What a node told to be on disk is there after every crash.
//!
//! ```text
//! for every process p of node n, and the process q of n that follows it:
//!     vote(q at start)  ≥ last vote that p told to be saved
//!     log(q at start)   ⊇ entries of p's log up to what p took for flushed, unless purged
//! ```

use super::{Event, Invariant, Known, Mark, text};
use crate::world::Violation;

const NAME: &str = "durable promises";

/// See the module.
#[derive(Default)]
pub struct DurablePromises;

impl Invariant for DurablePromises {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        let Event::Started { node, found, .. } = event else { return Ok(()) };
        let Some(before) = known.node(*node) else { return Ok(()) };
        if let Some(told) = before.vote
            && found.vote.is_none_or(|vote| vote < told)
        {
            let what = format!("node {node} lost a vote that it had told to be on disk");
            return Err(Violation::new(NAME, what, told.to_string(), text(found.vote)));
        }
        let Some(flushed) = before.flushed else { return Ok(()) };
        let purged = found.purged.map_or(0, |purged| purged.index + 1);
        for (index, told) in before.log.range(purged..(flushed + 1).max(purged)) {
            let first = found.entries.first().map_or(u64::MAX, |entry| entry.log_id.index);
            let at = index.checked_sub(first).and_then(|at| usize::try_from(at).ok());
            let there = at.and_then(|at| found.entries.get(at)).map(Mark::of);
            if there.as_ref() != Some(told) {
                let what = format!("node {node} lost an entry that it had told to be on disk");
                return Err(Violation::new(NAME, what, told.id.to_string(), text(there.map(|mark| mark.id))));
            }
        }
        Ok(())
    }
}
