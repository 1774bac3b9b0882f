//! The nodes that this one knows, where they are, and which of them are let in.
//!
//! A node is let in if an operator declared it (`--peer`, `POST /peers`) or if it is a member. Members
//! come from Raft; newer addresses come from the nodes themselves, when they say hello. What others say of
//! a node's addresses is hearsay: it is tried, and forgotten once the node has spoken.
//!
//! # Tiger Style
//! A node has at most [`limits::PEER_ADDRESSES_MAX_COUNT`] addresses, the newest. Hearsay is never written
//! to disk, nor passed on. At most [`limits::PEERS_MAX_COUNT`] who were members are remembered; who was it
//! longest ago is forgotten first.
//!
//! A key that is neither declared nor a member's is never let in. A member that is removed is forgotten as
//! a declared peer as well, and stays so when it stands in the configuration of a node that is restarted, or
//! that joined later: the replicated state tells who was removed. Only whoever declares it anew at runtime lets
//! it in again, until the node's next start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use iroh::address_lookup::MemoryLookup;
use tokio::sync::{Notify, watch};

use super::ticket::endpoint_addr;
use super::vouching::Members;
use crate::kv::types::{NodeId, NodeInfo, Peer, PublicKey};
use crate::limits;

/// The nodes that this one knows. Clones share it.
#[derive(Clone, Debug)]
pub struct PeerBook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: (NodeId, PublicKey),
    state: Mutex<State>,
    changed: watch::Sender<()>,
    question: Notify,
}

#[derive(Debug, Default)]
struct State {
    declared: BTreeMap<NodeId, NodeInfo>,
    /// As the own log tells.
    members: Members,
    /// As a member told, if that is newer.
    vouched: Members,
    /// What a node said last about its own addresses.
    heard: BTreeMap<NodeId, NodeInfo>,
    /// What others said since about a node's addresses.
    hearsay: BTreeMap<NodeId, NodeInfo>,
    /// The data directory that the owner of a key has now, by its own word.
    met: BTreeMap<PublicKey, u64>,
    /// All who were members at some time, so that whoever is one no more stays out for good. Who was it longest
    /// ago comes first.
    once_members: Vec<PublicKey>,
    /// Who was removed, as the own state told last; absent until it tells of a cluster.
    former: Option<BTreeSet<PublicKey>>,
    lookup: Option<MemoryLookup>,
}

/// Why a peer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// The ticket is this node's own.
    #[error("the ticket is this node's own (node {0})")]
    Own(NodeId),
    /// Another node has this node's id.
    #[error(
        "the ticket names node {0}, which is this node's own id, with another key: give one of them another id"
    )]
    OwnId(NodeId),
    /// A known node has another key.
    #[error(
        "node {node_id} is known with the key {known:?}, not {given:?}: a node that lost its key comes back under another id"
    )]
    OtherKey {
        /// The node.
        node_id: NodeId,
        /// The key that is known.
        known: PublicKey,
        /// The key in the ticket.
        given: PublicKey,
    },
    /// The configuration names a node that was a member and is none.
    #[error("node {0} ({1}) was removed from the cluster: take it out of the configuration")]
    Removed(NodeId, PublicKey),
    /// A known key has another id.
    #[error("the key {key:?} belongs to node {known}, not {given}")]
    OtherId {
        /// The key.
        key: PublicKey,
        /// The id that is known.
        known: NodeId,
        /// The id in the ticket.
        given: NodeId,
    },
}

