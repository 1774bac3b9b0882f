//! The statement of a write: its steps, under the conditions that they were worked out for.

use bytes::Bytes;
use hiqlite::{Param, Params};

use super::look::{Found, Span};
use super::schema::{STEP_DELETE, STEP_DELETE_FROM, STEP_PUT, STEP_SESSION};
use crate::kv::types::{KvError, SessionTag};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Put { key: Bytes, value: Bytes, lease: u64 },
    Delete(Span),
}

/// Keys that must be as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    span: Span,
    count: usize,
    newest: u64,
}

impl Guard {
    /// The keys are as they were while the span holds as many, none of them newer. A key that was set
    /// since is newer; if it is gone again, or another is gone, there are fewer.
    pub fn of(found: &Found) -> Self {
        let newest = found.rows.iter().map(|row| row.mod_revision.0).max().unwrap_or(0);
        Self { span: found.covered.clone(), count: found.rows.len(), newest }
    }
}

/// The statement, which returns the revision once for each step, or nothing where a condition fails.
pub(super) fn statement(
    steps: &[Step],
    guards: &[Guard],
    session: Option<(&SessionTag, Vec<u8>)>,
) -> Result<(String, Params), KvError> {
    let mut params = Params::new();
    let mut rows = Vec::with_capacity(steps.len() + 1);
    for step in steps {
        rows.push("(?, ?, ?, ?)");
        let (kind, key, operand, number) = match step {
            Step::Put { key, value, lease } => (STEP_PUT, key, value.to_vec(), number(*lease)?),
            Step::Delete(Span { start, end: Some(end) }) => (STEP_DELETE, start, end.to_vec(), 0),
            Step::Delete(Span { start, end: None }) => (STEP_DELETE_FROM, start, Vec::new(), 0),
        };
        params.extend([kind.into(), Param::Blob(key.to_vec()), Param::Blob(operand), number.into()]);
    }
    let mut conditions = String::new();
    let mut condition_params = Params::new();
    if let Some((tag, reply)) = session {
        let (id, sequence) = (Param::Blob(tag.id.0.as_bytes().to_vec()), number(tag.sequence)?);
        rows.push("(?, ?, ?, ?)");
        params.extend([STEP_SESSION.into(), id.clone(), Param::Blob(reply), sequence.into()]);
        conditions += " AND CASE WHEN EXISTS (SELECT 1 FROM aspen_sessions WHERE id = ?) \
                       THEN NOT EXISTS (SELECT 1 FROM aspen_sessions WHERE id = ? AND sequence >= ?) \
                       ELSE ? BETWEEN head.forgotten AND head.revision END";
        condition_params.extend([id.clone(), id, sequence.into(), number(tag.since.0)?.into()]);
    }
    for Guard { span, count, newest } in guards {
        let count = i64::try_from(*count).expect("a look is bounded");
        condition_params.extend([count.into(), number(*newest)?.into()]);
        let condition = span.condition(&mut condition_params);
        conditions += &format!(
            " AND (SELECT count(*) = ? AND coalesce(max(mod_revision), 0) = ? FROM aspen_kv WHERE {condition})"
        );
    }
    params.extend(condition_params);
    let rows = rows.join(", ");
    let sql = format!(
        "INSERT INTO aspen_steps (kind, key, operand, number, revision) \
         SELECT step.column1, step.column2, step.column3, step.column4, head.revision + 1 \
         FROM aspen_head AS head CROSS JOIN (VALUES {rows}) AS step \
         WHERE head.slot = 0{conditions} RETURNING revision"
    );
    Ok((sql, params))
}

/// SQLite has no integers above 2^63.
fn number(value: u64) -> Result<i64, KvError> {
    i64::try_from(value).map_err(|_| super::unsupported("numbers above 9223372036854775807"))
}
