//! What a transaction does to what was seen: which list runs, what each operation answers, and the steps
//! that are left to be done.
//!
//! The outcome holds while the keys that it was worked out from are as they were seen, which the statement
//! of the write makes sure of. The revision is not known before: where a reply would name it, it has
//! [`PENDING`], which [`settle`] replaces.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::look::{Found, Seen, Span, Wanted};
use super::statement::{Guard, Step};
use crate::kv::types::{
    Compare, CompareOp, CompareTarget, Key, KeyRange, KeyValue, OpResult, RangeReply, Revision, Txn, TxnOp,
    Value,
};
use crate::limits;

/// Stands for the revision of a write that is not applied yet.
const PENDING: Revision = Revision(u64::MAX);

/// What a transaction comes to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub succeeded: bool,
    pub results: Vec<OpResult>,
    pub steps: Vec<Step>,
    pub guards: Vec<Guard>,
}

/// Where the spans of a transaction's parts are among those that were looked at.
pub(super) struct Places {
    compare: Vec<usize>,
    success: Vec<Option<usize>>,
    failure: Vec<Option<usize>>,
}

/// The outcome of a transaction that only sets keys, without a condition: nothing must be known before.
pub(super) fn blind(txn: &Txn) -> Option<Outcome> {
    if !txn.compare.is_empty() || txn.success.is_empty() {
        return None;
    }
    let steps = txn.success.iter().map(put_step).collect::<Option<Vec<_>>>()?;
    let results = vec![OpResult::Put; steps.len()];
    Some(Outcome { succeeded: true, results, steps, guards: Vec::new() })
}

fn put_step(op: &TxnOp) -> Option<Step> {
    match op {
        TxnOp::Put { key, value, lease } => Some(Step::Put {
            key: key.clone().into_bytes(),
            value: value.clone().into_bytes(),
            lease: *lease,
        }),
        TxnOp::Delete { .. } | TxnOp::Range { .. } => None,
    }
}

/// What must be looked at to run a transaction.
pub(super) fn wanted(txn: &Txn) -> (Vec<Wanted>, Places) {
    let mut wanted = Vec::new();
    let mut place = |want: Wanted| {
        wanted.push(want);
        wanted.len() - 1
    };
    let compare = txn.compare.iter().map(|compare| {
        let span = Span::of(&KeyRange::Key(compare.key.clone())).expect("one key is no empty range");
        let keys_only = !matches!(compare.target, CompareTarget::Value(_));
        place(Wanted { span, rows_max_count: 1, bytes_max: limits::RANGE_MAX_BYTES, keys_only })
    });
    let compare = compare.collect();
    let mut of_op = |op: &TxnOp| {
        // Keys that earlier operations have set or deleted may stand among them.
        let spare = limits::TXN_OPS_MAX_COUNT;
        let (range, rows, bytes_max, keys_only) = match op {
            TxnOp::Put { .. } => return None,
            TxnOp::Delete { range } => (range, limits::DELETE_PREFIX_MAX_KEYS, limits::RANGE_MAX_BYTES, true),
            TxnOp::Range { range, limit, keys_only } => {
                (range, page_keys(*limit), limits::TXN_READ_MAX_BYTES, *keys_only)
            }
        };
        let span = Span::of(range)?;
        Some(place(Wanted { span, rows_max_count: rows + spare, bytes_max, keys_only }))
    };
    let success = txn.success.iter().map(&mut of_op).collect();
    let failure = txn.failure.iter().map(&mut of_op).collect();
    (wanted, Places { compare, success, failure })
}

fn page_keys(limit: Option<u64>) -> usize {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit.min(limits::RANGE_MAX_KEYS)
}

/// Runs a transaction on what was seen.
pub(super) fn run(txn: &Txn, places: &Places, seen: &Seen) -> Outcome {
    let mut used: BTreeSet<usize> = places.compare.iter().copied().collect();
    let holds = |(compare, place): (&Compare, &usize)| holds(compare, seen.spans[*place].rows.first());
    let succeeded = txn.compare.iter().zip(&places.compare).all(holds);
    let (ops, places) =
        if succeeded { (&txn.success, &places.success) } else { (&txn.failure, &places.failure) };
    let mut run = Run { touched: BTreeMap::new(), steps: Vec::new(), bytes_left: limits::TXN_READ_MAX_BYTES };
    let mut results = Vec::with_capacity(ops.len());
    for (op, place) in ops.iter().zip(places) {
        used.extend(place);
        results.push(run.op(op, place.map(|place| &seen.spans[place])));
    }
    let guards = used.into_iter().map(|place| Guard::of(&seen.spans[place])).collect();
    Outcome { succeeded, results, steps: run.steps, guards }
}

