//! What can go wrong on the network, as a test asks for it.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use aspen::kv::types::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::AspenRouter;
use super::rpc::{Rpc, RpcKind};

/// How an RPC, or its answer, fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other node is not there: Raft leaves it alone for a while.
    Unreachable,
    /// The message is lost: Raft tries again at once.
    Lost,
}

/// What a hook decides about an RPC, or about its answer.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It fails.
    Fail(Failure),
    /// It goes on once the gate is open.
    Hold(Gate),
}

/// Holds RPCs up until it is opened, which it stays.
#[derive(Clone, Debug, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    /// Lets everything through that waits, and all that comes.
    pub fn open(&self) {
        self.0.cancel();
    }

    pub(super) async fn pass(&self) {
        self.0.cancelled().await;
    }
}

type Hook = Box<dyn FnMut(&Rpc) -> Fate + Send>;

/// All that can go wrong.
pub struct Faults {
    rng: StdRng,
    isolated: BTreeSet<NodeId>,
    links: HashMap<(NodeId, NodeId), Link>,
    failures: Vec<Injected>,
    before: Vec<Hook>,
    after: Vec<Hook>,
    quotas: HashMap<NodeId, u64>,
    snapshot_pieces: HashMap<NodeId, u64>,
    crossed: HashMap<NodeId, NodeId>,
    shut_out: BTreeSet<NodeId>,
}

/// The state of one direction between two nodes.
#[derive(Clone, Debug, Default)]
struct Link {
    is_cut: bool,
    loss: f64,
    delay_ms: Option<RangeInclusive<u64>>,
}

