//! What clients know for certain, held against what they are told.
//!
//! - A linearizable read, and a write, sees every revision that was acknowledged before it began.
//! - A value has one revision, and a revision one acknowledged write.
//! - A key that one client counts on has as many versions as writes were acknowledged, and at most those
//!   of unknown outcome more.
//! - Two keys that are always written together are always read equal.
//! - The operations on each register are linearizable (see [`crate::history`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aspen::kv::types::{KeyValue, NodeId, ReadReply, Revision, WriteReply};

use crate::history::{History, RegisterOp};
use crate::world::Violation;

/// A stale read may be older than it says by the time that messages take, and by a pause of its node:
/// neither can be known to it.
const STALENESS_SLACK: Duration = Duration::from_secs(10);

/// What was certain when an operation began.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    /// The newest revision that was acknowledged to anyone.
    floor: Revision,
    at: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    newest: Revision,
    /// When each new revision was acknowledged.
    acknowledged: Vec<(Instant, Revision)>,
    /// Revision of each value, which is written once.
    revision_of: BTreeMap<u64, Revision>,
    /// Acknowledged write of each revision.
    write_of: BTreeMap<Revision, u64>,
    next_value: u64,
    checks: u64,
    /// The registers' operations.
    pub history: History,
}

impl Oracle {
    /// A value that nobody has written.
    pub fn new_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// An operation begins.
    pub fn begin(&self) -> Began {
        Began { floor: self.newest, at: Instant::now() }
    }

    /// Answers that were checked.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// A write of some value was acknowledged, after it had begun.
    ///
    /// # Errors
    /// If the answer contradicts what is known.
    pub fn written(
        &mut self,
        began: Began,
        value: u64,
        changed: bool,
        reply: &WriteReply,
    ) -> Result<(), Violation> {
        self.checks += 1;
        self.at_least("a write", began.floor, reply.revision)?;
        if changed {
            if let Some(other) = self.write_of.insert(reply.revision, value).filter(|other| *other != value) {
                let what = format!("revision {} was acknowledged to two writes", reply.revision);
                return Err(violation(what, format!("that of v{other} alone"), format!("v{value} as well")));
            }
            self.revision_is(value, reply.revision)?;
        }
        self.acknowledge(reply.revision);
        Ok(())
    }

    /// A linearizable read was answered.
    ///
    /// # Errors
    /// If the answer contradicts what is known.
    pub fn read(&mut self, began: Began, reply: &ReadReply) -> Result<(), Violation> {
        self.checks += 1;
        self.at_least("a read", began.floor, reply.revision)?;
        self.check_keys(reply)?;
        self.acknowledge(reply.revision);
        Ok(())
    }

    /// A stale read was answered.
    ///
    /// # Errors
    /// If the answer contradicts what is known.
    pub fn read_stale(&mut self, node: NodeId, began: Began, reply: &ReadReply) -> Result<(), Violation> {
        self.checks += 1;
        self.check_keys(reply)?;
        let Some(age_ms) = reply.staleness.and_then(|staleness| staleness.age_ms) else { return Ok(()) };
        let Some(fresh_at) = began.at.checked_sub(Duration::from_millis(age_ms) + STALENESS_SLACK) else {
            return Ok(());
        };
        let before = self.acknowledged.partition_point(|(at, _)| *at < fresh_at);
        let Some((_, floor)) = before.checked_sub(1).map(|last| self.acknowledged[last]) else {
            return Ok(());
        };
        if reply.revision < floor {
            let what = format!("node {node} called an answer {age_ms} ms old that is older");
            return Err(violation(what, format!("at least revision {floor}"), reply.revision.to_string()));
        }
        Ok(())
    }

    /// The versions of a key that one client alone writes.
    ///
    /// # Errors
    /// If a write was lost, or applied twice.
    pub fn counted(&mut self, key: &str, version: u64, acked: u64, unknown: u64) -> Result<(), Violation> {
        self.checks += 1;
        if (acked..=acked + unknown).contains(&version) {
            return Ok(());
        }
        let what = format!("{key} was not written exactly once for each acknowledged write");
        let expected = format!("{acked} writes, and {unknown} of unknown outcome");
        Err(violation(what, expected, format!("{version} versions")))
    }

    /// Two keys that are always written together.
    ///
    /// # Errors
    /// If they differ.
    pub fn paired(&mut self, name: &str, keys: &[KeyValue]) -> Result<(), Violation> {
        self.checks += 1;
        match keys {
            [] => Ok(()),
            [one, other] if one.value == other.value && one.mod_revision == other.mod_revision => Ok(()),
            keys => {
                let what = format!("the keys of pair {name} differ");
                Err(violation(what, "two equal keys, or none", format!("{keys:?}")))
            }
        }
    }

    /// The operations on the registers, one after the other, if all of them are linearizable.
    ///
    /// # Errors
    /// The first register that is not.
    pub fn check_history(&mut self) -> Result<(), Violation> {
        self.history.check().map_err(|(key, operations)| Violation {
            invariant: "linearizability".to_owned(),
            what: format!("no order of the operations on {key} explains their answers"),
            expected: "an order that keeps real time".to_owned(),
            found: operations,
        })
    }

    /// Operations on registers so far.
    pub fn operations(&self) -> u64 {
        self.history.len()
    }

    fn acknowledge(&mut self, revision: Revision) {
        if revision > self.newest {
            self.newest = revision;
            self.acknowledged.push((Instant::now(), revision));
        }
    }

    fn at_least(&self, what: &str, floor: Revision, revision: Revision) -> Result<(), Violation> {
        if revision >= floor {
            return Ok(());
        }
        let what = format!("{what} did not see a write that was acknowledged before it began");
        Err(violation(what, format!("at least revision {floor}"), revision.to_string()))
    }

    fn check_keys(&mut self, reply: &ReadReply) -> Result<(), Violation> {
        for kv in &reply.range.kvs {
            if kv.mod_revision > reply.revision {
                let what = format!("{:?} is newer than the state that it was read from", kv.key);
                let expected = format!("at most {}", reply.revision);
                return Err(violation(what, expected, kv.mod_revision.to_string()));
            }
            self.revision_is(value_of(kv), kv.mod_revision)?;
        }
        Ok(())
    }

    fn revision_is(&mut self, value: u64, revision: Revision) -> Result<(), Violation> {
        let known = *self.revision_of.entry(value).or_insert(revision);
        if known == revision {
            return Ok(());
        }
        let what = format!("v{value}, which was written once, has two revisions");
        Err(violation(what, known.to_string(), revision.to_string()))
    }
}

/// The number in a value.
///
/// # Panics
/// If the value is none that a client has written.
pub fn value_of(kv: &KeyValue) -> u64 {
    let bytes = kv.value.as_bytes();
    let number = bytes.get(..8).and_then(|bytes| bytes.try_into().ok());
    u64::from_be_bytes(number.unwrap_or_else(|| panic!("{kv:?} has a value that nobody wrote")))
}

/// An operation on a register whose answer says what it did.
pub fn outcome_of(op: RegisterOp, succeeded: bool) -> RegisterOp {
    match op {
        RegisterOp::Swap { expected, new, .. } => {
            RegisterOp::Swap { expected, new, succeeded: Some(succeeded) }
        }
        op => op,
    }
}

fn violation(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Violation {
    Violation::new("client oracle", what, expected, found)
}
