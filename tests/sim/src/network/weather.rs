//! What the links are like right now: delays, losses, cuts.

use std::collections::BTreeMap;
use std::time::Duration;

use aspen::kv::types::NodeId;

use crate::chance;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Bounds of the delay of one message, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Share of requests, and of answers, that get lost.
    pub loss: f64,
    /// Share of requests that arrive twice.
    pub duplication: f64,
    /// Share of messages that are held back for a while, so that others overtake them.
    pub reordering: f64,
    /// More delay, in milliseconds, for all that a node sends and receives.
    pub slow: BTreeMap<NodeId, u64>,
    /// Directions in which nothing passes, and how many faults cut each.
    cuts: BTreeMap<(NodeId, NodeId), u32>,
}

impl Weather {
    /// Nothing but a delay within these bounds.
    pub fn fair(delay_ms: (u64, u64)) -> Self {
        Self { delay_ms, ..Self::default() }
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    /// Takes back one cut of a direction.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        let Some(faults) = self.cuts.get_mut(&(from, to)) else { return };
        *faults -= 1;
        if *faults == 0 {
            self.cuts.remove(&(from, to));
        }
    }

    /// Whether nothing passes in a direction.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub(super) fn draw_delay(&self, from: NodeId, to: NodeId) -> Duration {
        let mut delay = chance::millis(self.delay_ms.0, self.delay_ms.1);
        if chance::happens(self.reordering) {
            delay += chance::millis(5, 80);
        }
        for end in [from, to] {
            delay += Duration::from_millis(self.slow.get(&end).copied().unwrap_or(0));
        }
        delay
    }

    pub(super) fn draw_loss(&self) -> bool {
        chance::happens(self.loss)
    }

    pub(super) fn draw_duplication(&self) -> bool {
        chance::happens(self.duplication)
    }
}
