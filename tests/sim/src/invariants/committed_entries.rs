//! What is committed stays as it is, and a quorum has it on disk.
//!
//! ```text
//! for all nodes a, b and indexes i that both know to be committed: a[i] = b[i], for ever
//! when an index is first known to be committed: in each configuration of voters in effect,
//!     a majority has its entry in a flushed log
//! no node truncates an index that it knows to be committed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use aspen::kv::types::NodeId;

use super::{Event, Invariant, Known, Mark, View};
use crate::world::Violation;

const NAME: &str = "committed entries are immutable and on a quorum";

/// See the module.
#[derive(Default)]
pub struct CommittedEntries;

impl Invariant for CommittedEntries {
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation> {
        match event {
            Event::Looked(views) => {
                let flushed = views.iter().map(|view| (view.node, view.flushed)).collect();
                views.iter().try_for_each(|view| check_view(view, &flushed, known))
            }
            Event::Truncated { node, last } => {
                let committed = known.node(*node).and_then(|node| node.committed);
                let last = last.map(|last| last.index);
                if committed > last {
                    let what = format!("node {node} cut off what it knew to be committed");
                    let (expected, found) = (super::text(committed), super::text(last));
                    return Err(Violation::new(NAME, what, format!("at least {expected}"), found));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

type Flushed = BTreeMap<NodeId, Option<u64>>;

fn check_view(view: &View, flushed: &Flushed, known: &Known) -> Result<(), Violation> {
    let Some(node) = known.node(view.node) else { return Ok(()) };
    let Some((first, last)) = node.newly_committed(view.committed) else { return Ok(()) };
    for (index, mark) in node.log.range(first..=last) {
        match known.committed.get(index) {
            Some(before) if before.mark != *mark => {
                let what = format!("node {} has another entry committed at index {index}", view.node);
                let (expected, found) = (before.mark.id.to_string(), mark.id.to_string());
                return Err(Violation::new(NAME, what, expected, found));
            }
            Some(_) => {}
            None => check_quorum(view, mark, flushed, known)?,
        }
    }
    Ok(())
}

/// The configuration in effect when an entry was committed is that at the entry, or a later one of the
/// log of the leader that committed it: one of them must have a majority.
fn check_quorum(view: &View, mark: &Mark, flushed: &Flushed, known: &Known) -> Result<(), Violation> {
    let node = known.node(view.node).expect("a node with entries is known");
    let at_entry = node.log.range(..=mark.id.index).rev().find_map(|(_, mark)| mark.voters.as_ref());
    // The log may begin after it.
    let earlier = || known.committed.range(..=mark.id.index).rev().find_map(|(_, c)| c.mark.voters.as_ref());
    let at_entry = at_entry.or_else(earlier);
    // The leader's log may be ahead of this node's: what commits an entry is the configuration that it uses.
    // A node that votes by now does not say any more which leader that was.
    let may_have_led = |id: NodeId| !view.vote.committed || view.vote.leader_id.node_id == id;
    let leaders = known.nodes.iter().filter(|(id, node)| may_have_led(**id) && node.has(mark));
    let later = leaders
        .flat_map(|(_, node)| node.log.range(mark.id.index..))
        .filter_map(|(_, mark)| mark.voters.as_ref());
    let in_effect = view.membership.get_joint_config();
    let has = |id: &NodeId| {
        let flushed = flushed.get(id).copied().unwrap_or_else(|| known.node(*id).and_then(|n| n.flushed));
        flushed >= Some(mark.id.index) && known.node(*id).is_some_and(|node| node.has(mark))
    };
    let is_quorum = |config: &BTreeSet<NodeId>| config.iter().filter(|id| has(id)).count() * 2 > config.len();
    let mut configs = at_entry.into_iter().chain(later).chain([in_effect]);
    if configs.any(|joint| joint.iter().all(is_quorum)) {
        return Ok(());
    }
    let holders: Vec<String> = known.nodes.keys().filter(|id| has(id)).map(ToString::to_string).collect();
    let what = format!("entry {} is committed without being on a quorum's disks", mark.id);
    let expected = format!("a majority of {in_effect:?}");
    Err(Violation::new(NAME, what, expected, format!("nodes {}", holders.join(", "))))
}
