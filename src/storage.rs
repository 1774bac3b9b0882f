//! Log, state machine, snapshots and metadata: on redb, or in memory.
//!
//! It must never report an entry as flushed before it is on disk, never apply what the log does not
//! hold durably to a durable checkpoint, and never serve bytes that fail their checksum.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

mod admissions;
pub mod apply;
mod backend_locks;
pub mod backup;
mod batch;
mod blocks;
mod caretaker;
mod checked_file;
pub mod codec;
pub mod damage;
pub mod database;
#[cfg(any(test, feature = "simulated-disk"))]
pub mod digest;
pub mod disk;
mod fused_file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
pub mod log_mem;
pub mod log_redb;
mod log_view;
pub mod metadata;
mod overlay;
mod pace;
pub mod pressure;
pub mod progress;
mod read;
pub mod record;
pub mod recover;
pub mod repair;
pub mod scrub;
pub mod snapshot;
pub mod space;
pub mod state;
mod state_check;
pub mod state_mem;
pub mod state_redb;
pub mod syncs;
pub mod tables;
pub mod verify;

#[cfg(test)]
mod log_suite;
#[cfg(test)]
mod power_cuts;

pub use log_view::LogError;

/// What the databases are opened with.
#[derive(Clone, Copy, Debug)]
pub struct StorageOptions {
    /// Page cache of the state.
    pub cache_bytes: u64,
    /// Longest time between two durable checkpoints of the state while it changes.
    pub checkpoint_interval: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            cache_bytes: limits::CACHE_DEFAULT_BYTES,
            checkpoint_interval: Duration::from_millis(limits::CHECKPOINT_INTERVAL_MS),
        }
    }
}

impl StorageOptions {
    /// Bytes of the page cache of the log.
    pub fn log_cache(&self) -> usize {
        let bytes = self.cache_bytes.min(limits::LOG_CACHE_MAX_BYTES);
        usize::try_from(bytes).expect("the bound of the log's cache fits into memory")
    }

    fn cache(&self) -> usize {
        usize::try_from(self.cache_bytes).unwrap_or(usize::MAX)
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The database as such.
    #[error(transparent)]
    Database(#[from] database::OpenDatabaseError),
    /// The file is a database, but what it holds is damaged or something else.
    #[error(
        "the database {} does not hold Aspen's state: {source}. {}",
        path.display(), damage::WHAT_TO_DO
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: tables::StateError,
    },
}

impl StorageError {
    /// Whether what is on disk is at fault, and not the way to it.
    pub fn is_damage(&self) -> bool {
        use database::OpenDatabaseError::Damaged;
        matches!(self, Self::Database(Damaged { .. }) | Self::Content { .. })
    }

    /// For `map_err`: an I/O error with what was tried, and on what.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
