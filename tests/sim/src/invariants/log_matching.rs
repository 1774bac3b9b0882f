//! Logs that have an entry in common have all in front of it in common.
//!
//! ```text
//! for all logs a, b and indexes i: id(a[i]) = id(b[i])  ⇒  for all j ≤ i: a[j] = b[j]
//! ```
//! By induction it is enough that an id always comes with the same content and behind the same id.

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::raft::types::{Entry, LogId};

use super::{Event, Invariant, Known, Mark, text};
use crate::world::Violation;

const NAME: &str = "log matching";

/// See the module.
#[derive(Default)]
pub struct LogMatching {
    /// Content of each id, and the id in front, where that is known.
    seen: BTreeMap<LogId, (u64, Option<LogId>)>,
}

impl Invariant for LogMatching {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        match event {
            Event::Appended { node, entries } => {
                let first = entries.first().map_or(0, |entry| entry.log_id.index);
                let before = known.node(*node).and_then(|node| node.before(first));
                self.check_entries(*node, before, entries)
            }
            Event::Started { node, found, .. } => {
                let first = found.entries.first().map_or(0, |entry| entry.log_id.index);
                let before = found.purged.filter(|purged| purged.index + 1 == first);
                self.check_entries(*node, before, &found.entries)
            }
            _ => Ok(()),
        }
    }
}

impl LogMatching {
    fn check_entries(
        &mut self,
        node: NodeId,
        mut before: Option<LogId>,
        entries: &[Entry],
    ) -> Result<(), Violation> {
        for entry in entries {
            let (id, hash) = (entry.log_id, Mark::of(entry).hash);
            let seen = self.seen.entry(id).or_insert((hash, before));
            if seen.0 != hash {
                let what = format!("node {node} has another entry under the id {id}");
                return Err(Violation::new(NAME, what, format!("{:x}", seen.0), format!("{hash:x}")));
            }
            match (seen.1, before) {
                (Some(expected), Some(found)) if expected != found => {
                    let what = format!("in node {node}'s log, another entry stands in front of {id}");
                    return Err(Violation::new(NAME, what, expected.to_string(), found.to_string()));
                }
                (None, found) if id.index > 0 => seen.1 = found,
                (Some(expected), None) if id.index == 0 => {
                    let what = format!("nothing stands in front of {id} on node {node}");
                    return Err(Violation::new(NAME, what, expected.to_string(), text::<LogId>(None)));
                }
                _ => {}
            }
            before = Some(id);
        }
        Ok(())
    }
}
