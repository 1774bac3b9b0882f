//! Reads and writes.
//!
//! A write that only sets keys goes out at once. Any other one looks first, works out what it comes to, and
//! is sent under the condition that what it saw is still so; where it is not, it looks again. Either way a
//! write is one statement.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::evaluate::{self, Outcome};
use super::link::{Fault, Link, pause};
use super::look::{Found, LastWrite, Seen, Span, Wanted};
use super::statement;
use super::unsupported;
use crate::kv::backup::BackupStream;
use crate::kv::interface::KeyValueStore;
use crate::kv::types::{
    BackupOrigin, Command, Consistency, KvError, OpResult, RangeReply, ReadReply, ReadRequest, Revision,
    SessionTag, Staleness, Txn, Value, WriteOp, WriteReply,
};
use crate::limits;

/// Reads and writes over Hiqlite.
pub struct HiqliteStore(Arc<Link>);

/// What a session remembers of its last write's reply, beside the revision. It is on disk: fields are never
/// reordered or removed.
#[derive(Serialize, Deserialize)]
struct Remembered {
    succeeded: bool,
    results: Vec<OpResult>,
}

impl HiqliteStore {
    /// Over this link.
    pub fn new(link: Arc<Link>) -> Self {
        Self(link)
    }

    async fn transact(&self, session: Option<&SessionTag>, txn: &Txn) -> Result<WriteReply, KvError> {
        let deadline = deadline();
        let blind = evaluate::blind(txn);
        let mut look_first = blind.is_none();
        // Until when it could be found out, where a sending before has left its outcome open.
        let mut in_doubt = None;
        loop {
            let prepared = match (&blind, look_first) {
                (Some(outcome), false) => Prepared::Send(outcome.clone()),
                _ => self.prepare(session, txn, deadline).await.map_err(|error| doubt(in_doubt, error))?,
            };
            let outcome = match prepared {
                Prepared::Done(reply) => return Ok(reply),
                Prepared::Send(outcome) => outcome,
            };
            let client = self.0.client(deadline).await.map_err(|error| doubt(in_doubt, error))?;
            let mut is_contended = false;
            let statement = outcome.statement(session)?;
            let last = match self.0.run(&client, deadline, statement).await {
                Ok(Some(revision)) => return Ok(outcome.reply(revision)),
                Ok(None) => {
                    is_contended = true;
                    "other writes changed the same keys".to_owned()
                }
                Err(Fault::Refused(error)) => return Err(doubt(in_doubt, error)),
                Err(Fault::NoTables) => {
                    self.0.make_tables(&client, deadline).await.map_err(|error| doubt(in_doubt, error))?;
                    "the tables were made".to_owned()
                }
                Err(Fault::NotApplied(reason)) => reason,
                // Only a session tells whether it was applied.
                Err(Fault::Unknown(_)) if session.is_none() => return Err(unknown(deadline)),
                Err(Fault::Unknown(reason)) => {
                    in_doubt = Some(deadline);
                    reason
                }
            };
            look_first = true;
            let paused = pause(deadline, &last).await;
            paused.map_err(|error| doubt(in_doubt, if is_contended { contended() } else { error }))?;
        }
    }

    /// Looks, and works out what is to be sent, if anything is.
    async fn prepare(
        &self,
        session: Option<&SessionTag>,
        txn: &Txn,
        deadline: Instant,
    ) -> Result<Prepared, KvError> {
        let (wanted, places) = evaluate::wanted(txn);
        let seen =
            self.0.look(deadline, Consistency::Linearizable, session.map(|tag| tag.id), &wanted).await?;
        if let Some(tag) = session
            && let Some(reply) = answered(tag, &seen)?
        {
            return Ok(Prepared::Done(reply));
        }
        let outcome = evaluate::run(txn, &places, &seen);
        if outcome.steps.is_empty() {
            // It changes nothing: what was seen is the answer, and a retry may see something else.
            return Ok(Prepared::Done(outcome.reply(seen.revision)));
        }
        Ok(Prepared::Send(outcome))
    }

    async fn read_page(&self, request: &ReadRequest) -> Result<ReadReply, KvError> {
        let deadline = deadline();
        let wanted: Vec<Wanted> = Span::of(&request.range)
            .map(|span| Wanted {
                span,
                rows_max_count: request.effective_limit(),
                bytes_max: limits::RANGE_MAX_BYTES,
                keys_only: request.keys_only,
            })
            .into_iter()
            .collect();
        let seen = self.0.look(deadline, request.consistency, None, &wanted).await?;
        let staleness = (request.consistency == Consistency::Stale)
            .then(|| Staleness { age_ms: self.0.view().ok().and_then(|view| view.since_quorum_ms()) });
        let range = seen.spans.into_iter().next().map_or_else(RangeReply::default, page);
        if let Some(requested) = request.revision
            && requested != seen.revision
        {
            let current = seen.revision;
            return Err(match requested > current {
                true => KvError::FutureRevision { requested, current },
                false => unsupported("reads at an older revision (it keeps no history)"),
            });
        }
        Ok(ReadReply { revision: seen.revision, range, staleness })
    }
}