/// A failure of RPCs of one kind to one node.
#[derive(Clone, Copy, Debug)]
struct Injected {
    to: NodeId,
    kind: RpcKind,
    failure: Failure,
    /// Absent: for good.
    times: Option<u64>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            isolated: BTreeSet::new(),
            links: HashMap::new(),
            failures: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            quotas: HashMap::new(),
            snapshot_pieces: HashMap::new(),
            crossed: HashMap::new(),
            shut_out: BTreeSet::new(),
        }
    }

    /// Whether nothing gets from one node to another.
    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.isolated.contains(&from)
            || self.isolated.contains(&to)
            || self.links.get(&(from, to)).is_some_and(|link| link.is_cut)
    }

    /// Draws how long a message takes, or that it does not arrive.
    pub(super) fn draw(&mut self, from: NodeId, to: NodeId) -> Result<Duration, Failure> {
        if self.is_cut(from, to) {
            return Err(Failure::Unreachable);
        }
        let Some(link) = self.links.get(&(from, to)) else { return Ok(Duration::ZERO) };
        if link.loss > 0.0 && self.rng.random_bool(link.loss) {
            return Err(Failure::Lost);
        }
        let delay_ms = link.delay_ms.clone().map_or(0, |range| self.rng.random_range(range));
        Ok(Duration::from_millis(delay_ms))
    }

    /// What is injected for an RPC, and what the hooks say.
    pub(super) fn fate_before(&mut self, rpc: &Rpc) -> Vec<Fate> {
        let mut fates: Vec<_> = self.before.iter_mut().map(|hook| hook(rpc)).collect();
        let wanted = |injected: &&mut Injected| injected.to == rpc.to && injected.kind == rpc.kind();
        if let Some(injected) = self.failures.iter_mut().find(wanted) {
            fates.push(Fate::Fail(injected.failure));
            injected.times = injected.times.map(|times| times - 1);
        }
        self.failures.retain(|injected| injected.times != Some(0));
        fates
    }

    pub(super) fn fate_after(&mut self, rpc: &Rpc) -> Vec<Fate> {
        self.after.iter_mut().map(|hook| hook(rpc)).collect()
    }

    /// Whether a node may have the entry with this index.
    pub(super) fn is_within_quota(&self, to: NodeId, index: u64) -> bool {
        self.quotas.get(&to).is_none_or(|last| index <= *last)
    }

    /// Takes a piece of a snapshot out of what may still reach a node. The fault ends when it strikes.
    pub(super) fn take_snapshot_piece(&mut self, from: NodeId, to: NodeId) -> Result<(), Failure> {
        if self.is_cut(from, to) {
            return Err(Failure::Unreachable);
        }
        match self.snapshot_pieces.get_mut(&to) {
            None => Ok(()),
            Some(0) => {
                self.snapshot_pieces.remove(&to);
                Err(Failure::Lost)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// The node at which RPCs to this one come out.
    pub(super) fn end_of_wire(&self, to: NodeId) -> NodeId {
        self.crossed.get(&to).copied().unwrap_or(to)
    }

    /// Whether all others turn a node away.
    pub(super) fn is_shut_out(&self, id: NodeId) -> bool {
        self.shut_out.contains(&id)
    }

    fn link(&mut self, from: u64, to: u64) -> &mut Link {
        self.links.entry((NodeId(from), NodeId(to))).or_default()
    }
}

/// Faults that a test turns on and off.
impl AspenRouter {
    /// Cuts one direction: requests of `from` do not get to `to`, nor do its answers.
    pub fn cut(&self, from: u64, to: u64) {
        self.fabric.faults().link(from, to).is_cut = true;
    }

    /// Mends one direction.
    pub fn mend(&self, from: u64, to: u64) {
        self.fabric.faults().link(from, to).is_cut = false;
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, id: u64) {
        self.fabric.faults().isolated.insert(NodeId(id));
    }

    /// Ends a node's isolation.
    pub fn rejoin(&self, id: u64) {
        self.fabric.faults().isolated.remove(&NodeId(id));
    }

    /// Cuts a node off from all others, who tell it that they do not let it in.
    pub fn shut_out(&self, id: u64) {
        let mut faults = self.fabric.faults();
        faults.isolated.insert(NodeId(id));
        faults.shut_out.insert(NodeId(id));
    }

    /// Makes each message from one node to another take a time from this range.
    pub fn delay(&self, from: u64, to: u64, delay_ms: RangeInclusive<u64>) {
        self.fabric.faults().link(from, to).delay_ms = Some(delay_ms);
    }

    /// Loses messages from one node to another with this probability.
    pub fn lose(&self, from: u64, to: u64, probability: f64) {
        self.fabric.faults().link(from, to).loss = probability;
    }

    /// Fails RPCs of a kind to a node, so many times or for good.
    pub fn fail(&self, to: u64, kind: RpcKind, failure: Failure, times: Option<u64>) {
        let injected = Injected { to: NodeId(to), kind, failure, times };
        self.fabric.faults().failures.push(injected);
    }

    /// Ends all failures that were asked for by [`Self::fail`].
    pub fn stop_failing(&self) {
        self.fabric.faults().failures.clear();
    }

    /// Lets a hook decide about each RPC before it is sent.
    pub fn before(&self, hook: impl FnMut(&Rpc) -> Fate + Send + 'static) {
        self.fabric.faults().before.push(Box::new(hook));
    }

    /// Lets a hook decide about the answer to each RPC that was served.
    pub fn after(&self, hook: impl FnMut(&Rpc) -> Fate + Send + 'static) {
        self.fabric.faults().after.push(Box::new(hook));
    }

    /// Removes all hooks.
    pub fn unhook(&self) {
        let mut faults = self.fabric.faults();
        faults.before.clear();
        faults.after.clear();
    }

    /// Holds up RPCs of a kind to a node until the gate is opened.
    pub fn hold(&self, to: u64, kind: RpcKind) -> Gate {
        let gate = Gate::default();
        let held = gate.clone();
        self.before(move |rpc| {
            if rpc.to == NodeId(to) && rpc.kind() == kind { Fate::Hold(held.clone()) } else { Fate::Pass }
        });
        gate
    }

    /// Lets a node have entries up to this index only, however often they are sent: an append with more is
    /// accepted in part.
    pub fn quota(&self, to: u64, last: u64) {
        self.fabric.faults().quotas.insert(NodeId(to), last);
    }

    /// Ends a node's quota.
    pub fn lift_quota(&self, to: u64) {
        self.fabric.faults().quotas.remove(&NodeId(to));
    }

    /// Breaks the next snapshot to a node off after so many pieces.
    pub fn break_snapshot(&self, to: u64, pieces: u64) {
        self.fabric.faults().snapshot_pieces.insert(NodeId(to), pieces);
    }

    /// Draws the fates of messages on a link as sending them would.
    pub fn draws(&self, from: u64, to: u64, messages: usize) -> Vec<Result<Duration, Failure>> {
        let mut faults = self.fabric.faults();
        (0..messages).map(|_| faults.draw(NodeId(from), NodeId(to))).collect()
    }

    /// Crosses the wires of two nodes: what is sent to one comes out at the other.
    pub fn cross(&self, one: u64, other: u64) {
        let mut faults = self.fabric.faults();
        faults.crossed.insert(NodeId(one), NodeId(other));
        faults.crossed.insert(NodeId(other), NodeId(one));
    }

    /// Puts crossed wires in order.
    pub fn uncross(&self) {
        self.fabric.faults().crossed.clear();
    }
}
