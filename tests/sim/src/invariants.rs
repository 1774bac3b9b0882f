//! What must hold at every moment of every run, one file each, its formal statement first.
//!
//! Invariants see [events](Event) and what is [known](Known) of all nodes from the events before.

mod admission;
mod committed_entries;
mod durable_promises;
mod durable_state;
mod election_safety;
mod identical_replicas;
mod known;
mod leader_completeness;
mod log_matching;
mod monotonic;
mod revisions;
mod state_machine_safety;

use std::collections::BTreeSet;
use std::sync::Arc;

use aspen::kv::types::{NodeId, Revision};
use aspen::raft::types::{Entry, LogId, SnapshotMeta, StoredMembership, Vote};
use aspen::storage::digest::StateDigest;

pub use self::known::{Known, Mark};
use crate::world::Violation;

/// Something that happened.
pub enum Event<'a> {
    /// A process has opened its stores and takes part from now on.
    Started {
        /// On which node.
        node: NodeId,
        /// Which of the node's processes.
        life: u64,
        /// What it found on its disk.
        found: &'a Found,
    },
    /// A process has ended, with or without the power.
    Ended {
        /// On which node.
        node: NodeId,
        /// The last log index that it took for flushed.
        flushed: Option<u64>,
        /// The last index in the state that it took for durable.
        durable: Option<u64>,
    },
    /// A node told Raft that its vote is on disk.
    VoteSaved {
        /// The node.
        node: NodeId,
        /// Its vote.
        vote: Vote,
    },
    /// A node's log took entries.
    Appended {
        /// The node.
        node: NodeId,
        /// What it took.
        entries: &'a [Entry],
    },
    /// A node's log was cut back.
    Truncated {
        /// The node.
        node: NodeId,
        /// The last entry that stays.
        last: Option<LogId>,
    },
    /// A node's log forgot its beginning.
    Purged {
        /// The node.
        node: NodeId,
        /// The last entry that went.
        to: LogId,
    },
    /// A snapshot has arrived and is about to be installed.
    SnapshotArrived {
        /// The node.
        node: NodeId,
        /// What it is a snapshot of.
        meta: &'a SnapshotMeta,
    },
    /// A message was handed to its target.
    Delivered {
        /// Its sender.
        from: NodeId,
        /// Its target.
        to: NodeId,
        /// What it was.
        kind: &'static str,
        /// Whether the target lets the sender in at this moment for another reason than an earlier membership.
        is_declared: bool,
    },
    /// All running nodes were looked at.
    Looked(&'a [View]),
    /// All of a node's state was read.
    Digested {
        /// The node.
        node: NodeId,
        /// What it came to.
        digest: &'a StateDigest,
    },
}

/// What a process found on its disk.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its vote.
    pub vote: Option<Vote>,
    /// The last entry that was purged from its log.
    pub purged: Option<LogId>,
    /// The entries of its log.
    pub entries: Vec<Entry>,
    /// The state.
    pub state: StateDigest,
}

/// A running node as it is right now.
#[derive(Clone, Debug)]
pub struct View {
    /// The node.
    pub node: NodeId,
    /// Which of its processes.
    pub life: u64,
    /// The vote that Raft works with.
    pub vote: Vote,
    /// Whether it leads.
    pub leads: bool,
    /// The last entry that it knows to be committed, and has.
    pub committed: Option<LogId>,
    /// The last entry that it has applied.
    pub applied: Option<LogId>,
    /// The store's revision.
    pub revision: Revision,
    /// The last log index that it takes for flushed.
    pub flushed: Option<u64>,
    /// The last index in the state that it takes for durable.
    pub durable: Option<u64>,
    /// The last entry that Raft has purged from the log, as far as the log has followed.
    pub purged: Option<LogId>,
    /// The membership in effect.
    pub membership: Arc<StoredMembership>,
    /// The last membership that is known to be committed.
    pub settled: Arc<StoredMembership>,
}

impl View {
    fn members(&self) -> BTreeSet<NodeId> {
        self.membership.nodes().map(|(node_id, _)| *node_id).collect()
    }
}

/// Something that must always hold.
trait Invariant: Send {
    /// Looks at an event that `known` does not include yet.
    fn check(&mut self, event: &Event<'_>, known: &Known) -> Result<(), Violation>;
}

/// All invariants, with what they know in common.
pub struct Invariants {
    known: Known,
    all: Vec<Box<dyn Invariant>>,
}

impl Default for Invariants {
    fn default() -> Self {
        let all: Vec<Box<dyn Invariant>> = vec![
            Box::<durable_promises::DurablePromises>::default(),
            Box::<durable_state::DurableState>::default(),
            Box::<monotonic::Monotonic>::default(),
            Box::<election_safety::ElectionSafety>::default(),
            Box::<log_matching::LogMatching>::default(),
            Box::<leader_completeness::LeaderCompleteness>::default(),
            Box::<committed_entries::CommittedEntries>::default(),
            Box::<state_machine_safety::StateMachineSafety>::default(),
            Box::<identical_replicas::IdenticalReplicas>::default(),
            Box::<revisions::Revisions>::default(),
            Box::<admission::Admission>::default(),
        ];
        Self { known: Known::default(), all }
    }
}

impl Invariants {
    /// Shows an event to every invariant.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&mut self, event: &Event<'_>) -> Result<(), Violation> {
        for invariant in &mut self.all {
            invariant.check(event, &self.known)?;
        }
        self.known.learn(event);
        Ok(())
    }
}

/// An optional position as text.
fn text<T: std::fmt::Display>(position: Option<T>) -> String {
    position.map_or_else(|| "none".to_owned(), |position| position.to_string())
}
