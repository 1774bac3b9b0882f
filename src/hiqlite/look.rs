//! A look at some of the store, in one statement: head, a session, and spans of keys, all of one moment.
//!
//! # Tiger Style
//! A span gives at most the rows and the bytes that it asks for, and one row more, which says that there
//! is more. SQLite takes at most 500 selects in one statement; a transaction has at most three lists.

use bytes::Bytes;
use hiqlite::{Error, Param, Params, Row};

use crate::kv::types::Key;
use crate::kv::types::{KeyRange, KeyValue, Revision, SessionId, Value};
use crate::limits;

/// Most selects that SQLite takes in one statement.
const SELECTS_MAX_COUNT: usize = 500;

// Three lists of operations, the head and the session.
const _: () = assert!(3 * limits::TXN_OPS_MAX_COUNT + 2 <= SELECTS_MAX_COUNT);

const HEAD: i64 = 0;
const SESSION: i64 = 1;
const FIRST_SPAN: i64 = 2;

/// Keys from `start` on up to `end`, or to the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

/// What to look at.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub span: Span,
    pub rows_max_count: usize,
    pub bytes_max: usize,
    pub keys_only: bool,
}

/// What a span held.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its keys in order, as far as they fit.
    pub rows: Vec<KeyValue>,
    /// The span that `rows` is all of: shorter than what was asked for where not all did fit.
    pub covered: Span,
    /// Whether the span that was asked for may hold more.
    pub more: bool,
}

/// A session's last write.
#[derive(Clone, Debug)]
pub(super) struct LastWrite {
    pub sequence: u64,
    pub revision: Revision,
    pub reply: Vec<u8>,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub revision: Revision,
    pub forgotten: Revision,
    pub session: Option<LastWrite>,
    pub spans: Vec<Found>,
}

impl Span {
    /// The span of a range; none if no key can be in it.
    pub fn of(range: &KeyRange) -> Option<Self> {
        if range.is_empty() {
            return None;
        }
        let (start, end) = match range {
            KeyRange::Key(key) => (key.clone().into_bytes(), Some(after(key.as_bytes()))),
            KeyRange::Prefix(_) | KeyRange::Span { .. } => {
                use std::ops::Bound::{Excluded, Included, Unbounded};
                match range.bounds() {
                    (Included(start), Excluded(end)) => (start, Some(end)),
                    (Included(start), Unbounded) => (start, None),
                    bounds => unreachable!("a range that is no key is half open, and not {bounds:?}"),
                }
            }
        };
        Some(Self { start, end })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The condition of a `WHERE`.
    pub fn condition(&self, params: &mut Params) -> &'static str {
        params.push(Param::Blob(self.start.to_vec()));
        match &self.end {
            Some(end) => {
                params.push(Param::Blob(end.to_vec()));
                "key >= ? AND key < ?"
            }
            None => "key >= ?",
        }
    }
}

/// The first key behind this one.
pub(super) fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The statement of a look.
pub(super) fn statement(session: Option<SessionId>, wanted: &[Wanted]) -> (String, Params) {
    let mut params = Params::new();
    let mut sql = format!(
        "SELECT {HEAD} AS part, NULL AS key, NULL AS value, revision AS create_revision, \
         forgotten AS mod_revision, 0 AS version, 0 AS lease, 0 AS bytes FROM aspen_head"
    );
    if let Some(id) = session {
        params.push(Param::Blob(id.0.as_bytes().to_vec()));
        sql += &format!(
            " UNION ALL SELECT {SESSION}, id, reply, sequence, revision, 0, 0, 0 FROM aspen_sessions WHERE id = ?"
        );
    }
    for (place, wanted) in (FIRST_SPAN..).zip(wanted) {
        let condition = wanted.span.condition(&mut params);
        let overhead = limits::KV_OVERHEAD_BYTES;
        let (cost, value) = match wanted.keys_only {
            true => (format!("length(key) + {overhead}"), "x''"),
            false => (format!("length(key) + length(value) + {overhead}"), "kv.value"),
        };
        let (rows, bytes) = (wanted.rows_max_count + 1, wanted.bytes_max);
        // Lengths first: a value is read only where it fits.
        sql += &format!(
            " UNION ALL SELECT {place}, kv.key, CASE WHEN page.bytes <= {bytes} THEN {value} END, \
             kv.create_revision, kv.mod_revision, kv.version, kv.lease, page.bytes FROM (\
             SELECT key, cost, sum(cost) OVER (ORDER BY key ROWS UNBOUNDED PRECEDING) AS bytes FROM (\
             SELECT key, {cost} AS cost FROM aspen_kv WHERE {condition} ORDER BY key LIMIT {rows})\
             ) AS page JOIN aspen_kv AS kv ON kv.key = page.key WHERE page.bytes - page.cost <= {bytes}"
        );
    }
    (sql, params)
}

/// One row of a look's answer.
pub(super) struct Line {
    part: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    numbers: [i64; 4],
}

impl TryFrom<&mut Row<'_>> for Line {
    type Error = Error;

    fn try_from(row: &mut Row<'_>) -> Result<Self, Error> {
        Ok(Self {
            part: row.try_get("part")?,
            key: row.try_get("key")?,
            value: row.try_get("value")?,
            numbers: [
                row.try_get("create_revision")?,
                row.try_get("mod_revision")?,
                row.try_get("version")?,
                row.try_get("lease")?,
            ],
        })
    }
}

/// Puts the rows of the answer together. Absent where the head is missing: the tables are not made yet.
pub(super) fn gather(wanted: &[Wanted], lines: Vec<Line>) -> Option<Seen> {
    let mut head = None;
    let mut session = None;
    let mut spans: Vec<Vec<(Bytes, Option<KeyValue>)>> = vec![Vec::new(); wanted.len()];
    for Line { part, key, value, numbers } in lines {
        let [first, second, version, lease] = numbers.map(unsigned);
        match part {
            HEAD => head = Some((Revision(first), Revision(second))),
            SESSION => {
                session = Some(LastWrite {
                    sequence: first,
                    revision: Revision(second),
                    reply: value.unwrap_or_default(),
                });
            }
            _ => {
                let place = usize::try_from(part - FIRST_SPAN).expect("a part that was asked for");
                let bytes: Bytes = key.unwrap_or_default().into();
                let row = value.map(|value| KeyValue {
                    key: Key::new(bytes.clone()).expect("keys are checked before they are written"),
                    value: Value::stored(value.into()),
                    create_revision: Revision(first),
                    mod_revision: Revision(second),
                    version,
                    lease,
                });
                spans[place].push((bytes, row));
            }
        }
    }
    let (revision, forgotten) = head?;
    let spans = wanted.iter().zip(spans).map(|(wanted, rows)| found(wanted, rows)).collect();
    Some(Seen { revision, forgotten, session, spans })
}

/// The rows that fit, and how far they reach.
fn found(wanted: &Wanted, mut rows: Vec<(Bytes, Option<KeyValue>)>) -> Found {
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    let fit = rows.iter().take(wanted.rows_max_count).take_while(|(_, row)| row.is_some()).count();
    let more = fit < rows.len();
    let end = match rows.get(fit) {
        Some((next, _)) => Some(next.clone()),
        None => wanted.span.end.clone(),
    };
    let rows = rows.into_iter().take(fit).filter_map(|(_, row)| row).collect();
    Found { rows, covered: Span { start: wanted.span.start.clone(), end }, more }
}

/// No number in the tables is negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
