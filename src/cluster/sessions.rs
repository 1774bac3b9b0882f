//! Which sessions there are, and with whom.
//!
//! A session is known by the label that its stream was given when it was attached, so its peer is the one
//! that the transport has authenticated, whatever the session itself claims. What has no such label came
//! through the TCP listener of `ractor_cluster` and is ended before it has said a word.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use ractor::ActorRef;
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{NodeEventSubscription, NodeSessionMessage};
use tokio::sync::watch;

use crate::kv::clock::now_ms;
use crate::kv::types::NodeId;

/// How far a session has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is being set up.
    Opening,
    /// Actors on both sides know of each other.
    Ready,
    /// It is over.
    Ended,
}

/// All sessions of a node, and since when there is none with a member. Clones share them.
#[derive(Clone)]
pub struct Sessions(Arc<Mutex<Table>>);

struct Table {
    /// Labels are never used twice.
    labels: u64,
    by_label: HashMap<String, Entry>,
    lost: BTreeMap<NodeId, Lost>,
    began_ms: u64,
}

struct Entry {
    peer: NodeId,
    stage: watch::Sender<Stage>,
    /// Once the node server has taken the stream: the session's actor, and the number by which actors on
    /// the other side are known.
    session: Option<(ActorRef<NodeSessionMessage>, u64)>,
}

/// Why a member cannot be reached, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub since_ms: u64,
    pub reason: String,
}

/// A session, which ends when this is dropped.
pub struct PeerSession {
    sessions: Sessions,
    label: String,
    stage: watch::Receiver<Stage>,
}

impl Default for Sessions {
    fn default() -> Self {
        let (by_label, lost) = (HashMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(Table { labels: 0, by_label, lost, began_ms: now_ms() })))
    }
}

impl Sessions {
    /// Makes an entry for a stream that is about to be attached, under a label of its own.
    pub(super) fn announce(&self, peer: NodeId) -> PeerSession {
        let mut table = self.lock();
        table.labels += 1;
        let label = format!("node {peer}, session {}", table.labels);
        let (stage, stage_seen) = watch::channel(Stage::Opening);
        table.by_label.insert(label.clone(), Entry { peer, stage, session: None });
        PeerSession { sessions: self.clone(), label, stage: stage_seen }
    }

    /// Asks the sessions with a node to end, and returns how to see that they have.
    pub(super) fn end_all_with(&self, peer: NodeId) -> Vec<watch::Receiver<Stage>> {
        let mut table = self.lock();
        // One that has not begun is ended when it does, for then nobody has attached it.
        table.by_label.retain(|_, entry| entry.peer != peer || entry.session.is_some());
        let old = table.by_label.values().filter(|entry| entry.peer == peer);
        old.map(|entry| {
            entry.stop();
            entry.stage.subscribe()
        })
        .collect()
    }

    /// The number of the session with a node, if there is one that can be used.
    pub(super) fn with(&self, peer: NodeId) -> Option<u64> {
        let table = self.lock();
        let ready = |entry: &&Entry| entry.peer == peer && *entry.stage.borrow() == Stage::Ready;
        let numbers = table.by_label.values().filter(ready).filter_map(|entry| entry.session.as_ref());
        numbers.map(|(_, number)| *number).max()
    }

    /// Forgets all sessions: their node server is gone.
    pub(super) fn forget_all(&self) {
        let mut table = self.lock();
        for (_, entry) in table.by_label.drain() {
            entry.stage.send_replace(Stage::Ended);
        }
    }

    /// A member answered.
    pub(super) fn note_reached(&self, peer: NodeId) {
        self.lock().lost.remove(&peer);
    }

    /// A member did not answer. Since when counts from the first time.
    pub(super) fn note_lost(&self, peer: NodeId, since_ms: u64, reason: &str) {
        let lost = || Lost { since_ms, reason: reason.to_owned() };
        self.lock().lost.entry(peer).or_insert_with(lost);
    }

    /// Why a member cannot be reached, and since when: at the latest since this process looks for it.
    pub(super) fn lost(&self, peer: NodeId) -> Lost {
        let table = self.lock();
        let never =
            || Lost { since_ms: table.began_ms, reason: "there has been no session with it yet".to_owned() };
        table.lost.get(&peer).cloned().unwrap_or_else(never)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Entry {
    /// Ends a session in order, after what it is doing.
    fn stop(&self) {
        if let Some((actor, _)) = &self.session {
            actor.stop(None);
        }
    }
}

impl Table {
    fn remove(&mut self, label: &str) {
        let Some(entry) = self.by_label.remove(label) else { return };
        let was_ready = entry.stage.send_replace(Stage::Ended) == Stage::Ready;
        let peer = entry.peer;
        let has_other =
            self.by_label.values().any(|other| other.peer == peer && *other.stage.borrow() == Stage::Ready);
        if was_ready && !has_other {
            let lost = || Lost { since_ms: now_ms(), reason: "the session with it ended".to_owned() };
            self.lost.entry(peer).or_insert_with(lost);
        }
    }
}

impl PeerSession {
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Waits until the session can be used; false if it ends before.
    pub(super) async fn ready(&mut self) -> bool {
        let stage = self.stage.wait_for(|stage| *stage != Stage::Opening).await;
        stage.is_ok_and(|stage| *stage == Stage::Ready)
    }

    /// Waits until the session is over.
    pub async fn ended(&mut self) {
        // An entry that is gone is one that has ended.
        self.stage.wait_for(|stage| *stage == Stage::Ended).await.ok();
    }
}

impl Drop for PeerSession {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        match table.by_label.get(&self.label) {
            // It is removed when it has ended.
            Some(entry) if entry.session.is_some() => entry.stop(),
            Some(_) => table.remove(&self.label),
            None => {}
        }
    }
}

/// Hears from a node server what becomes of its sessions.
pub(super) struct Witness(pub Sessions);

impl Witness {
    /// Does something about a session that was attached; ends any other one.
    fn about(&self, session: &NodeServerSessionInformation, act: impl FnOnce(&mut Entry)) {
        let mut table = self.0.lock();
        match table.by_label.get_mut(&session.peer_addr) {
            Some(entry) => act(entry),
            None => {
                // At once and not in order: a stranger's next message must not be looked at.
                session.actor.kill();
                tracing::debug!(peer = %session.peer_addr, "a session of actors that nobody attached was ended");
            }
        }
    }
}

impl NodeEventSubscription for Witness {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        self.about(&session, |entry| entry.session = Some((session.actor.clone(), session.node_id)));
    }

    fn node_session_authenticated(&self, session: NodeServerSessionInformation) {
        self.about(&session, |_| {});
    }

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let mut ready = None;
        self.about(&session, |entry| {
            entry.stage.send_replace(Stage::Ready);
            ready = Some(entry.peer);
        });
        if let Some(peer) = ready {
            self.0.note_reached(peer);
        }
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        self.0.lock().remove(&session.peer_addr);
    }
}
