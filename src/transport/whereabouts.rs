//! Where nodes are: this one tells all others whenever its addresses change, until each has heard it.
//!
//! A node that is not reached is called again and again, since it may be looking for this one where it is no
//! more. Those that were told are left alone.
//!
//! # Tiger Style
//! - One hello to a node is under way at a time, and there are [`limits::HELLO_RETRY_INTERVAL_MS`] between
//!   two.
//! - One line in the log when this node loses all others, and one when that is over.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use iroh::Watcher;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::Transport;
use super::gate::SeldomLine;
use super::relay::Paths;
use crate::kv::types::{NodeId, NodeInfo, Peer};
use crate::limits;

impl Transport {
    /// Yields whenever this node's addresses have changed since the last time, or since this was called.
    pub fn own_moves(&self) -> impl Stream<Item = ()> + Send + Unpin + use<> {
        // Once the endpoint is closed, its addresses never change again.
        self.0.endpoint.watch_addr().stream_updates_only().map(drop).chain(futures::stream::pending())
    }

    /// Keeps all known nodes told where this one is, and says so when none of them can be found. It never
    /// ends.
    pub async fn keep_in_touch(&self) {
        let mut changes = self.book().changes();
        let mut ticks = tokio::time::interval(Duration::from_millis(limits::LOST_CHECK_INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: BTreeMap<NodeId, AbortOnDropHandle<()>> = BTreeMap::new();
        let (mut trouble, mut unseen) = (None, SeldomLine::default());
        let mut pause = Duration::ZERO;
        loop {
            let known: Vec<NodeId> = self.book().all().into_iter().map(|peer| peer.node_id).collect();
            told.retain(|node_id, _| known.contains(node_id));
            for node_id in known {
                told.entry(node_id).or_insert_with(|| {
                    let transport = self.clone();
                    AbortOnDropHandle::new(tokio::spawn(async move {
                        tokio::time::sleep(pause).await;
                        transport.keep_told(node_id).await;
                    }))
                });
            }
            // A node that joins is known here a moment before it knows this one.
            pause = Duration::from_millis(limits::HELLO_RETRY_INTERVAL_MS);
            tokio::select! {
                _ = changes.changed() => {}
                _ = ticks.tick() => {
                    if let Err(error) = self.left_by_its_address()
                        && unseen.note(Instant::now()).is_some()
                    {
                        tracing::warn!("it cannot be seen whether the machine has the address that iroh_addr names, as no socket opens: {error}");
                    }
                    let now = self.what_keeps_it_from_all_others();
                    match &now {
                        Some(sentence) if trouble.is_none() => tracing::warn!("{sentence}"),
                        None if trouble.is_some() => tracing::info!("other nodes can be reached again"),
                        _ => {}
                    }
                    trouble = now;
                }
            }
        }
    }

    async fn keep_told(&self, node_id: NodeId) {
        let mut moves = self.own_moves();
        let mut changes = self.book().changes();
        loop {
            let Some(peer) = self.book().lookup(node_id) else { return };
            let own = self.own_peer().info;
            if self.0.links.is_told(peer.info.public_key, &own) {
                moves.next().await;
                continue;
            }
            match self.say_hello(&peer).await {
                // Where this one was away, others may have moved. Of two that did, the one that told this node
                // last learns from it where the other is.
                Ok(()) => self.book().have_members_asked(),
                // It says hello itself once it knows this node.
                Err(error) if error.is_refusal() => {
                    tracing::debug!(peer = %node_id, "node {node_id} was not told where this one is: {error}");
                    tokio::select! {
                        _ = moves.next() => {}
                        () = known_otherwise(&peer, &mut changes, self) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(peer = %node_id, "node {node_id} was not told where this one is: {error}");
                    tokio::time::sleep(Duration::from_millis(limits::HELLO_RETRY_INTERVAL_MS)).await;
                }
            }
        }
    }

    /// What keeps this node from all others, and what an operator can do about it.
    pub(super) fn what_keeps_it_from_all_others(&self) -> Option<String> {
        self.left_by_its_address().unwrap_or(None).or_else(|| self.lost())
    }

    /// An endpoint that was given an address stays there, also when the machine has another one.
    fn left_by_its_address(&self) -> io::Result<Option<String>> {
        let addr = self.0.reach.bind_addr;
        if self.0.reach.paths == Paths::RelayOnly || addr.ip().is_unspecified() {
            return Ok(None);
        }
        left_by(addr, UdpSocket::bind((addr.ip(), 0)).map(drop))
    }

    /// All members have been out of reach for a while.
    fn lost(&self) -> Option<String> {
        let members = self.book().members();
        let mut shortest = None;
        let mut places = Vec::new();
        for node_id in members {
            let Peer { info, .. } = self.book().lookup(node_id)?;
            if !self.connections_of(info.public_key).is_empty() {
                return None;
            }
            let lost = self.0.links.lost_for(node_id)?;
            shortest = Some(shortest.map_or(lost, |shortest: Duration| shortest.min(lost)));
            places.push(format!("node {node_id} at {}", addresses(&info)));
        }
        let for_s = shortest.filter(|time| time.as_millis() >= u128::from(limits::LOST_AFTER_MS))?.as_secs();
        Some(format!(
            "no other member has been reached for {for_s} s where it was last: {}. If they have moved, give this node the ticket that each of them has in the file `endpoint` now (`--peer`, or POST /peers); with iroh_mdns = true, nodes in one local network find each other",
            places.join("; ")
        ))
    }
}

/// Waits until a node is known by another key or at other addresses.
async fn known_otherwise(peer: &Peer, changes: &mut tokio::sync::watch::Receiver<()>, transport: &Transport) {
    let before = &peer.info;
    loop {
        let is_same =
            |info: &NodeInfo| info.addresses == before.addresses && info.public_key == before.public_key;
        if !transport.book().lookup(peer.node_id).is_some_and(|now| is_same(&now.info)) {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What it means whether a socket opens at an address. Only one error says that the machine does not have it; any
/// other, such as too many open files, says nothing about the address.
fn left_by(addr: SocketAddr, opened: io::Result<()>) -> io::Result<Option<String>> {
    let (ip, port) = (addr.ip(), addr.port());
    match opened {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(Some(format!(
            "the machine does not have the address {ip} any more that iroh_addr names, so no other node can be reached: set it to the new address, or to 0.0.0.0:{port}, which follows the machine's addresses, and restart this node"
        ))),
        Err(error) => Err(error),
    }
}

fn addresses(info: &NodeInfo) -> String {
    let mut addresses: Vec<String> = info.addresses.iter().map(ToString::to_string).collect();
    addresses.extend(info.relay_url.iter().map(|relay| format!("the relay {relay}")));
    if addresses.is_empty() { "no known address".to_owned() } else { addresses.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_the_machine_does_not_have_is_lost() {
        // For documentation: no machine has it.
        let addr: SocketAddr = "192.0.2.1:4601".parse().unwrap();
        let sentence = left_by(addr, UdpSocket::bind(addr).map(drop)).unwrap().unwrap();
        assert!(sentence.contains("does not have the address 192.0.2.1"), "{sentence}");
        assert!(sentence.contains("0.0.0.0:4601"), "{sentence}");
        assert_eq!(left_by(addr, Ok(())).unwrap(), None);
        for error in [rustix::io::Errno::MFILE, rustix::io::Errno::ACCESS, rustix::io::Errno::NOBUFS] {
            assert_eq!(left_by(addr, Err(error.into())).unwrap_err().kind(), io::Error::from(error).kind());
        }
    }
}
