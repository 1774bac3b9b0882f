//! The first exchange on every connection: both sides say who they are and which cluster they belong
//! to, and either may refuse.

use std::net::SocketAddr;

use iroh::TransportAddr;
use iroh::endpoint::Connection;

use super::Transport;
use super::protocol::{Hello, Refusal, Welcome};
use super::ticket::public_key;
use crate::kv::types::{ClusterId, NodeId, Peer, PublicKey};

impl Transport {
    /// What this node says first on a connection to `target`.
    pub(super) fn hello(&self, target: NodeId) -> Hello {
        let Peer { node_id, info } = self.own_peer();
        Hello {
            node_id,
            target,
            cluster_id: self.0.metadata.cluster_id(),
            info,
            boot: self.0.boot,
            incarnation: self.0.metadata.incarnation(),
        }
    }

    /// Decides on a hello that came in.
    pub(super) fn receive_hello(&self, connection: &Connection, hello: Hello) -> Result<Welcome, Refusal> {
        let key = public_key(&connection.remote_id());
        let known = self.0.book.admitted(&key).ok_or(Refusal::Unknown)?;
        if !self.0.guests.admits(&key, connection.alpn()) {
            return Err(Refusal::Unknown);
        }
        let own = self.node_id();
        if known != hello.node_id {
            return Err(Refusal::NotYou { known, claimed: hello.node_id });
        }
        if hello.target != own {
            return Err(Refusal::NotMe { own, asked: hello.target });
        }
        self.check_incarnation(known, &key, hello.incarnation)?;
        self.agree_on_cluster(hello.cluster_id)?;
        let mut left = Vec::new();
        if hello.info.public_key == key {
            left = self.0.book.heard_from(known, hello.info);
        }
        if self.close_former_process(key, hello.boot) || self.close_where_it_left(key, &left) {
            return Err(Refusal::Restarted);
        }
        Ok(Welcome {
            node_id: own,
            cluster_id: self.0.metadata.cluster_id(),
            info: self.own_peer().info,
            incarnation: self.0.metadata.incarnation(),
        })
    }

    /// Closes what another process with this key has left open; true if there was something.
    ///
    /// iroh sends to a peer's one selected path until the last connection to it is closed. Those of a
    /// process that is gone would keep its old address selected, and swallow requests besides.
    pub(super) fn close_former_process(&self, key: PublicKey, boot: u64) -> bool {
        let left_open = self.0.links.is_new_boot(key, boot) && !self.0.links.connections_of(key).is_empty();
        if left_open {
            self.0.links.close_all_of(key, b"another process with this key came");
        }
        left_open
    }

    /// Closes the connections of a node that has left the addresses which one of them leads to; true if there
    /// was one. All of them, for the same reason as above: only then does iroh look for another path.
    fn close_where_it_left(&self, key: PublicKey, left: &[SocketAddr]) -> bool {
        if left.is_empty() {
            return false;
        }
        let leads_there = |connection: &Connection| {
            let paths = connection.paths();
            paths.iter().any(|path| matches!(path.remote_addr(), TransportAddr::Ip(ip) if left.contains(ip)))
        };
        let is_in_the_way = self.0.links.connections_of(key).iter().any(leads_there);
        if is_in_the_way {
            self.0.links.close_all_of(key, b"the node that this led to is elsewhere");
        }
        is_in_the_way
    }

    /// Checks the answer to a hello of this node.
    pub(super) fn receive_welcome(
        &self,
        connection: &Connection,
        target: NodeId,
        welcome: Welcome,
    ) -> Result<(), Refusal> {
        let key = public_key(&connection.remote_id());
        if welcome.node_id != target {
            return Err(Refusal::NotMe { own: welcome.node_id, asked: target });
        }
        // A node adopts a cluster when that cluster calls it, not when it calls somebody.
        if let (Some(own), Some(theirs)) = (self.0.metadata.cluster_id(), welcome.cluster_id)
            && own != theirs
        {
            return Err(Refusal::OtherCluster { own: theirs, theirs: own });
        }
        self.check_incarnation(target, &key, welcome.incarnation)?;
        if welcome.info.public_key == key {
            self.0.book.heard_from(target, welcome.info);
        }
        Ok(())
    }

    /// A node that lost its disk has forgotten its votes and what it acknowledged: under its old id it would
    /// count for what it no longer has.
    fn check_incarnation(&self, node_id: NodeId, key: &PublicKey, given: u64) -> Result<(), Refusal> {
        match self.known_incarnation(node_id, key) {
            Some(known) if known != given => Err(Refusal::OtherIncarnation { node_id }),
            _ => {
                self.0.book.met(*key, given);
                Ok(())
            }
        }
    }

    /// The data directory that a member is known by.
    fn known_incarnation(&self, node_id: NodeId, key: &PublicKey) -> Option<u64> {
        let admitted = self.0.reader.get().and_then(|reader| reader.admitted().ok()).unwrap_or_default();
        // Until the state tells of anybody, the founding does.
        if admitted.is_empty() {
            return self.0.metadata.founding()?.incarnation_of(node_id, key);
        }
        let known = admitted.into_iter().find(|(id, known)| (*id, &known.public_key) == (node_id, key));
        known.map(|(_, known)| known.incarnation)
    }

    /// A node without a cluster joins that of the peer which calls it, durably before it answers.
    fn agree_on_cluster(&self, theirs: Option<ClusterId>) -> Result<(), Refusal> {
        match (self.0.metadata.cluster_id(), theirs) {
            (_, None) => Ok(()),
            (Some(own), Some(theirs)) if own == theirs => Ok(()),
            (Some(own), Some(theirs)) => Err(Refusal::OtherCluster { own, theirs }),
            (None, Some(theirs)) => {
                let adopted = self.0.metadata.adopt_cluster_id(theirs);
                adopted.map_err(|error| Refusal::NotNoted(error.to_string()))?;
                tracing::info!(cluster_id = %theirs, "this node now belongs to cluster {theirs}");
                Ok(())
            }
        }
    }
}
