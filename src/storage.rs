//! Log, state machine, snapshots and metadata: on redb, or in memory.
//!
//! It must never report an entry as flushed before it is on disk, never apply what the log does not
//! hold durably to a durable checkpoint, and never serve bytes that fail their checksum.

pub mod progress;