/// Puts the revision where a reply names that of the write itself.
pub(super) fn settle(results: &mut [OpResult], revision: Revision) {
    for result in results {
        let OpResult::Range(range) = result else { continue };
        for kv in &mut range.kvs {
            for of in [&mut kv.create_revision, &mut kv.mod_revision] {
                if *of == PENDING {
                    *of = revision;
                }
            }
        }
    }
}

fn holds(compare: &Compare, row: Option<&KeyValue>) -> bool {
    let ordering = match &compare.target {
        // A key that is absent has no value, which differs from every one.
        CompareTarget::Value(value) => match row {
            None => return compare.op == CompareOp::NotEqual,
            Some(row) => row.value.as_bytes().cmp(value.as_bytes()),
        },
        CompareTarget::Version(version) => row.map_or(0, |row| row.version).cmp(version),
        CompareTarget::CreateRevision(revision) => {
            row.map_or(Revision(0), |row| row.create_revision).cmp(revision)
        }
        CompareTarget::ModRevision(revision) => row.map_or(Revision(0), |row| row.mod_revision).cmp(revision),
    };
    match compare.op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::NotEqual => ordering.is_ne(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
    }
}

/// A key that an earlier operation of the same transaction has changed.
#[derive(Default)]
struct Touched {
    /// Whether what was there before is gone.
    is_new: bool,
    /// What was set since, unless it was deleted.
    put: Option<Put>,
}

struct Put {
    value: Value,
    lease: u64,
    times: u64,
}

/// A list of operations on its way.
struct Run {
    touched: BTreeMap<Bytes, Touched>,
    steps: Vec<Step>,
    bytes_left: usize,
}

impl Run {
    fn op(&mut self, op: &TxnOp, found: Option<&Found>) -> OpResult {
        match op {
            TxnOp::Put { key, value, lease } => {
                let touched = self.touched.entry(key.clone().into_bytes()).or_default();
                let times = touched.put.as_ref().map_or(0, |put| put.times) + 1;
                touched.put = Some(Put { value: value.clone(), lease: *lease, times });
                self.steps.extend(put_step(op));
                OpResult::Put
            }
            TxnOp::Delete { range } => self.delete(range, found),
            TxnOp::Range { limit, keys_only, .. } => {
                OpResult::Range(found.map_or_else(RangeReply::default, |found| {
                    self.read(found, page_keys(*limit), *keys_only)
                }))
            }
        }
    }

    fn delete(&mut self, range: &KeyRange, found: Option<&Found>) -> OpResult {
        let (Some(found), Some(mut span)) = (found, Span::of(range)) else {
            return OpResult::Delete { deleted: 0, more: false };
        };
        let mut keys: Vec<Bytes> = self.live(found).into_keys().collect();
        let more = found.more || keys.len() > limits::DELETE_PREFIX_MAX_KEYS;
        if let Some(next) = keys.get(limits::DELETE_PREFIX_MAX_KEYS) {
            span.end = Some(next.clone());
        } else if found.more {
            span.end.clone_from(&found.covered.end);
        }
        keys.truncate(limits::DELETE_PREFIX_MAX_KEYS);
        let deleted = keys.len() as u64;
        for key in keys {
            self.touched.insert(key, Touched { is_new: true, put: None });
        }
        if deleted > 0 {
            self.steps.push(Step::Delete(span));
        }
        OpResult::Delete { deleted, more }
    }

    fn read(&mut self, found: &Found, keys_max: usize, keys_only: bool) -> RangeReply {
        let mut reply = RangeReply { kvs: Vec::new(), more: found.more };
        for mut kv in self.live(found).into_values() {
            if keys_only {
                kv.value = Value::default();
            }
            let cost = kv.key.as_bytes().len() + kv.value.as_bytes().len() + limits::KV_OVERHEAD_BYTES;
            if reply.kvs.len() == keys_max || cost > self.bytes_left {
                reply.more = true;
                break;
            }
            self.bytes_left -= cost;
            reply.kvs.push(kv);
        }
        reply
    }

    /// The keys of a span as they are by now.
    fn live(&self, found: &Found) -> BTreeMap<Bytes, KeyValue> {
        let mut live: BTreeMap<Bytes, KeyValue> =
            found.rows.iter().map(|row| (row.key.clone().into_bytes(), row.clone())).collect();
        let start = found.covered.start.clone();
        for (key, touched) in self.touched.range(start..).take_while(|(key, _)| found.covered.contains(key)) {
            let before = live.remove(key).filter(|_| !touched.is_new);
            if let Some(put) = &touched.put {
                live.insert(
                    key.clone(),
                    KeyValue {
                        key: Key::new(key.clone()).expect("the transaction was validated"),
                        value: put.value.clone(),
                        create_revision: before.as_ref().map_or(PENDING, |before| before.create_revision),
                        mod_revision: PENDING,
                        version: before.as_ref().map_or(0, |before| before.version) + put.times,
                        lease: put.lease,
                    },
                );
            } else if let Some(before) = before {
                live.insert(key.clone(), before);
            }
        }
        live
    }
}