fn page(Found { mut rows, more, .. }: Found) -> RangeReply {
    rows.shrink_to_fit();
    RangeReply { kvs: rows, more }
}

/// A write that is worked out.
enum Prepared {
    Done(WriteReply),
    Send(Outcome),
}

impl Outcome {
    fn statement(&self, session: Option<&SessionTag>) -> Result<(String, hiqlite::Params), KvError> {
        let session = session.map(|tag| (tag, self.remembered()));
        statement::statement(&self.steps, &self.guards, session)
    }

    fn remembered(&self) -> Vec<u8> {
        let reply = Remembered { succeeded: self.succeeded, results: self.results.clone() };
        postcard::to_stdvec(&reply).expect("a reply holds nothing that postcard refuses")
    }

    fn reply(mut self, revision: Revision) -> WriteReply {
        evaluate::settle(&mut self.results, revision);
        WriteReply { revision, succeeded: self.succeeded, results: self.results, replayed: false }
    }
}

/// The reply of a write that was applied before, or why it cannot be told from one.
fn answered(tag: &SessionTag, seen: &Seen) -> Result<Option<WriteReply>, KvError> {
    let Some(LastWrite { sequence, revision, reply }) = &seen.session else {
        return match tag.since {
            since if since < seen.forgotten => Err(KvError::SessionExpired { forgotten: seen.forgotten }),
            since if since > seen.revision => {
                Err(KvError::FutureRevision { requested: since, current: seen.revision })
            }
            _ => Ok(None),
        };
    };
    if tag.sequence < *sequence {
        return Err(KvError::SequenceTooOld { sequence: tag.sequence, last: *sequence });
    }
    if tag.sequence > *sequence {
        return Ok(None);
    }
    let Remembered { succeeded, mut results } = postcard::from_bytes(reply)
        .map_err(|error| KvError::Storage { reason: format!("a session's reply cannot be read: {error}") })?;
    evaluate::settle(&mut results, *revision);
    Ok(Some(WriteReply { revision: *revision, succeeded, results, replayed: true }))
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(limits::REQUEST_TIMEOUT_MS)
}

fn contended() -> KvError {
    KvError::Contended { waited_ms: limits::REQUEST_TIMEOUT_MS }
}

fn unknown(deadline: Instant) -> KvError {
    let left = deadline.saturating_duration_since(Instant::now());
    let bound = Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
    let waited = bound.saturating_sub(left).as_millis();
    KvError::OutcomeUnknown { waited_ms: u64::try_from(waited).unwrap_or(limits::REQUEST_TIMEOUT_MS) }
}

/// An error that ends the attempts, of which an earlier one may have been applied.
fn doubt(in_doubt: Option<Instant>, error: KvError) -> KvError {
    in_doubt.map_or(error, unknown)
}

#[async_trait]
impl KeyValueStore for HiqliteStore {
    async fn write(&self, command: Command) -> Result<WriteReply, KvError> {
        command.validate()?;
        let bytes = postcard::to_stdvec(&command).map_or(usize::MAX, |encoded| encoded.len());
        if bytes > limits::COMMAND_MAX_BYTES {
            return Err(KvError::CommandTooLarge { bytes, max_bytes: limits::COMMAND_MAX_BYTES });
        }
        match &command.op {
            WriteOp::Txn(txn) => self.transact(command.session.as_ref(), txn).await,
            WriteOp::Compact { .. } => Err(unsupported("compaction (it keeps no history)")),
            WriteOp::Restore(_) => Err(unsupported("restore")),
            WriteOp::Member(_) => Err(unsupported("join tickets")),
        }
    }

    async fn read(&self, request: ReadRequest) -> Result<ReadReply, KvError> {
        request.validate()?;
        let mut reply = self.read_page(&request).await?;
        if request.keys_only {
            for kv in &mut reply.range.kvs {
                kv.value = Value::default();
            }
        }
        Ok(reply)
    }

    async fn backup(&self, _: BackupOrigin) -> Result<BackupStream, KvError> {
        Err(unsupported("backup"))
    }
}
