//! What happened in a run, in order: a hash over all of it, and the part that a reader wants.
//!
//! The hash is what determinism is checked by: the same seed must give the same one.

use std::collections::VecDeque;
use std::fmt::Write;

use aspen::kv::types::NodeId;

/// Lines kept from the end of a run: what led to a failure.
const LAST_LINES: usize = 400;

/// Lines kept of what shaped a run: faults, leaders, memberships.
const MILESTONES: usize = 300;

/// Whether a line tells a reader of the run's course, or only of its detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// One of very many.
    Detail,
    /// Something that changes what follows.
    Milestone,
}

/// See the module.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    milestones: VecDeque<String>,
    last: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Self {
        // The offset basis of FNV-1a.
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, milestones: VecDeque::new(), last: VecDeque::new() }
    }
}

impl Trace {
    /// Notes what happened on a node; node 0 is none.
    pub fn note(&mut self, weight: Weight, node: NodeId, what: &dyn std::fmt::Display) {
        let at = madsim::time::TimeHandle::current().elapsed();
        let mut line = String::with_capacity(64);
        write!(line, "{:>10.6} n{node} {what}", at.as_secs_f64()).expect("a string takes every text");
        // The line rounds the time; the hash must not.
        for byte in at.as_nanos().to_le_bytes().iter().chain(line.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.events += 1;
        if weight == Weight::Milestone {
            keep(&mut self.milestones, line.clone(), MILESTONES);
        }
        keep(&mut self.last, line, LAST_LINES);
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines that are kept: the milestones, and the last of all.
    pub fn lines(&self) -> (Vec<String>, Vec<String>) {
        (self.milestones.iter().cloned().collect(), self.last.iter().cloned().collect())
    }
}

fn keep(lines: &mut VecDeque<String>, line: String, at_most: usize) {
    if lines.len() == at_most {
        lines.pop_front();
    }
    lines.push_back(line);
}
