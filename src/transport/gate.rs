//! The gate in front of the door: who may begin a handshake.
//!
//! A handshake costs both sides about a millisecond of a processor, and iroh remembers for a minute whom it
//! was with, before anybody knows whether the key is let in. So whoever has turned out to be a stranger uses
//! up what is allowed to strangers, from where it came and altogether; once that is gone, connections from
//! there are refused by their first packet. Known nodes are never refused for what a stranger does, though
//! it may be behind the same address. Whoever begins a handshake and leaves it there is a stranger as well.
//!
//! # Tiger Style
//! - At most [`limits::WIRE_HANDSHAKES_MAX_COUNT`] handshakes are under way, of which
//!   [`limits::WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT`] are with one source. From half of either on, callers
//!   first have to show that they can be reached where they say; nothing is kept of those who cannot.
//! - Another [`limits::WIRE_HANDSHAKES_OF_KNOWN_MAX_COUNT`] are for addresses at which nodes are known, once
//!   all of the others are taken.
//! - A source has a stranger turned away once in [`limits::STRANGER_SOURCE_INTERVAL_MS`], all of them
//!   together once in [`limits::STRANGER_INTERVAL_MS`], each after a number at once.
//! - At most [`limits::STRANGER_SOURCES_MAX_COUNT`] sources are remembered of either kind.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::places::{Place, Places};
use crate::limits;
use iroh::endpoint::IncomingAddr;

/// Where a connection comes from, as far as it tells who it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An address; of version 6 the network, in which a machine takes addresses as it likes.
    Ip(IpAddr),
    /// A relay, which hides where whoever comes through it is.
    Relay,
}

impl Source {
    /// Where a connection comes from.
    pub(super) fn of(addr: &IncomingAddr) -> Self {
        match addr {
            IncomingAddr::Ip(addr) => Self::at(*addr),
            _ => Self::Relay,
        }
    }

    /// What an address stands for.
    pub(super) fn at(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V6(ip) => Self::Ip(IpAddr::V6(network(ip))),
            v4 => Self::Ip(v4),
        }
    }
}

/// The upper half, which is what a site is given.
fn network(ip: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)
}

/// What is to become of a connection.
#[derive(Debug)]
pub(super) enum Entry {
    /// It may have its handshake while this is held.
    Granted(Place),
    /// It has to show first that it can be reached where it comes from.
    Unproven,
    /// Too many strangers came from there.
    Refused,
    /// There is no room.
    Full,
}

/// Who may begin a handshake.
#[derive(Debug)]
pub(super) struct Gate {
    handshakes: Places,
    /// Those that are left for nodes that are known where they are.
    of_known: Places,
    strangers: Mutex<Strangers>,
}

#[derive(Debug)]
struct Strangers {
    all: Debt,
    sources: HashMap<Source, Debt>,
    /// Where somebody came from who was let in.
    welcome: HashSet<Source>,
    line: SeldomLine,
}

/// A line in the log about what strangers may cause as often as they like: it is written once in a while, with
/// their number.
#[derive(Debug, Default)]
pub(super) struct SeldomLine {
    since: u64,
    last: Option<Instant>,
}

impl SeldomLine {
    /// Notes one more, and says how many there were since the last line if one is due.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        let interval = Duration::from_millis(limits::STRANGER_LOG_INTERVAL_MS);
        self.since += 1;
        if self.last.is_some_and(|at| now.saturating_duration_since(at) < interval) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// Strangers that were turned away, as the time by which another one may be.
#[derive(Clone, Copy, Debug)]
struct Debt(Instant);

impl Debt {
    fn add(&mut self, now: Instant, each_ms: u64) {
        self.0 = self.0.max(now) + Duration::from_millis(each_ms);
    }

    fn is_above(self, now: Instant, count: u64, each_ms: u64) -> bool {
        self.0.saturating_duration_since(now) >= Duration::from_millis(count * each_ms)
    }
}

impl Gate {
    pub(super) fn new() -> Self {
        let strangers = Strangers {
            all: Debt(Instant::now()),
            sources: HashMap::new(),
            welcome: HashSet::new(),
            line: SeldomLine::default(),
        };
        let of_known = limits::WIRE_HANDSHAKES_OF_KNOWN_MAX_COUNT;
        Self {
            handshakes: Places::new(
                limits::WIRE_HANDSHAKES_MAX_COUNT,
                limits::WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT,
            ),
            // All members may be behind one address.
            of_known: Places::new(of_known, of_known),
            strangers: Mutex::new(strangers),
        }
    }

