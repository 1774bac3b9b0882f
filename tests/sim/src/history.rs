//! The operations on registers, with when they began and ended, and whether an order explains them.
//!
//! A register is a key that clients put, read, delete and swap. An operation of unknown outcome may take
//! effect at any time after it began, so it ends with the history: an order may put it last, where
//! nobody sees it. One whose value was read took effect before that read ended.

use std::collections::BTreeMap;
use std::fmt::Write;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

/// An operation on a register, with its answer where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOp {
    /// Sets the value.
    Put(u64),
    /// Reads the value; none if the key is absent.
    Get(Option<u64>),
    /// Deletes the key.
    Delete,
    /// Sets a value if the key has the expected one.
    Swap {
        /// The expected value.
        expected: u64,
        /// The new value.
        new: u64,
        /// Whether it was set; absent if that is not known.
        succeeded: Option<bool>,
    },
}

impl RegisterOp {
    /// The value that the operation sets, if it takes effect.
    fn sets(&self) -> Option<u64> {
        match self {
            Self::Put(value) => Some(*value),
            Self::Swap { new, succeeded, .. } if *succeeded != Some(false) => Some(*new),
            _ => None,
        }
    }

    /// The value that the operation shows to have been there.
    fn shows(&self) -> Option<u64> {
        match self {
            Self::Get(value) => *value,
            Self::Swap { expected, succeeded: Some(true), .. } => Some(*expected),
            _ => None,
        }
    }
}

/// A register on its own, absent at first.
struct Register;

impl Specification for Register {
    type State = Option<u64>;
    type Operation = RegisterOp;

    fn init() -> Option<u64> {
        None
    }

    fn apply(op: &RegisterOp, state: &Option<u64>) -> (bool, Option<u64>) {
        match op {
            RegisterOp::Put(value) => (true, Some(*value)),
            RegisterOp::Get(value) => (value == state, *state),
            RegisterOp::Delete => (true, None),
            RegisterOp::Swap { expected, new, succeeded } => {
                let would = *state == Some(*expected);
                let fits = succeeded.is_none_or(|succeeded| succeeded == would);
                (fits, if would { Some(*new) } else { *state })
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    op: RegisterOp,
    began: u64,
    /// Absent if its outcome is not known.
    ended: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub struct History {
    clock: u64,
    registers: BTreeMap<String, Vec<Operation>>,
}

impl History {
    /// The moment of now, after all moments before.
    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// An operation was answered.
    pub fn answered(&mut self, key: &str, began: u64, op: RegisterOp) {
        let ended = Some(self.now());
        self.push(key, Operation { op, began, ended });
    }

    /// An operation's outcome will never be known.
    pub fn unanswered(&mut self, key: &str, began: u64, op: RegisterOp) {
        // A read that got no answer changes nothing.
        if !matches!(op, RegisterOp::Get(_)) {
            self.push(key, Operation { op, began, ended: None });
        }
    }

    fn push(&mut self, key: &str, operation: Operation) {
        self.registers.entry(key.to_owned()).or_default().push(operation);
    }

    /// Operations so far.
    pub fn len(&self) -> u64 {
        self.registers.values().map(|operations| operations.len() as u64).sum()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// Checks each register for itself.
    ///
    /// # Errors
    /// The first register without such an order, and its operations.
    pub fn check(&self) -> Result<(), (String, String)> {
        for (key, operations) in &self.registers {
            let bounded = bound_by_reads(operations);
            let unseen = |operation: &&Operation| operation.ended.is_some();
            // What nobody saw may be put last: if the rest is explained, all of it is. That is much
            // less to search.
            let seen: Vec<Operation> = bounded.iter().filter(unseen).copied().collect();
            if !is_linearizable(&seen) && !is_linearizable(&bounded) {
                return Err((key.clone(), list(operations)));
            }
        }
        Ok(())
    }
}

/// Ends each operation of unknown outcome where its value was first seen.
fn bound_by_reads(operations: &[Operation]) -> Vec<Operation> {
    let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in operations {
        if let (Some(value), Some(ended)) = (operation.op.shows(), operation.ended) {
            let first = first_seen.entry(value).or_insert(ended);
            *first = (*first).min(ended);
        }
    }
    let bound = |operation: &Operation| {
        let seen = operation.op.sets().and_then(|value| first_seen.get(&value)).copied();
        Operation { ended: operation.ended.or(seen), ..*operation }
    };
    operations.iter().map(bound).collect()
}

fn is_linearizable(operations: &[Operation]) -> bool {
    if operations.is_empty() {
        return true;
    }
    // At one moment ends go behind beginnings: the two may overlap.
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (process, operation) in operations.iter().enumerate() {
        moments.push((operation.began, false, process));
        moments.push((operation.ended.unwrap_or(u64::MAX), true, process));
    }
    moments.sort_unstable();
    let action = |(_, is_end, process): (u64, bool, usize)| {
        let op = operations[process].op;
        (process, if is_end { Action::Response(op) } else { Action::Call(op) })
    };
    WGLChecker::<Register>::is_linearizable(Actions::from_actions(moments.into_iter().map(action).collect()))
}

fn list(operations: &[Operation]) -> String {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.began);
    let mut text = String::new();
    for Operation { op, began, ended } in operations {
        let ended = ended.map_or_else(|| "?".to_owned(), |ended| ended.to_string());
        write!(text, "[{began}-{ended}] {op:?}; ").expect("a string takes every text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operations: &[(u64, Option<u64>, RegisterOp)]) -> bool {
        let operations: Vec<Operation> =
            operations.iter().map(|&(began, ended, op)| Operation { op, began, ended }).collect();
        let mut history = History::default();
        history.registers.insert("r".to_owned(), operations);
        history.check().is_ok()
    }

    #[test]
    fn a_read_of_a_value_that_was_overwritten_before_it_began_is_found() {
        let writes = [(1, Some(2), RegisterOp::Put(1)), (3, Some(4), RegisterOp::Put(2))];
        assert!(check(&[writes[0], writes[1], (5, Some(6), RegisterOp::Get(Some(2)))]));
        assert!(!check(&[writes[0], writes[1], (5, Some(6), RegisterOp::Get(Some(1)))]));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_or_never_but_not_come_and_go() {
        let unknown = [(1, None, RegisterOp::Put(1)), (2, Some(3), RegisterOp::Put(2))];
        let read = |began, value| (began, Some(began + 1), RegisterOp::Get(Some(value)));
        assert!(check(&[unknown[0], unknown[1], read(4, 2)]));
        assert!(check(&[unknown[0], unknown[1], read(4, 2), read(6, 1)]));
        assert!(!check(&[unknown[0], unknown[1], read(4, 2), read(6, 1), read(8, 2)]));
    }

    #[test]
    fn a_swap_that_fails_tells_of_what_was_there() {
        let swap = |succeeded| RegisterOp::Swap { expected: 1, new: 2, succeeded: Some(succeeded) };
        assert!(check(&[(1, Some(2), RegisterOp::Put(1)), (3, Some(4), swap(true))]));
        assert!(!check(&[(1, Some(2), RegisterOp::Put(1)), (3, Some(4), swap(false))]));
        // The delete of unknown outcome explains it.
        assert!(check(&[
            (1, Some(2), RegisterOp::Put(1)),
            (3, None, RegisterOp::Delete),
            (5, Some(6), swap(false)),
        ]));
    }
}
