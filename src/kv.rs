//! The key-value store as its users see it: data model, interfaces, service, client library.
//!
//! The service turns requests into Raft proposals and reads; it knows the leader and forwards to it.
//! It must never answer a write before a quorum has it on disk, and never wait without a bound.

pub mod backup;
#[cfg(feature = "net")]
pub mod client;
pub mod clock;
#[cfg(feature = "net")]
pub mod cluster_header;
pub mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod interface;
#[cfg(feature = "net")]
pub mod json;
pub mod service;
#[cfg(feature = "net")]
pub mod token;
pub mod types;
