//! Sessions for writes in parallel.
//!
//! The cluster applies each (session, sequence) once, as long as a session has at most one write in
//! work. So every write in work has a session of its own, its lane. A lane whose last write ended
//! serves the next one, with a sequence higher by one. A lane whose write has an unknown outcome is
//! dropped, also when the call was dropped midway: that write may still be on its way.
//!
//! # Tiger Style
//! At most [`limits::CLIENT_LANES_MAX_COUNT`] lanes at a time; further writes wait for one.

use std::sync::Mutex;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::kv::types::{Revision, SessionId, SessionTag};
use crate::limits;

#[derive(Debug)]
pub(super) struct Lanes {
    idle: Mutex<Vec<Session>>,
    slots: Semaphore,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    last_sequence: u64,
}

/// The right to have one write in work. Dropping it gives the session up.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    session: Session,
    _slot: SemaphorePermit<'a>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::default(), slots: Semaphore::new(limits::CLIENT_LANES_MAX_COUNT) }
    }

    /// A lane for the next write, once one is free.
    pub(super) async fn take(&self) -> Lane<'_> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let session =
            self.lock().pop().unwrap_or_else(|| Session { id: SessionId::random(), last_sequence: 0 });
        let last_sequence = session.last_sequence.checked_add(1).expect("a session never has 2^64 writes");
        Lane { session: Session { last_sequence, ..session }, _slot: slot }
    }

    /// The lane's write ended, one way or the other: its session can serve the next one.
    pub(super) fn settle(&self, lane: Lane<'_>) {
        let mut idle = self.lock();
        assert!(idle.len() < limits::CLIENT_LANES_MAX_COUNT, "there are no more sessions than slots");
        idle.push(lane.session);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().expect("no code panics while it holds this lock")
    }
}

impl Lane<'_> {
    /// What makes the lane's write safe to send again.
    pub(super) fn tag(&self, since: Revision) -> SessionTag {
        SessionTag { id: self.session.id, sequence: self.session.last_sequence, since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settled_lane_is_used_again_and_an_abandoned_one_never() {
        let lanes = Lanes::new();
        let first = lanes.take().await;
        let first_tag = first.tag(Revision(0));
        assert_eq!(first_tag.sequence, 1);
        let parallel = lanes.take().await;
        assert_ne!(parallel.tag(Revision(0)).id, first_tag.id);
        lanes.settle(first);
        let next = lanes.take().await;
        assert_eq!((next.tag(Revision(0)).id, next.tag(Revision(0)).sequence), (first_tag.id, 2));
        drop(next);
        assert_ne!(lanes.take().await.tag(Revision(0)).id, first_tag.id);
    }
}