    /// Decides on a connection. `is_known` says whether a known node is at its address, and is asked only
    /// where that matters.
    pub(super) fn knock(
        &self,
        source: Source,
        is_proven: bool,
        now: Instant,
        is_known: impl Fn() -> bool,
    ) -> Entry {
        if self.has_enough_of(source, now) && !is_known() {
            return Entry::Refused;
        }
        if !is_proven && self.handshakes.are_half_taken(source) {
            return Entry::Unproven;
        }
        let place = self.handshakes.take(source).or_else(|| {
            // Whoever comes here has shown where it is, so nobody takes these in a node's name.
            if is_known() { self.of_known.take(source) } else { None }
        });
        place.map_or(Entry::Full, Entry::Granted)
    }

    fn has_enough_of(&self, source: Source, now: Instant) -> bool {
        let strangers = self.lock();
        let of_source = strangers.sources.get(&source).is_some_and(|debt| {
            debt.is_above(now, limits::STRANGERS_OF_SOURCE_MAX_COUNT, limits::STRANGER_SOURCE_INTERVAL_MS)
        });
        let of_all = strangers.all.is_above(now, limits::STRANGERS_MAX_COUNT, limits::STRANGER_INTERVAL_MS);
        of_source || of_all && !strangers.welcome.contains(&source)
    }

    /// Notes that whoever came from there was turned away.
    pub(super) fn note_stranger(&self, source: Source, now: Instant) {
        let mut strangers = self.lock();
        strangers.all.add(now, limits::STRANGER_INTERVAL_MS);
        if strangers.sources.len() >= limits::STRANGER_SOURCES_MAX_COUNT {
            strangers.sources.retain(|_, debt| debt.0 > now);
        }
        // Beyond that they are only counted among all.
        if strangers.sources.len() < limits::STRANGER_SOURCES_MAX_COUNT
            || strangers.sources.contains_key(&source)
        {
            let debt = strangers.sources.entry(source).or_insert(Debt(now));
            debt.add(now, limits::STRANGER_SOURCE_INTERVAL_MS);
        }
    }

    /// Notes that whoever came from there was let in.
    pub(super) fn note_guest(&self, source: Source) {
        let mut strangers = self.lock();
        if strangers.welcome.len() < limits::STRANGER_SOURCES_MAX_COUNT {
            strangers.welcome.insert(source);
        }
    }

    /// Notes a refusal, and says how many there were since the last line if one is due.
    pub(super) fn note_refusal(&self, now: Instant) -> Option<u64> {
        self.lock().line.note(now)
    }

