//! Hosts of their own for nodes: network namespaces with addresses of their own, joined by a switch.
//!
//! The switch is one more namespace, with a bridge for each network, so nothing of all this shows on the
//! machine itself: addresses may repeat from test to test, and tests run side by side. It takes root and
//! `ip` of iproute2; without them the tests that need hosts say that they were skipped.
//!
//! What is cut is cut silently: packets go and never come, and no cable is seen to be pulled. What is far away
//! is so by the time that packets take.
//!
//! The data of their nodes is in memory: what is measured here is the network, and a disk that others keep busy
//! makes a sync, and with it each write and each start, take seconds.

mod door;
mod namespace;
mod wire;

use std::fs::File;
use std::net::Ipv4Addr;
use std::ops::{Index, IndexMut};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

pub use self::door::Door;
use self::namespace::Namespace;
use self::wire::Wire;
use super::disk::Disk;
use super::node::Node;
use super::skipped;

/// The MAC address of nobody: what is sent there is carried to all and taken by none.
const NOBODY: &str = "02:00:00:00:00:01";

/// How many hosts a network has room for.
const HOSTS_MAX_COUNT: u8 = 50;

/// What the nodes of a test may write, far above what they do.
const DISK_OPTIONS: &str = "size=512m";

/// Some hosts and what joins them, all of which go when this is dropped. Counted from 0.
pub struct Hosts {
    hosts: Vec<Host>,
    /// Before the switch, which they lead to.
    wires: Vec<Wire>,
    switch: Namespace,
    /// Unmounted before its place goes.
    _disk: Disk,
    place: TempDir,
}

/// One host.
pub struct Host {
    namespace: Namespace,
    /// The name of the switch's namespace.
    switch: String,
    /// Counted from 1, as it stands in the host's addresses.
    number: u8,
    links: Vec<Link>,
}

/// A host's way into one network. The host calls it `eth0` where it is the first.
struct Link {
    name: String,
    /// What the switch calls the other end.
    port: String,
    /// Where in the switch that end is plugged in, unless it is cut.
    bridge: String,
    /// The one that was given last comes last.
    addresses: Vec<Ipv4Addr>,
    /// Addresses that were ever given.
    given: u8,
}

impl Hosts {
    /// Makes hosts that all reach each other over one network. Absent, after a line that says so, where
    /// this is not permitted.
    pub fn make(count: u8, test: &str) -> Option<Self> {
        assert!(count <= HOSTS_MAX_COUNT, "a network has room for {HOSTS_MAX_COUNT} hosts");
        let switch = match Namespace::make("switch") {
            Ok(switch) => switch,
            Err(reason) => {
                skipped(test, &format!("needs root and iproute2: {reason}"));
                return None;
            }
        };
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = Disk::mount(place.path(), DISK_OPTIONS, test)?;
        let hosts = (1..=count).map(|number| Host::make(number, switch.name())).collect();
        let mut hosts = Self { hosts, wires: Vec::new(), switch, _disk: disk, place };
        hosts.add_network();
        Some(hosts)
    }

    /// A new directory in memory, for nodes that end before the hosts do.
    pub fn dir(&self) -> TempDir {
        TempDir::new_in(self.place.path()).expect("a directory can be made in memory")
    }

    /// All hosts.
    pub fn iter(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// Gives each host a link into one more network, under an address of that one.
    pub fn add_network(&mut self) {
        let network = self.hosts.first().map_or(0, |host| host.links.len());
        self.add_bridge(&bridge(network));
        for host in &mut self.hosts {
            host.add_link(network);
        }
    }

    fn add_bridge(&self, name: &str) {
        self.switch.ip(&["link", "add", name, "type", "bridge", "forward_delay", "0"]);
        self.switch.ip(&["link", "set", name, "up"]);
    }

    /// Whether hosts can be moved away from each other here; if not, after a line that says so.
    pub fn can_be_far_apart(test: &str) -> bool {
        let opened = File::options().read(true).write(true).open(wire::DEVICE);
        opened.map_err(|error| skipped(test, &format!("needs {}: {error}", wire::DEVICE))).is_ok()
    }

    /// Moves a host away from the others in the first network, for good: what it sends, and what it is sent, is
    /// under way for as long as this.
    pub fn move_away(&mut self, host: usize, delay: Duration) {
        let outpost = format!("far{host}");
        self.add_bridge(&outpost);
        self.wires.push(Wire::lay(&self.switch, [&outpost, &bridge(0)], delay));
        self.hosts[host].links[0].bridge = outpost;
        self.hosts[host].heal_in(0);
    }

    /// Cuts the direct way between two hosts, in both directions and for all addresses that they have now.
    /// Others still reach both.
    pub fn cut_between(&self, one: usize, other: usize) {
        self[one].lose_sight_of(&self[other]);
        self[other].lose_sight_of(&self[one]);
    }

    /// Takes back what [`Self::cut_between`] did.
    pub fn heal_between(&self, one: usize, other: usize) {
        self[one].find_again(&self[other]);
        self[other].find_again(&self[one]);
    }
}

impl Index<usize> for Hosts {
    type Output = Host;

    fn index(&self, index: usize) -> &Host {
        &self.hosts[index]
    }
}

impl IndexMut<usize> for Hosts {
    fn index_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }
}

