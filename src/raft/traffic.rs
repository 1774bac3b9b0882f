//! What nodes ask of each other, as it is counted.
//!
//! The transport counts by it, and the simulated network names what it counts by it: a figure in the
//! report of a simulation is the figure that a node exports for the same event.
//!
//! # Tiger Style
//! The series are [`Traffic::all_series`], for ever: no label holds a node, a key or an address.

use metrics::Counter;

/// Answers of peers to Raft's messages, by kind and result. Must stay stable.
pub const RPCS_TOTAL: &str = "aspen_transport_rpcs_total";

/// Connections dialed, by result. Must stay stable.
pub const DIALS_TOTAL: &str = "aspen_transport_dials_total";

/// A message of Raft's that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// Entries for a follower's log.
    Append,
    /// A leader's sign of life.
    Heartbeat,
    /// A candidate asks whether it would get a vote.
    PreVote,
    /// A candidate asks for a vote.
    Vote,
    /// A leader hands over.
    TransferLeader,
    /// A snapshot for a follower.
    Snapshot,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Append, Self::Heartbeat, Self::PreVote, Self::Vote, Self::TransferLeader, Self::Snapshot];

    /// The label. Must stay stable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Heartbeat => "heartbeat",
            Self::PreVote => "pre_vote",
            Self::Vote => "vote",
            Self::TransferLeader => "transfer_leader",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Something that is counted when it has succeeded or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A connection was dialed, and its other end said hello.
    Dial,
    /// A message was sent to a peer, which answers.
    Rpc(Rpc),
}

impl Traffic {
    /// Counts it.
    pub fn count(self, is_ok: bool) {
        self.counter(is_ok).increment(1);
    }

    /// Begins something that is counted when it ends. Raft drops what takes it too long: that has failed.
    pub fn begin(self) -> Attempt {
        Attempt { traffic: self, is_ok: false }
    }

    /// Names all series to the registry, so that each is there before its first event: the first failure
    /// shows as an increase then.
    pub fn register_all() {
        for (traffic, is_ok) in Self::all() {
            traffic.counter(is_ok).increment(0);
        }
    }

    /// The series that it is counted in, as a node exports it.
    pub fn series(self, is_ok: bool) -> String {
        let result = result(is_ok);
        match self {
            Self::Dial => format!("{DIALS_TOTAL}{{result=\"{result}\"}}"),
            Self::Rpc(rpc) => format!("{RPCS_TOTAL}{{kind=\"{}\",result=\"{result}\"}}", rpc.name()),
        }
    }

    /// All series that there are.
    pub fn all_series() -> impl Iterator<Item = String> {
        Self::all().map(|(traffic, is_ok)| traffic.series(is_ok))
    }

    fn all() -> impl Iterator<Item = (Self, bool)> {
        let all = std::iter::once(Self::Dial).chain(Rpc::ALL.map(Self::Rpc));
        all.flat_map(|traffic| [(traffic, true), (traffic, false)])
    }

    fn counter(self, is_ok: bool) -> Counter {
        let result = result(is_ok);
        match self {
            Self::Dial => metrics::counter!(DIALS_TOTAL, "result" => result),
            Self::Rpc(rpc) => metrics::counter!(RPCS_TOTAL, "kind" => rpc.name(), "result" => result),
        }
    }
}

/// Something under way, which is counted once, when this is dropped.
#[derive(Debug)]
pub struct Attempt {
    traffic: Traffic,
    is_ok: bool,
}

impl Attempt {
    /// It has ended. Without this word it has failed.
    pub fn end(mut self, is_ok: bool) {
        self.is_ok = is_ok;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.traffic.count(self.is_ok);
    }
}

/// Must stay stable.
fn result(is_ok: bool) -> &'static str {
    if is_ok { "ok" } else { "failed" }
}
