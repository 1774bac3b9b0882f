//! Log, state machine, snapshots and metadata: on redb, or in memory.
//!
//! It must never report an entry as flushed before it is on disk, never apply what the log does not
//! hold durably to a durable checkpoint, and never serve bytes that fail their checksum.

pub mod codec;
pub mod database;
pub mod log_mem;
pub mod log_redb;
mod log_view;
pub mod metadata;
pub mod progress;

#[cfg(test)]
mod log_suite;

pub use log_view::LogError;
