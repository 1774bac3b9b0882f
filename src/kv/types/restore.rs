//! Restoring a backup: the steps that go through the log, and what a backup says about itself.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ClusterId, KvError, NodeId, Revision};
use crate::limits;

/// Names one restore, so that a step which is sent again is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RestoreId(pub Uuid);

impl RestoreId {
    /// Draws a new id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl std::fmt::Display for RestoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One step of a restore. Each has the same effect however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreStep {
    /// Throws away what an earlier restore has staged, and begins another one.
    Begin {
        /// The restore.
        id: RestoreId,
        /// The revision that the backup holds.
        revision: Revision,
        /// Whether keys that are there may be replaced.
        replace: bool,
    },
    /// Stages the keys of one chunk.
    Chunk {
        /// The restore.
        id: RestoreId,
        /// The chunk's number, from 0 on.
        number: u64,
        /// CRC32C of the rows.
        checksum: u32,
        /// The rows, as they stand in the backup.
        rows: Bytes,
    },
    /// Makes what is staged the content of the store, all of it at one revision.
    Commit {
        /// The restore.
        id: RestoreId,
        /// What must be staged by now.
        totals: BackupTotals,
    },
    /// Throws away what is staged.
    Abort {
        /// The restore; absent: whichever is under way.
        id: Option<RestoreId>,
    },
    /// Keeps the keys, and moves the revision on as a restore does: for a store that has lost its newest
    /// writes, whose revisions must not come again with others.
    MoveOn {
        /// Names the move.
        id: RestoreId,
    },
}

impl RestoreStep {
    /// Checks what can be said of a step without the store and the form of a backup's rows.
    pub(super) fn validate(&self) -> Result<(), KvError> {
        match self {
            Self::Begin { revision, .. } => {
                ensure_reached(*revision).map_err(|reason| KvError::BadRestore { reason })
            }
            Self::Chunk { .. } | Self::Commit { .. } | Self::Abort { .. } | Self::MoveOn { .. } => Ok(()),
        }
    }
}

/// Checks that a store can have come to a revision that a backup claims to be of.
pub(crate) fn ensure_reached(revision: Revision) -> Result<(), String> {
    let max = limits::BACKUP_REVISION_MAX;
    if revision.0 <= max {
        return Ok(());
    }
    Err(format!("it is to be of revision {revision}, and no store comes to one above {max}"))
}

/// What a backup's trailer says that there is in front of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTotals {
    /// Keys.
    pub keys: u64,
    /// Chunks.
    pub chunks: u64,
    /// CRC32C of the chunks' checksums.
    pub checksum: u32,
}

/// Where and when a backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOrigin {
    /// The cluster.
    pub cluster_id: Option<ClusterId>,
    /// The member that made it.
    pub node_id: NodeId,
    /// When, in milliseconds since 1970, by that member's clock.
    pub created_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::super::{Command, WriteOp};
    use super::*;

    #[test]
    fn restore_of_a_revision_that_no_store_comes_to_is_refused_before_the_log() {
        let begin = |revision| RestoreStep::Begin {
            id: RestoreId::random(),
            revision: Revision(revision),
            replace: true,
        };
        assert_eq!(begin(limits::BACKUP_REVISION_MAX).validate(), Ok(()));
        for revision in [limits::BACKUP_REVISION_MAX + 1, u64::MAX] {
            let refused = Command::new(WriteOp::Restore(begin(revision))).validate();
            assert_eq!(refused.unwrap_err().code(), "bad_restore");
        }
    }
}
