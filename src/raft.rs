//! Consensus: openraft's types, its construction, and the actor that owns it.
//!
//! Reads and writes call [`RaftHandle`] directly; only lifecycle and membership go through the actor.
//! It must never import the network: `node` injects one.

#[cfg(not(madsim))]
pub mod actor;
pub mod construct;
pub mod freshness;
pub mod handover;
pub mod installation;
pub mod log_bounds;
pub mod membership;
pub mod observe;
pub mod operations;
mod patient_log;
pub mod runtime;
pub mod traffic;
pub mod types;

/// A running Raft node.
pub type RaftHandle = openraft::Raft<types::TypeConfig, crate::storage::state::StateMachine>;
