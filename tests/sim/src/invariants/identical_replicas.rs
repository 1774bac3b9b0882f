//! Nodes that have applied the same entries have the same state, byte for byte.
//!
//! ```text
//! for all nodes a, b and moments s, t: applied(a, s) = applied(b, t)  ⇒  tables(a, s) = tables(b, t)
//! ```

use std::collections::BTreeMap;

use aspen::kv::types::NodeId;
use aspen::storage::digest::StateDigest;

use super::{Event, Invariant, Known};
use crate::world::Violation;

const NAME: &str = "identical replicas";

/// See the module.
#[derive(Default)]
pub struct IdenticalReplicas {
    /// By applied index plus one.
    seen: BTreeMap<u64, (NodeId, StateDigest)>,
}

impl Invariant for IdenticalReplicas {
    fn check(&mut self, event: &Event<'_>, _known: &Known) -> Result<(), Violation> {
        let (node, digest) = match event {
            Event::Digested { node, digest } => (*node, *digest),
            Event::Started { node, found, .. } => (*node, &found.state),
            _ => return Ok(()),
        };
        let index = digest.applied.map_or(0, |applied| applied.index + 1);
        let (first, expected) = self.seen.entry(index).or_insert_with(|| (node, digest.clone()));
        if expected == digest {
            return Ok(());
        }
        let what = format!("nodes {first} and {node} differ at applied index {}", index.saturating_sub(1));
        Err(Violation::new(NAME, what, format!("{expected:?}"), format!("{digest:?}")))
    }
}
