//! What events have told of every node: its log, its vote, and what it took for durable.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use aspen::kv::types::NodeId;
use aspen::raft::types::{Entry, LogId, Vote};
use openraft::EntryPayload;

use super::{Event, View};

/// A log entry: its id, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its id.
    pub id: LogId,
    /// Hash of what it holds.
    pub hash: u64,
    /// The configurations of voters, if it holds a membership.
    pub voters: Option<Vec<BTreeSet<NodeId>>>,
}

impl Mark {
    /// That of an entry.
    pub fn of(entry: &Entry) -> Self {
        let mut hasher = DefaultHasher::new();
        let bytes = postcard::to_stdvec(entry).expect("entries have only types that postcard can encode");
        hasher.write(&bytes);
        let voters = match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership.get_joint_config().clone()),
            _ => None,
        };
        Self { id: entry.log_id, hash: hasher.finish(), voters }
    }
}

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The entry.
    pub mark: Mark,
    /// The vote of the node on which it was first seen to be committed: no earlier leader's.
    pub under: Vote,
}

/// What is known of a node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Entries by index.
    pub log: BTreeMap<u64, Mark>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last vote that it told to be on disk.
    pub vote: Option<Vote>,
    /// The last log index that it took for flushed.
    pub flushed: Option<u64>,
    /// The last index in the state that it took for durable.
    pub durable: Option<u64>,
    /// Index of the last snapshot that arrived.
    pub snapshot: Option<u64>,
    /// The last index that it knew to be committed, in this life.
    pub committed: Option<u64>,
}

impl Node {
    /// Whether it has an entry, or had it before it was purged.
    pub fn has(&self, mark: &Mark) -> bool {
        let index = mark.id.index;
        self.log.get(&index) == Some(mark) || self.purged.is_some_and(|purged| purged.index >= index)
    }

    /// The indexes that are known to be committed since the last look. None while the log does not have
    /// the last one: a snapshot has just replaced the state, and not yet the log.
    pub fn newly_committed(&self, committed: Option<LogId>) -> Option<(u64, u64)> {
        let committed = committed?;
        let first = self.committed.map_or(0, |index| index + 1);
        let is_there = self.log.get(&committed.index).is_some_and(|mark| mark.id == committed);
        (is_there && first <= committed.index).then_some((first, committed.index))
    }

    /// The entry in front of an index.
    pub fn before(&self, index: u64) -> Option<LogId> {
        let last = index.checked_sub(1)?;
        let purged = self.purged.filter(|purged| purged.index == last);
        self.log.get(&last).map(|mark| mark.id).or(purged)
    }
}

/// See the module.
#[derive(Default)]
pub struct Known {
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Entries by index that some node knew to be committed.
    pub committed: BTreeMap<u64, Committed>,
}

impl Known {
    /// What is known of a node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(super) fn learn(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { node, found, .. } => {
                let log = found.entries.iter().map(|entry| (entry.log_id.index, Mark::of(entry))).collect();
                let snapshot = self.nodes.get(node).and_then(|node| node.snapshot);
                let (vote, purged) = (found.vote, found.purged);
                let node = self.nodes.entry(*node).or_default();
                *node = Node { log, purged, vote, snapshot, ..Node::default() };
            }
            Event::Ended { node, flushed, durable } => {
                let node = self.nodes.entry(*node).or_default();
                (node.flushed, node.durable, node.committed) = (*flushed, *durable, None);
            }
            Event::VoteSaved { node, vote } => self.nodes.entry(*node).or_default().vote = Some(*vote),
            Event::Appended { node, entries } => {
                let node = self.nodes.entry(*node).or_default();
                node.log.extend(entries.iter().map(|entry| (entry.log_id.index, Mark::of(entry))));
            }
            Event::Truncated { node, last } => {
                let next = last.map_or(0, |last| last.index + 1);
                self.nodes.entry(*node).or_default().log.split_off(&next);
            }
            Event::Purged { node, to } => {
                let node = self.nodes.entry(*node).or_default();
                node.log = node.log.split_off(&(to.index + 1));
                node.purged = Some(*to);
            }
            Event::SnapshotArrived { node, meta } => {
                let index = meta.last_log_id.map(|id| id.index);
                let node = self.nodes.entry(*node).or_default();
                node.snapshot = node.snapshot.max(index);
            }
            Event::Looked(views) => views.iter().for_each(|view| self.learn_view(view)),
            Event::Delivered { .. } | Event::Digested { .. } => {}
        }
    }

    fn learn_view(&mut self, view: &View) {
        let node = self.nodes.entry(view.node).or_default();
        (node.flushed, node.durable) = (view.flushed, view.durable);
        let Some((first, committed)) = node.newly_committed(view.committed) else { return };
        for (index, mark) in node.log.range(first..=committed) {
            let entry = || Committed { mark: mark.clone(), under: view.vote };
            self.committed.entry(*index).or_insert_with(entry);
        }
        node.committed = Some(committed);
    }
}
