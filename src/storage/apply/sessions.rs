//! Sessions: a command that is sent again is applied once and gets the first reply.
//!
//! The table is bounded, so the session used longest ago is forgotten, and with it which of its writes
//! were applied. A retry of such a write must then never be applied again. The argument:
//!
//! - Each write carries `since`, a revision its client had seen before it first sent the write. When
//!   the write was applied, the store's revision was therefore at least `since`. The session remembers
//!   that revision, the one *before* its last write; those before its earlier writes were not higher.
//! - When the session is forgotten, the floor `forgotten` rises above the remembered revision. Every
//!   retry of every write of that session has `since` below the floor, now and for ever, and a session
//!   that is not known is refused below the floor.
//! - A client that reads the revision now must be able to begin. The floor can be above the store's
//!   revision, by one: the session's last write changed nothing, and nothing else has changed since.
//!   Then the revision moves up to the floor, as a revision without changes.
//!
//! # Tiger Style
//! At most [`limits::SESSIONS_MAX_COUNT`] sessions; replies of at most
//! [`limits::SESSION_REPLIES_MAX_BYTES`] and one more. Each session has one entry in the order of use.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Applier;
use crate::kv::types::{KvError, Revision, SessionTag, WriteOp, WriteReply};
use crate::limits;
use crate::storage::record;
use crate::storage::tables::{StateError, Table, WriteTables};

/// Header of a session, in front of its last reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The last sequence applied.
    pub(in crate::storage) sequence: u64,
    /// Its place in the order of use.
    pub(crate) stamp: u64,
    /// The store's revision before the last write.
    pub(in crate::storage) revision_before: Revision,
}

/// What a write was answered; it stands behind the header.
pub(crate) type Reply = Result<WriteReply, KvError>;

/// What the table says about a write that carries a session.
enum Seen {
    /// The session is not known.
    Never,
    /// The session is known, and the write comes after its last one.
    Before(Session, usize),
    /// The write was answered already, or is refused.
    Answered(Reply),
}

