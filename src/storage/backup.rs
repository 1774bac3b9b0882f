//! Backups: the live keys of one revision, in a file that outlives the cluster.
//!
//! A snapshot is what one member needs to go on, and changes with the state's tables; a backup is what
//! people keep, so it holds what they put in and nothing else: no history, no sessions, no membership. A
//! backup is written to a temporary file and sent from there, so that a slow receiver holds no old view of
//! the state open, and it is read piece by piece, never as a whole.

mod format;
mod growing;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use format::take_row;
pub use format::{BackupDecoder, BackupError, BackupHeader, Decoded};
pub(crate) use format::{BackupRow, take_rows, write};
pub use growing::BackupPieces;
pub(crate) use growing::{GrowingFile, growing};
