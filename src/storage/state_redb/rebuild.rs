//! A state made anew beside the old one: from a snapshot, or from nothing, and from log entries.
//!
//! It stands under the name of an unfinished database until its maker renames it, so a crash on the way
//! leaves what was there before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Durability;

use super::NEW_STATE_FILE;
use super::handle::{Handle, build_database, create_database, fill_database, remove_leftover};
use crate::raft::types::{Entry, SnapshotMeta};
use crate::storage::StorageOptions;
use crate::storage::batch::{self, Batch};
use crate::storage::damage::DamageAlarm;
use crate::storage::disk::{Disk, RealDisk};
use crate::storage::snapshot::SnapshotData;
use crate::storage::tables::{RedbWrite, StateError};

/// A state that is being made.
pub(in crate::storage) struct Rebuild {
    handle: Handle,
    path: PathBuf,
}

impl Rebuild {
    /// Begins with what a snapshot holds, or with an empty state.
    pub(in crate::storage) fn begin(
        dir: &Path,
        snapshot: Option<(&SnapshotMeta, &SnapshotData)>,
    ) -> io::Result<Self> {
        let (disk, path): (Arc<dyn Disk>, _) = (Arc::new(RealDisk), dir.join(NEW_STATE_FILE));
        let (options, alarm) = (StorageOptions::default(), DamageAlarm::default());
        let handle = match snapshot {
            Some((meta, data)) => build_database(&disk, &path, options, &alarm, meta, data)?.0,
            None => {
                remove_leftover(&*disk, &path).map_err(io::Error::other)?;
                let handle = create_database(&disk, &path, options, &alarm).map_err(io::Error::other)?;
                fill_database(&handle, |_| Ok::<_, StateError>(()))?;
                handle
            }
        };
        Ok(Self { handle, path })
    }

    /// Applies the next entries of the log, in one transaction.
    pub(in crate::storage) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), StateError> {
        let batch = Batch::of(entries)?;
        let mut transaction = self.handle.database.begin_write().map_err(StateError::database)?;
        transaction.set_durability(Durability::None).map_err(StateError::database)?;
        batch::apply(&mut RedbWrite::new(&transaction), &batch.entries)?;
        transaction.commit().map_err(StateError::database)
    }

    /// Makes the state durable and closes it. Returns where it stands.
    pub(in crate::storage) fn finish(self) -> Result<PathBuf, StateError> {
        fill_database(&self.handle, |_| Ok::<_, StateError>(()))?;
        let Self { handle: Handle { database, .. }, path } = self;
        database.close().map_err(StateError::database)?;
        Ok(path)
    }
}