    fn lock(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_SOURCE: u64 = limits::STRANGERS_OF_SOURCE_MAX_COUNT;
    const ALL: u64 = limits::STRANGERS_MAX_COUNT;

    fn source(number: u32) -> Source {
        Source::Ip(IpAddr::V4((0x0a00_0000 + number).into()))
    }

    fn is_granted(gate: &Gate, source: Source, now: Instant) -> bool {
        matches!(gate.knock(source, true, now, || false), Entry::Granted(_))
    }

    #[test]
    fn a_source_of_strangers_is_refused_until_its_time_is_served_and_others_are_not() {
        let (gate, now) = (Gate::new(), Instant::now());
        for _ in 0..OF_SOURCE {
            assert!(is_granted(&gate, source(1), now));
            gate.note_stranger(source(1), now);
        }
        assert!(matches!(gate.knock(source(1), true, now, || false), Entry::Refused));
        assert!(matches!(gate.knock(source(1), true, now, || true), Entry::Granted(_)), "a known node there");
        assert!(is_granted(&gate, source(2), now));
        assert!(is_granted(&gate, Source::Relay, now));

        let later = now + Duration::from_millis(limits::STRANGER_SOURCE_INTERVAL_MS);
        assert!(is_granted(&gate, source(1), later), "one more has its turn");
        gate.note_stranger(source(1), later);
        assert!(!is_granted(&gate, source(1), later));
    }

    #[test]
    fn strangers_from_everywhere_are_refused_but_not_where_somebody_was_let_in() {
        let (gate, now) = (Gate::new(), Instant::now());
        gate.note_guest(source(0));
        for number in 1..=u32::try_from(ALL).unwrap() {
            assert!(is_granted(&gate, source(number), now));
            gate.note_stranger(source(number), now);
        }
        assert!(!is_granted(&gate, source(1_000_000), now));
        assert!(is_granted(&gate, source(0), now));
        assert!(is_granted(
            &gate,
            source(1_000_000),
            now + Duration::from_millis(limits::STRANGER_INTERVAL_MS)
        ));
        let sources = gate.lock().sources.len();
        assert!(sources <= limits::STRANGER_SOURCES_MAX_COUNT, "{sources}");
    }

    /// All handshakes that are granted to callers from these sources, one after the other.
    fn fill(gate: &Gate, sources: impl Iterator<Item = u32>, is_proven: bool, is_known: bool) -> Vec<Place> {
        let granted = sources.map_while(|number| {
            match gate.knock(source(number), is_proven, Instant::now(), || is_known) {
                Entry::Granted(place) => Some(place),
                _ => None,
            }
        });
        granted.collect()
    }

    #[test]
    fn callers_show_where_they_are_once_many_handshakes_are_under_way() {
        let (gate, now) = (Gate::new(), Instant::now());
        let knock = |is_proven| gate.knock(source(0), is_proven, now, || false);
        let mut under_way = fill(&gate, 1.., false, false);
        assert_eq!(under_way.len(), limits::WIRE_HANDSHAKES_MAX_COUNT / 2);
        assert!(matches!(knock(false), Entry::Unproven));
        under_way.extend(fill(&gate, 1.., true, false));
        assert_eq!(under_way.len(), limits::WIRE_HANDSHAKES_MAX_COUNT);
        assert!(matches!(knock(true), Entry::Full));
        drop(under_way);
        assert!(matches!(knock(false), Entry::Granted(_)));
    }

    #[test]
    fn one_source_takes_its_part_of_the_handshakes_and_the_latter_half_of_it_proven() {
        let gate = Gate::new();
        let of_one = || std::iter::repeat(1);
        let mut under_way = fill(&gate, of_one(), false, false);
        assert_eq!(under_way.len(), limits::WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT / 2);
        under_way.extend(fill(&gate, of_one(), true, false));
        assert_eq!(under_way.len(), limits::WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT);
        assert!(matches!(gate.knock(source(1), true, Instant::now(), || false), Entry::Full));
        assert!(is_granted(&gate, source(2), Instant::now()));
        assert!(matches!(gate.knock(source(1), true, Instant::now(), || true), Entry::Granted(_)));
    }

    #[test]
    fn known_nodes_have_their_handshakes_when_strangers_have_all_others() {
        let (gate, now) = (Gate::new(), Instant::now());
        let strangers = fill(&gate, 1.., true, false);
        assert_eq!(strangers.len(), limits::WIRE_HANDSHAKES_MAX_COUNT);
        assert!(matches!(gate.knock(source(0), false, now, || true), Entry::Unproven), "anybody may say so");
        let known = fill(&gate, std::iter::repeat(0), true, true);
        assert_eq!(known.len(), limits::WIRE_HANDSHAKES_OF_KNOWN_MAX_COUNT);
        assert!(matches!(gate.knock(source(0), true, now, || true), Entry::Full));
        drop(known);
        assert!(matches!(gate.knock(source(0), true, now, || false), Entry::Full), "they are left for nodes");
        assert!(matches!(gate.knock(source(0), true, now, || true), Entry::Granted(_)));
    }

    #[test]
    fn refusals_are_worth_a_line_once_in_a_while_which_counts_them() {
        let (gate, now) = (Gate::new(), Instant::now());
        assert_eq!(gate.note_refusal(now), Some(1));
        for _ in 0..9 {
            assert_eq!(gate.note_refusal(now), None);
        }
        let later = now + Duration::from_millis(limits::STRANGER_LOG_INTERVAL_MS);
        assert_eq!(gate.note_refusal(later), Some(10));
    }

    #[test]
    fn an_address_of_version_6_stands_for_its_network_and_a_mapped_one_for_itself() {
        let of = |addr: &str| Source::of(&IncomingAddr::Ip(addr.parse().unwrap()));
        assert_eq!(of("[2001:db8:1:2:3::4]:1"), of("[2001:db8:1:2::9]:2"));
        assert_ne!(of("[2001:db8:1:2::4]:1"), of("[2001:db8:1:3::4]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:2"));
    }
}
