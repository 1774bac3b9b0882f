//! A node's end of the network: who answers, and who is let in. The rules are those of the real peer book.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aspen::kv::service::KvService;
use aspen::kv::types::NodeId;
use aspen::raft::RaftHandle;
use aspen::raft::freshness::Freshness;
use aspen::raft::types::{LogId, StoredMembership};
use aspen::storage::snapshot::SnapshotInbox;
use aspen::storage::state::StateReader;
use serde::{Deserialize, Serialize};

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
    /// Whether the members are being asked about a stranger.
    is_asking: AtomicBool,
}

/// The nodes that are let in.
#[derive(Default)]
struct Book {
    declared: BTreeSet<NodeId>,
    /// As the own log tells.
    members: Members,
    /// As a member told, if that is newer.
    vouched: Members,
}

/// Who belongs to the cluster, as of an entry of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Members {
    /// The entry; absent if there is no cluster yet.
    pub log_id: Option<LogId>,
    /// The nodes, with a vote or without.
    pub nodes: BTreeSet<NodeId>,
}

impl Members {
    /// Those of a membership in Raft.
    pub fn of(membership: &StoredMembership) -> Self {
        let nodes = membership.nodes().map(|(id, _)| *id).collect();
        Self { log_id: *membership.log_id(), nodes }
    }
}

impl Book {
    fn all_members(&self) -> BTreeSet<NodeId> {
        self.members.nodes.union(&self.vouched.nodes).copied().collect()
    }
}

impl Station {
    /// The end of a node in one of its lives, which knows those that were declared to it.
    pub fn new(id: NodeId, life: u64, declared: BTreeSet<NodeId>) -> Self {
        let book = Mutex::new(Book { declared, ..Book::default() });
        Self { id, life, handlers: OnceLock::new(), book, is_asking: AtomicBool::new(false) }
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

    /// Takes over the membership in the own log, and returns those who are no longer let in.
    pub fn set_members(&self, mut members: Members) -> Vec<NodeId> {
        members.nodes.remove(&self.id);
        let mut book = lock(&self.book);
        let before = book.all_members();
        if members.log_id >= book.vouched.log_id {
            book.vouched = Members::default();
        }
        book.members = members;
        let removed: Vec<NodeId> = before.difference(&book.all_members()).copied().collect();
        for node_id in &removed {
            book.declared.remove(node_id);
        }
        removed
    }

    /// A member told who belongs to the cluster, which counts if the own log does not tell better.
    pub fn vouched(&self, by: NodeId, mut members: Members) {
        members.nodes.remove(&self.id);
        let mut book = lock(&self.book);
        if book.all_members().contains(&by) && members.log_id > book.members.log_id.max(book.vouched.log_id) {
            book.vouched = members;
        }
    }

    /// The members, as far as they are known.
    pub fn members(&self) -> BTreeSet<NodeId> {
        lock(&self.book).all_members()
    }

    /// Begins a round of questions about a stranger, unless one is under way.
    pub fn begin_asking(&self) -> bool {
        !self.is_asking.swap(true, Ordering::Relaxed)
    }

    /// The round is over.
    pub fn end_asking(&self) {
        self.is_asking.store(false, Ordering::Relaxed);
    }

    /// Lets a node in.
    pub fn declare(&self, node_id: NodeId) {
        lock(&self.book).declared.insert(node_id);
    }

    /// Lets a declared node in no longer, unless it is a member.
    pub fn forget(&self, node_id: NodeId) {
        lock(&self.book).declared.remove(&node_id);
    }

    /// Whether a node was declared, or a member vouched for it: that lets it in although the own log does
    /// not name it.
    pub fn has_declared(&self, node_id: NodeId) -> bool {
        let book = lock(&self.book);
        book.declared.contains(&node_id) || book.vouched.nodes.contains(&node_id)
    }

    /// All that are known: what the next process knows from the start.
    pub fn known(&self) -> BTreeSet<NodeId> {
        let book = lock(&self.book);
        book.all_members().union(&book.declared).copied().collect()
    }

    /// Whether a node is let in.
    pub fn admits(&self, node_id: NodeId) -> bool {
        let book = lock(&self.book);
        book.declared.contains(&node_id) || book.all_members().contains(&node_id)
    }

    pub(super) fn handlers(&self) -> Option<Handlers> {
        self.handlers.get().cloned()
    }
}