impl<T: WriteTables> Applier<'_, T> {
    /// Runs an operation, unless the session shows that it ran before or may have.
    pub(super) fn run_once(&mut self, tag: &SessionTag, op: &WriteOp) -> Result<Reply, StateError> {
        #[cfg(madsim)]
        if crate::planted::has(crate::planted::Bug::RetryAppliedTwice) {
            return self.run(op);
        }
        let id = tag.id.0.as_bytes();
        match self.look_up(tag)? {
            Seen::Answered(reply) => return Ok(reply),
            Seen::Before(session, reply_bytes) => self.take_out(id, session, reply_bytes)?,
            Seen::Never => {
                if let Err(refused) = self.admit(tag) {
                    return Ok(Err(refused));
                }
            }
        }
        self.make_room()?;
        let revision_before = self.head.revisions.current;
        let reply = self.run(op)?;
        self.put_in(id, tag.sequence, revision_before, &reply)?;
        Ok(reply)
    }

    fn look_up(&self, tag: &SessionTag) -> Result<Seen, StateError> {
        let id = tag.id.0.as_bytes();
        let Some(sealed) = self.tables.get(Table::Sessions, id)? else {
            return Ok(Seen::Never);
        };
        let (session, encoded): (Session, _) = record::unseal_open(Table::Sessions, id, &sealed)?;
        Ok(match tag.sequence.cmp(&session.sequence) {
            Ordering::Greater => Seen::Before(session, encoded.len()),
            Ordering::Equal => Seen::Answered(replay(id, encoded)?),
            Ordering::Less => Seen::Answered(Err(KvError::SequenceTooOld {
                sequence: tag.sequence,
                last: session.sequence,
            })),
        })
    }

    /// Whether a session that is not known must be new.
    fn admit(&self, tag: &SessionTag) -> Result<(), KvError> {
        let (current, forgotten) = (self.head.revisions.current, self.head.sessions.forgotten);
        if tag.since < forgotten {
            return Err(KvError::SessionExpired { forgotten });
        }
        // No client has seen it. Taken as it is, the write would outlive the floor.
        if tag.since > current {
            return Err(KvError::FutureRevision { requested: tag.since, current });
        }
        Ok(())
    }

    /// Forgets the sessions used longest ago until there is room for one more.
    fn make_room(&mut self) -> Result<(), StateError> {
        while self.head.sessions.count >= limits::SESSIONS_MAX_COUNT
            || self.head.sessions.reply_bytes >= limits::SESSION_REPLIES_MAX_BYTES
        {
            self.forget_oldest()?;
        }
        Ok(())
    }

    fn forget_oldest(&mut self) -> Result<(), StateError> {
        let (stamp, id) = {
            let mut order = self.tables.rows(Table::SessionOrder, (Bound::Unbounded, Bound::Unbounded))?;
            let (stamp, id) = order.next().expect("sessions that are counted are in the order of use")?;
            (Bytes::copy_from_slice(&stamp), Bytes::copy_from_slice(&id))
        };
        // The order has no checksum of its own. Each session knows its place in it, so that damage there
        // cannot make this replica forget another session than the others do.
        let Some(sealed) = self.tables.get(Table::Sessions, &id)? else {
            return Err(out_of_order(stamp));
        };
        let (session, reply): (Session, _) = record::unseal_open(Table::Sessions, &id, &sealed)?;
        let reply_bytes = reply.len();
        drop(sealed);
        if session.stamp.to_be_bytes() != *stamp {
            return Err(out_of_order(stamp));
        }
        self.tables.remove(Table::Sessions, &id)?;
        self.take_out(&id, session, reply_bytes)?;

        let floor = session.revision_before.next();
        self.head.sessions.forgotten = self.head.sessions.forgotten.max(floor);
        self.head.revisions.current = self.head.revisions.current.max(floor);
        Ok(())
    }

    /// Takes a session out of the order and the totals. Its record is removed or replaced next.
    fn take_out(&mut self, id: &[u8], session: Session, reply_bytes: usize) -> Result<(), StateError> {
        debug_assert!(
            self.tables
                .get(Table::SessionOrder, &session.stamp.to_be_bytes())?
                .is_some_and(|ordered| *ordered == *id),
            "each session is in the order of use, at its stamp"
        );
        self.tables.remove(Table::SessionOrder, &session.stamp.to_be_bytes())?;
        self.head.sessions.count -= 1;
        self.head.sessions.reply_bytes -= reply_bytes as u64;
        Ok(())
    }

    fn put_in(
        &mut self,
        id: &[u8],
        sequence: u64,
        revision_before: Revision,
        reply: &Reply,
    ) -> Result<(), StateError> {
        let stamp = self.head.sessions.next_stamp;
        let session = Session { sequence, stamp, revision_before };
        let reply = postcard::to_stdvec(reply).expect("a reply has only types that postcard can encode");
        self.tables.put(Table::Sessions, id, &record::seal(Table::Sessions, id, &session, &reply))?;
        self.tables.put(Table::SessionOrder, &stamp.to_be_bytes(), id)?;
        self.head.sessions.next_stamp += 1;
        self.head.sessions.count += 1;
        self.head.sessions.reply_bytes += reply.len() as u64;
        Ok(())
    }
}

fn out_of_order(stamp: Bytes) -> StateError {
    let reason = "the session that it names was used at another time, or is not known".to_owned();
    StateError::Malformed { table: Table::SessionOrder, key: stamp, reason }
}

fn replay(id: &[u8], encoded: &[u8]) -> Result<Reply, StateError> {
    let (mut reply, _): (Reply, _) = record::open(Table::Sessions, id, encoded)?;
    if let Ok(reply) = &mut reply {
        reply.replayed = true;
    }
    Ok(reply)
}
