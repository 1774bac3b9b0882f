//! Bugs put in on purpose, to see that the simulation finds them. They exist in its build alone.
//!
//! A run plants at most one, for its own thread; a run is one thread. No code may look here for anything
//! but whether it shall be wrong.

use std::cell::Cell;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log tells that entries are on disk before they are synced.
    FlushBeforeSync,
    /// The log tells that a vote is on disk before it is synced.
    VoteNotSynced,
    /// A leader that restarts within its lease leads on without an election.
    LeaderRestored,
    /// A snapshot is made of a state that is not on disk, and the log is purged up to it all the same. Both
    /// sides are wrong here: each of them alone is enough to keep the log.
    PurgePastCheckpoint,
    /// A linearizable read is answered without asking the leader.
    StaleReadAsLinearizable,
    /// A command is applied again when it is sent again.
    RetryAppliedTwice,
    /// A snapshot leaves the membership out.
    SnapshotWithoutMembership,
    /// A truncation leaves one entry too many.
    TruncationOffByOne,
    /// A node that was removed keeps the connections that it has.
    OldSessionAdmitted,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::FlushBeforeSync,
        Self::VoteNotSynced,
        Self::LeaderRestored,
        Self::PurgePastCheckpoint,
        Self::StaleReadAsLinearizable,
        Self::RetryAppliedTwice,
        Self::SnapshotWithoutMembership,
        Self::TruncationOffByOne,
        Self::OldSessionAdmitted,
    ];

    /// The bug in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::FlushBeforeSync => "flush acknowledged before fsync",
            Self::VoteNotSynced => "vote not fsynced",
            Self::LeaderRestored => "leader restore on",
            Self::PurgePastCheckpoint => "log purged past the checkpoint",
            Self::StaleReadAsLinearizable => "stale read served as linearizable",
            Self::RetryAppliedTwice => "retry applied twice",
            Self::SnapshotWithoutMembership => "snapshot without membership",
            Self::TruncationOffByOne => "truncation off by one",
            Self::OldSessionAdmitted => "old session of a removed node admitted",
        }
    }
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread's runs, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted here.
pub fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
