//! Consensus: openraft's types, its construction, and the actor that owns it.
//!
//! It must never import the network: `node` injects one.

pub mod freshness;
pub mod types;