impl Host {
    fn make(number: u8, switch: &str) -> Self {
        let namespace = Namespace::make(&format!("h{number}")).expect("a second namespace can be made");
        namespace.ip(&["link", "set", "lo", "up"]);
        Self { namespace, switch: switch.to_owned(), number, links: Vec::new() }
    }

    fn add_link(&mut self, network: usize) {
        let (name, port) = (format!("eth{network}"), format!("h{}-{network}", self.number));
        let (own, switch) = (self.namespace.name(), self.switch.as_str());
        let ends = ["link", "add", &name, "netns", own, "type", "veth", "peer", &port, "netns", switch];
        namespace::ip(&ends).expect("a link between two namespaces can be made");
        self.namespace.ip(&["link", "set", &name, "up"]);
        let bridge = bridge(network);
        self.on_switch(&["link", "set", &port, "master", &bridge, "up"]);
        self.links.push(Link { name, port, bridge, addresses: Vec::new(), given: 0 });
        self.add_address(network);
    }

    /// Its address in the first network; if it has several there, the one that it got last.
    pub fn address(&self) -> Ipv4Addr {
        self.address_in(0)
    }

    /// Its address in a network, counted from 0.
    pub fn address_in(&self, network: usize) -> Ipv4Addr {
        *self.links[network].addresses.last().expect("a host that is asked has an address")
    }

    /// Gives it one more address in a network, one that nobody had before.
    pub fn add_address(&mut self, network: usize) -> Ipv4Addr {
        let third = u8::try_from(network).expect("there are a few networks");
        let link = &mut self.links[network];
        let fourth = self.number + link.given * HOSTS_MAX_COUNT;
        let address = Ipv4Addr::new(10, 0, third, fourth);
        link.given += 1;
        link.addresses.push(address);
        self.namespace.ip(&["address", "add", &format!("{address}/24"), "dev", &link.name]);
        address
    }

    /// Takes an address away from it.
    pub fn remove_address(&mut self, address: Ipv4Addr) {
        let holds = |link: &&mut Link| link.addresses.contains(&address);
        let link = self.links.iter_mut().find(holds).expect("the host has this address");
        link.addresses.retain(|held| *held != address);
        self.namespace.ip(&["address", "del", &format!("{address}/24"), "dev", &link.name]);
    }

    /// Puts another address in the place of all that it has in the first network, as another lease would.
    pub fn readdress(&mut self) -> Ipv4Addr {
        for address in self.links[0].addresses.clone() {
            self.remove_address(address);
        }
        self.add_address(0)
    }

    /// Cuts it off from all others.
    pub fn cut(&self) {
        for network in 0..self.links.len() {
            self.cut_from(network);
        }
    }

    /// Takes back what [`Self::cut`] did.
    pub fn heal(&self) {
        for network in 0..self.links.len() {
            self.heal_in(network);
        }
    }

    /// Cuts it off from all others in one network.
    pub fn cut_from(&self, network: usize) {
        self.on_switch(&["link", "set", &self.links[network].port, "nomaster"]);
    }

    /// Takes back what [`Self::cut_from`] did.
    pub fn heal_in(&self, network: usize) {
        let Link { port, bridge, .. } = &self.links[network];
        self.on_switch(&["link", "set", port, "master", bridge]);
    }

    /// A node on this host, at UDP port `4600 + id` of all its addresses. Its HTTP API is on the host's
    /// loopback, and can be reached from the test under the same address, whatever is cut.
    pub fn node(&self, id: u64, base: &Path, flags: &[&str]) -> Node {
        let port = u16::try_from(4_600 + id).expect("ids of tests are small");
        Node::new(id, base, flags)
            .with_launcher(&self.launcher())
            .at_iroh_addr((Ipv4Addr::UNSPECIFIED, port).into())
            .behind(Door::into(&self.namespace))
    }

    /// Does something on this host. Sockets that are made, and programs that are started, stay there.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let enter = self.namespace.entrance();
        let there = move || {
            enter();
            act()
        };
        std::thread::scope(|scope| scope.spawn(there).join().expect("what is done on the host succeeds"))
    }

    fn launcher(&self) -> [&str; 4] {
        ["ip", "netns", "exec", self.namespace.name()]
    }

    fn lose_sight_of(&self, other: &Self) {
        self.at_neighbours(other, &["replace"], &["lladdr", NOBODY, "nud", "permanent"]);
    }

    fn find_again(&self, other: &Self) {
        self.at_neighbours(other, &["del"], &[]);
    }

    fn at_neighbours(&self, other: &Self, verb: &[&str], how: &[&str]) {
        for (own, theirs) in self.links.iter().zip(&other.links) {
            for address in &theirs.addresses {
                let address = address.to_string();
                let what: [&[&str]; 4] = [&["neigh"], verb, &[&address, "dev", &own.name], how];
                self.namespace.ip(&what.concat());
            }
        }
    }

    fn on_switch(&self, words: &[&str]) {
        let words = [&["-n", &self.switch], words].concat();
        namespace::ip(&words).unwrap_or_else(|reason| panic!("the switch of host {}: {reason}", self.number));
    }
}

fn bridge(network: usize) -> String {
    format!("br{network}")
}
