//! Actors across nodes: sessions between the members, and an agent on each for those who operate them.
//!
//! `ractor_cluster` carries calls between actors; it brings no authentication worth the name, no
//! reconnecting and a TCP port of its own. Here its sessions run on streams of the transport, which knows
//! whom it talks to, and on those alone; they are set up again whenever they end. Reads and writes have no
//! part in any of this: without it a cluster serves as before, and operators see less.
//!
//! Every actor whose messages derive [`RactorClusterMessage`] can be called by every member, so that derive
//! stands in [`messages`] alone, and all other messages are of this process only.
//!
//! # Tiger Style
//! - Only members have sessions; a member that is removed loses its own at once.
//! - There is one session between two nodes, the newest: a new one takes the place of an older one.
//! - Every call has a time limit, and no node waits for another.

pub mod agent;
pub mod agents;
mod bundle;
#[cfg(test)]
mod duplex;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod iroh_stream;
pub mod links;
pub mod messages;
pub mod node_server;
mod operations;
mod report;
pub mod sessions;
#[cfg(test)]
mod tests;

pub use ractor_cluster::{ClusterBidiStream, RactorClusterMessage};
