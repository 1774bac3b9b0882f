//! A node's end of the network: who answers, and who is let in.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use aspen::kv::service::KvService;
use aspen::kv::types::NodeId;
use aspen::raft::RaftHandle;
use aspen::raft::freshness::Freshness;
use aspen::storage::snapshot::SnapshotInbox;
use aspen::storage::state::StateReader;

use crate::world::lock;

/// Who answers.
#[derive(Clone)]
pub struct Handlers {
    /// Votes, appends, snapshots.
    pub raft: RaftHandle,
    /// Where snapshots are received.
    pub inbox: SnapshotInbox,
    /// Requests of clients and of other nodes.
    pub service: KvService,
    /// Told whenever the leader speaks.
    pub freshness: Arc<Freshness>,
    /// How far the node has applied.
    pub reader: StateReader,
}

/// See the module. It lasts as long as one process.
pub struct Station {
    id: NodeId,
    life: u64,
    handlers: OnceLock<Handlers>,
    book: Mutex<Book>,
}

/// The nodes that are let in.
#[derive(Default)]
struct Book {
    declared: BTreeSet<NodeId>,
    members: BTreeSet<NodeId>,
}

impl Station {
    /// The end of a node in one of its lives, which knows those that were declared to it.
    pub fn new(id: NodeId, life: u64, declared: BTreeSet<NodeId>) -> Self {
        let book = Mutex::new(Book { declared, members: BTreeSet::new() });
        Self { id, life, handlers: OnceLock::new(), book }
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Which of its processes this is.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Begins to answer.
    pub fn open(&self, handlers: Handlers) {
        assert!(self.handlers.set(handlers).is_ok(), "a process begins to answer once");
    }

    /// Whether it answers.
    pub fn is_open(&self) -> bool {
        self.handlers.get().is_some()
    }

    /// Takes over the membership, and returns those who are no longer let in.
    pub fn set_members(&self, members: BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut book = lock(&self.book);
        let removed: Vec<NodeId> = book.members.difference(&members).copied().collect();
        for node_id in &removed {
            book.declared.remove(node_id);
        }
        book.members = members;
        removed
    }

    /// Lets a node in.
    pub fn declare(&self, node_id: NodeId) {
        lock(&self.book).declared.insert(node_id);
    }

    /// Lets a declared node in no longer, unless it is a member.
    pub fn forget(&self, node_id: NodeId) {
        lock(&self.book).declared.remove(&node_id);
    }

    /// Whether a node was declared, which lets it in without being a member.
    pub fn has_declared(&self, node_id: NodeId) -> bool {
        lock(&self.book).declared.contains(&node_id)
    }

    /// All that are known: what the next process knows from the start.
    pub fn known(&self) -> BTreeSet<NodeId> {
        let book = lock(&self.book);
        book.members.union(&book.declared).copied().collect()
    }

    /// Whether a node is let in.
    pub fn admits(&self, node_id: NodeId) -> bool {
        let book = lock(&self.book);
        book.members.contains(&node_id) || book.declared.contains(&node_id)
    }

    pub(super) fn handlers(&self) -> Option<Handlers> {
        self.handlers.get().cloned()
    }
}
