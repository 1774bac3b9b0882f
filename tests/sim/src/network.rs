//! The network between simulated nodes: what the real transport is to real ones.
//!
//! Messages make the round trip through their encoding. On one stream they stay in order; streams, and
//! requests with one answer, overtake each other. A link that is cut in one direction loses requests and
//! holds streams back, which their senders give up after a while; what they had sent may still arrive.
//! Each node lets in its members and those that were declared to it, and cuts a removed one off.
//!
//! # Tiger Style
//! Every wait for an answer has a bound, as in the real transport.

mod call;
mod counters;
mod forward;
mod peer;
mod snapshot;
mod station;
mod stream;
mod vouching;
mod weather;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use aspen::kv::types::NodeId;
use aspen::planted::{self, Bug};
use madsim::runtime::{Handle, NodeHandle};
use openraft::async_runtime::WatchReceiver;

pub use self::call::{CallError, ClientReply, ClientRequest};
pub use self::forward::SimulatedForwarder;
pub use self::peer::SimulatedNetwork;
pub use self::station::{Handlers, Members, Station};
pub use self::weather::Weather;
use crate::invariants::Event;
use crate::world::{World, lock};

/// Where clients are. It is no member of anything.
pub const CLIENTS: NodeId = NodeId(0);

/// Time to set a connection up.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Time without an answer after which a stream is given up.
const STALL_TIMEOUT: Duration = Duration::from_millis(400);

/// Time that a stream outlives a cut.
const IDLE_TIMEOUT: Duration = Duration::from_millis(2_000);

/// What a connection is for; each purpose has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Append,
    Control,
    Forward,
    Snapshot,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// Which processes of its two nodes a connection is between.
type Lives = (u64, u64);

struct Inner {
    world: World,
    /// Messages on their way belong to no node: they arrive although their sender is gone.
    way: NodeHandle,
    weather: Mutex<Weather>,
    stations: Mutex<BTreeMap<NodeId, Arc<Station>>>,
    /// Open connections.
    links: Mutex<BTreeMap<(NodeId, NodeId, Lane), Lives>>,
    streams: Mutex<Vec<Weak<stream::Session>>>,
}

impl Network {
    /// A network without nodes.
    pub fn new(world: World) -> Self {
        Self(Arc::new(Inner {
            world,
            way: Handle::current().create_node().name("network").build(),
            weather: Mutex::default(),
            stations: Mutex::default(),
            links: Mutex::default(),
            streams: Mutex::default(),
        }))
    }

    /// What the links are like.
    pub fn weather(&self) -> MutexGuard<'_, Weather> {
        lock(&self.0.weather)
    }

    /// Brings a node onto the network.
    pub fn connect_station(&self, station: Arc<Station>) {
        lock(&self.0.stations).insert(station.id(), station);
    }

    /// Takes a node off the network; its connections are gone.
    pub fn disconnect_station(&self, id: NodeId) {
        lock(&self.0.stations).remove(&id);
        lock(&self.0.links).retain(|(from, to, _), _| *from != id && *to != id);
    }

    /// Takes all nodes off, and ends what is on its way.
    pub fn close(&self) {
        lock(&self.0.stations).clear();
        Handle::current().kill(self.0.way.id());
    }

    /// Closes the connections between a node and another one that it does not let in any more.
    pub fn cut_off(&self, own: NodeId, removed: NodeId) {
        if planted::has(Bug::OldSessionAdmitted) {
            return;
        }
        let between = |from: NodeId, to: NodeId| (from, to) == (own, removed) || (from, to) == (removed, own);
        lock(&self.0.links).retain(|(from, to, _), _| !between(*from, *to));
        lock(&self.0.streams).retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            if between(stream.from, stream.to) {
                stream.close();
            }
            true
        });
    }

    fn station(&self, id: NodeId) -> Option<Arc<Station>> {
        lock(&self.0.stations).get(&id).cloned()
    }

    /// One message's way. Says whether it arrives.
    async fn hop(&self, from: NodeId, to: NodeId) -> bool {
        let delay = self.weather().draw_delay(from, to);
        madsim::time::sleep(delay).await;
        let weather = self.weather();
        !weather.is_cut(from, to) && !weather.draw_loss()
    }

    /// Makes sure of a connection, as a dial and a hello do.
    async fn connect(&self, from: NodeId, to: NodeId, lane: Lane) -> Result<(), String> {
        let own = self.station(from).ok_or("this node is off the network")?;
        let open = lock(&self.0.links).get(&(from, to, lane)).copied();
        let their_life = self.station(to).map(|station| station.life());
        if open.is_some() && open == their_life.map(|life| (own.life(), life)) {
            return Ok(());
        }
        let dialed = tokio::time::timeout(CONNECT_TIMEOUT, self.dial(&own, to)).await;
        let dialed = dialed.unwrap_or_else(|_| Err("no connection in time".to_owned()));
        self.count_dial(dialed.is_ok());
        let life = dialed?;
        lock(&self.0.links).insert((from, to, lane), (own.life(), life));
        Ok(())
    }

    async fn dial(&self, own: &Station, to: NodeId) -> Result<u64, String> {
        let from = own.id();
        if !own.admits(to) {
            self.ask_about_strangers(from);
            return Err("nothing is known about it".to_owned());
        }
        let lost = std::future::pending();
        if !self.hop(from, to).await {
            return lost.await;
        }
        let Some(theirs) = self.station(to).filter(|station| station.is_open()) else { return lost.await };
        if !theirs.admits(from) {
            self.ask_about_strangers(to);
            return Err("it refused the connection".to_owned());
        }
        if !self.hop(to, from).await {
            return lost.await;
        }
        Ok(theirs.life())
    }

    fn drop_link(&self, from: NodeId, to: NodeId, lane: Lane) {
        lock(&self.0.links).remove(&(from, to, lane));
    }

    /// Where a message that has arrived is handled, if its target still runs.
    fn arrive(&self, from: NodeId, to: NodeId, kind: &'static str) -> Option<(NodeHandle, Handlers)> {
        let station = self.station(to)?;
        let handlers = station.handlers()?;
        // What a removed node had sent goes down with its connections.
        if from != CLIENTS && !station.admits(from) && !planted::has(Bug::OldSessionAdmitted) {
            return None;
        }
        self.0.world.note(to, format_args!("{kind} from n{from}"));
        if from != CLIENTS {
            // The log can name it since the last look at all nodes.
            let is_member =
                handlers.raft.metrics().borrow_watched().membership_config.get_node(&from).is_some();
            let is_declared = is_member || station.has_declared(from);
            self.0.world.saw(&Event::Delivered { from, to, kind, is_declared });
        }
        Some((Handle::current().get_node(node_name(to).as_str())?, handlers))
    }
}

/// The name of a node in the simulator.
pub fn node_name(id: NodeId) -> String {
    format!("n{id}")
}

fn encode(message: &impl serde::Serialize) -> bytes::Bytes {
    postcard::to_stdvec(message).expect("messages have only types that postcard can encode").into()
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("what was encoded can be decoded")
}