impl PeerBook {
    /// An empty book of the node with this id and key.
    pub fn new(node_id: NodeId, public_key: PublicKey) -> Self {
        let (changed, _) = watch::channel(());
        let (state, question) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { own: (node_id, public_key), state, changed, question }))
    }

    /// Takes a node that an operator names now: it is let in, and its addresses replace older ones.
    ///
    /// # Errors
    /// [`DeclareError`] if the ticket contradicts what is known.
    pub fn declare(&self, peer: Peer) -> Result<(), DeclareError> {
        let mut state = self.lock();
        state.check(self.0.own, &peer)?;
        let Peer { node_id, info } = peer;
        if !state.keys_of_members().contains(&info.public_key) {
            state.once_members.retain(|key| *key != info.public_key);
        }
        state.heard.remove(&node_id);
        state.hearsay.remove(&node_id);
        state.declared.insert(node_id, info);
        state.publish(node_id);
        drop(state);
        self.notify();
        Ok(())
    }

    /// The same for a node that stands in the configuration, which may be older than its removal.
    ///
    /// # Errors
    /// [`DeclareError`] if the ticket contradicts what is known, or the node was removed.
    pub fn declare_configured(&self, peer: Peer) -> Result<(), DeclareError> {
        let state = self.lock();
        let key = peer.info.public_key;
        if state.once_members.contains(&key) && !state.keys_of_members().contains(&key) {
            return Err(DeclareError::Removed(peer.node_id, key));
        }
        drop(state);
        self.declare(peer)
    }

    /// Whether a node could be declared.
    ///
    /// # Errors
    /// [`DeclareError`] if the ticket contradicts what is known.
    pub fn check(&self, peer: &Peer) -> Result<(), DeclareError> {
        self.lock().check(self.0.own, peer)
    }

    /// Forgets a declared node, unless it is a member.
    pub fn forget(&self, node_id: NodeId) {
        let mut state = self.lock();
        state.declared.remove(&node_id);
        if !state.belongs(node_id) {
            state.heard.remove(&node_id);
            state.hearsay.remove(&node_id);
        }
        drop(state);
        self.notify();
    }

    /// Recalls who was a member before this process started. Those who are none when the own log tells are
    /// forgotten as declared peers.
    pub fn recall_members(&self, keys: &[PublicKey]) {
        self.lock().remember_members(keys);
    }

    /// All who were members at some time, to be kept; who was it longest ago comes first.
    pub fn once_members(&self) -> Vec<PublicKey> {
        self.lock().once_members.clone()
    }

    /// Takes over the membership in the own log, and returns the keys of those who are no longer let in.
    pub fn set_members(&self, mut members: Members) -> Vec<PublicKey> {
        members.nodes.remove(&self.0.own.0);
        let mut state = self.lock();
        let mut before = state.keys_of_members();
        if members.log_id.is_some() {
            let declared = state.declared.values().map(|info| info.public_key);
            before.extend(declared.filter(|key| state.once_members.contains(key)));
        }
        if members.log_id >= state.vouched.log_id {
            state.vouched = Members::default();
        }
        state.members = members;
        let after = state.keys_of_members();
        let removed: Vec<PublicKey> = before.difference(&after).copied().collect();
        let after: Vec<PublicKey> = after.into_iter().collect();
        state.remember_members(&after);
        state.undeclare(&removed);
        state.publish_members();
        drop(state);
        self.notify();
        removed
    }

    /// The own state tells who was a member and is none; who was removed first comes first. Returns the keys of
    /// those who are no longer let in.
    ///
    /// It tells of those as well whom this node never knew as members, as it was caught up by a snapshot. What it
    /// has told before does not count against whoever was declared since.
    pub fn set_former_members(&self, told: &[PublicKey]) -> Vec<PublicKey> {
        let mut state = self.lock();
        let before = state.former.replace(told.iter().copied().collect()).unwrap_or_default();
        let members = state.keys_of_members();
        let is_news = |key: &&PublicKey| !before.contains(*key) && !members.contains(*key);
        let news: Vec<PublicKey> = told.iter().filter(is_news).copied().collect();
        state.remember_members(&news);
        // Those who are members now are forgotten last.
        let members: Vec<PublicKey> = members.into_iter().collect();
        state.remember_members(&members);
        let declared = state.declared.values().map(|info| info.public_key);
        let removed: Vec<PublicKey> = declared.filter(|key| news.contains(key)).collect();
        state.undeclare(&removed);
        drop(state);
        self.notify();
        removed
    }

    /// A member told who belongs to the cluster, which counts if the own log does not tell better.
    pub fn vouched(&self, by: NodeId, mut members: Members) {
        members.nodes.remove(&self.0.own.0);
        let mut state = self.lock();
        if !state.belongs(by) || members.log_id <= state.members.log_id.max(state.vouched.log_id) {
            return;
        }
        tracing::info!(peer = %by, "node {by} told of a newer membership than this node's log has yet");
        state.vouched = members;
        state.forget_what_strangers_said();
        state.publish_members();
        drop(state);
        self.notify();
    }

    /// The members, as far as they are known.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let state = self.lock();
        state.members.nodes.keys().chain(state.vouched.nodes.keys()).copied().collect()
    }

    /// Whether the key is a member's, rather than one that was only declared.
    pub(super) fn is_members(&self, key: &PublicKey) -> bool {
        let state = self.lock();
        let members = state.members.nodes.values().chain(state.vouched.nodes.values());
        members.into_iter().any(|info| info.public_key == *key)
    }

    /// Whether this node is alone in its cluster, and the key is not that of a former member: its owner knows
    /// this node from elsewhere.
    pub(super) fn is_alone_and_never_knew(&self, key: &PublicKey) -> bool {
        let state = self.lock();
        let is_alone = state.members.log_id.is_some() && state.ids().is_empty();
        is_alone && !state.once_members.contains(key)
    }

    /// Whether the owner of a key may read and write: a member, or a declared peer once this node's state tells
    /// who was removed from the cluster.
    pub(super) fn may_use_the_store(&self, key: &PublicKey) -> bool {
        let tells = self.lock().former.is_some();
        self.is_members(key) || tells && self.admitted(key).is_some()
    }

    /// The members should be asked: somebody unknown has called or is to be called, or a node does not
    /// answer where it was.
    pub(super) fn have_members_asked(&self) {
        self.0.question.notify_one();
    }

    /// Waits for a reason to ask the members.
    pub(super) async fn members_are_to_be_asked(&self) {
        self.0.question.notified().await;
    }

    /// A node said where it is now. Returns the addresses that it named the last time and names no more.
    pub fn heard_from(&self, node_id: NodeId, mut info: NodeInfo) -> Vec<SocketAddr> {
        let mut state = self.lock();
        let known = state.info(node_id).is_some_and(|known| known.public_key == info.public_key);
        if !known {
            return Vec::new();
        }
        info.addresses.truncate(limits::PEER_ADDRESSES_MAX_COUNT);
        let was_told = state.hearsay.remove(&node_id).is_some();
        let before = state.heard.insert(node_id, info.clone());
        if before.as_ref() == Some(&info) && !was_told {
            return Vec::new();
        }
        state.publish(node_id);
        drop(state);
        self.notify();
        let mut left = before.map_or_else(Vec::new, |before| before.addresses);
        left.retain(|addr| !info.addresses.contains(addr));
        left
    }

    /// Somebody else says where the owner of a key is. It counts only if it says something new, and only
    /// until the node says hello.
    pub(super) fn told_of(&self, key: &PublicKey, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut state = self.lock();
        let Some(node_id) = state.node_of(key) else { return };
        let Some(known) = state.merged(node_id) else { return };
        let addresses: Vec<SocketAddr> =
            addresses.into_iter().take(limits::PEER_ADDRESSES_MAX_COUNT).collect();
        if addresses.iter().all(|addr| known.addresses.contains(addr)) {
            return;
        }
        state.hearsay.insert(node_id, NodeInfo { public_key: *key, addresses, ..NodeInfo::default() });
        state.publish(node_id);
        drop(state);
        self.notify();
    }

    /// The owner of a key said which data directory it has.
    pub(super) fn met(&self, key: PublicKey, incarnation: u64) {
        let mut state = self.lock();
        state.met.insert(key, incarnation);
    }

    /// The data directory that the owner of a key has, if it has said hello since this process started.
    pub fn incarnation_of(&self, key: &PublicKey) -> Option<u64> {
        self.lock().met.get(key).copied()
    }

    /// The id of the node with this key, if it is let in.
    pub fn admitted(&self, key: &PublicKey) -> Option<NodeId> {
        self.lock().node_of(key)
    }

    /// Whether a known node has this address, by anybody's word.
    pub(super) fn is_known_address(&self, addr: &SocketAddr) -> bool {
        let state = self.lock();
        let State { declared, members, vouched, heard, .. } = &*state;
        let mut infos = declared
            .values()
            .chain(members.nodes.values())
            .chain(vouched.nodes.values())
            .chain(heard.values());
        infos.any(|info| info.addresses.contains(addr))
    }

    /// What is known of a node, with its newest addresses first.
    pub fn lookup(&self, node_id: NodeId) -> Option<Peer> {
        let state = self.lock();
        state.merged(node_id).map(|info| Peer { node_id, info })
    }

    /// All known nodes.
    pub fn all(&self) -> Vec<Peer> {
        let state = self.lock();
        state
            .ids()
            .into_iter()
            .filter_map(|node_id| state.merged(node_id).map(|info| Peer { node_id, info }))
            .collect()
    }

    /// What is known of the nodes without hearsay, to be kept.
    pub fn to_keep(&self) -> Vec<Peer> {
        let state = self.lock();
        let kept = state.ids().into_iter().filter_map(|node_id| state.first_hand(node_id));
        kept.collect()
    }

    /// What a node has said about itself since this process started.
    pub fn heard_of(&self, node_id: NodeId) -> Option<NodeInfo> {
        self.lock().heard.get(&node_id).cloned()
    }

    /// Tells of every change to the book.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// From now on, addresses go to where iroh looks them up.
    pub(super) fn publish_to(&self, lookup: MemoryLookup) {
        let mut state = self.lock();
        state.lookup = Some(lookup);
        for node_id in state.ids() {
            state.publish(node_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no code panics while it holds this lock")
    }

    fn notify(&self) {
        self.0.changed.send_replace(());
    }
}

impl State {
    fn check(&self, own: (NodeId, PublicKey), peer: &Peer) -> Result<(), DeclareError> {
        let (own_id, own_key) = own;
        let (node_id, given) = (peer.node_id, peer.info.public_key);
        if given == own_key {
            return Err(DeclareError::Own(own_id));
        }
        if node_id == own_id {
            return Err(DeclareError::OwnId(own_id));
        }
        if let Some(known) = self.info(node_id).filter(|known| known.public_key != given) {
            return Err(DeclareError::OtherKey { node_id, known: known.public_key, given });
        }
        if let Some(known) = self.node_of(&given).filter(|known| *known != node_id) {
            return Err(DeclareError::OtherId { key: given, known, given: node_id });
        }
        Ok(())
    }

    fn info(&self, node_id: NodeId) -> Option<&NodeInfo> {
        let Self { declared, members, vouched, .. } = self;
        members.nodes.get(&node_id).or_else(|| vouched.nodes.get(&node_id)).or_else(|| declared.get(&node_id))
    }

    fn belongs(&self, node_id: NodeId) -> bool {
        self.members.nodes.contains_key(&node_id) || self.vouched.nodes.contains_key(&node_id)
    }

    fn ids(&self) -> BTreeSet<NodeId> {
        let Self { declared, members, vouched, .. } = self;
        declared.keys().chain(members.nodes.keys()).chain(vouched.nodes.keys()).copied().collect()
    }

    fn keys_of_members(&self) -> BTreeSet<PublicKey> {
        let nodes = self.members.nodes.values().chain(self.vouched.nodes.values());
        nodes.map(|info| info.public_key).collect()
    }

    fn remember_members(&mut self, keys: &[PublicKey]) {
        self.once_members.retain(|known| !keys.contains(known));
        self.once_members.extend(keys);
        let excess = self.once_members.len().saturating_sub(limits::PEERS_MAX_COUNT);
        self.once_members.drain(..excess);
    }

    /// Forgets those who were removed.
    fn undeclare(&mut self, removed: &[PublicKey]) {
        self.declared.retain(|node_id, info| {
            let is_removed = removed.contains(&info.public_key);
            if is_removed {
                let why = DeclareError::Removed(*node_id, info.public_key);
                tracing::warn!(peer = %node_id, "a peer is let in no more: {why}");
            }
            !is_removed
        });
        self.met.retain(|key, _| !removed.contains(key));
        self.forget_what_strangers_said();
    }

    fn publish_members(&self) {
        for node_id in self.ids().into_iter().filter(|node_id| self.belongs(*node_id)) {
            self.publish(node_id);
        }
    }

    fn node_of(&self, key: &PublicKey) -> Option<NodeId> {
        let known = self.members.nodes.iter().chain(&self.vouched.nodes).chain(&self.declared);
        known.into_iter().find(|(_, info)| info.public_key == *key).map(|(node_id, _)| *node_id)
    }

    /// A node's info with the addresses that are newest in front of those it had before.
    fn merged(&self, node_id: NodeId) -> Option<NodeInfo> {
        self.joined(node_id, self.hearsay.get(&node_id))
    }

    /// The same without what others say of it.
    fn first_hand(&self, node_id: NodeId) -> Option<Peer> {
        self.joined(node_id, None).map(|info| Peer { node_id, info })
    }

    fn joined(&self, node_id: NodeId, hearsay: Option<&NodeInfo>) -> Option<NodeInfo> {
        let mut info = self.info(node_id)?.clone();
        let newer = [hearsay, self.heard.get(&node_id), self.declared.get(&node_id)];
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for addr in newer.into_iter().flatten().flat_map(|newer| &newer.addresses).chain(&info.addresses) {
            if !addresses.contains(addr) {
                addresses.push(*addr);
            }
        }
        // Each move leaves addresses behind, and each of them is tried.
        addresses.truncate(limits::PEER_ADDRESSES_MAX_COUNT);
        info.addresses = addresses;
        if let Some(heard) = self.heard.get(&node_id) {
            info.http_addr = heard.http_addr.or(info.http_addr);
            info.relay_url = heard.relay_url.clone().or(info.relay_url);
        }
        Some(info)
    }

    /// An id that comes back with another key is another node, somewhere else.
    fn forget_what_strangers_said(&mut self) {
        let (mut heard, mut hearsay) = (std::mem::take(&mut self.heard), std::mem::take(&mut self.hearsay));
        for said in [&mut heard, &mut hearsay] {
            said.retain(|node_id, said| {
                self.info(*node_id).is_some_and(|known| known.public_key == said.public_key)
            });
        }
        (self.heard, self.hearsay) = (heard, hearsay);
    }

    fn publish(&self, node_id: NodeId) {
        let (Some(lookup), Some(info)) = (&self.lookup, self.merged(node_id)) else { return };
        if let Some(addr) = endpoint_addr(&info) {
            lookup.set_endpoint_info(addr);
        }
    }
}

#[cfg(test)]
mod tests;
