//! Aspen: a linearizable, replicated key-value store that ships as an appliance.
//!
//! # Crate map
//!
//! | module | holds |
//! |---|---|
//! | [`kv`] | the data model, the two control interfaces, the service, the client library |
//! | [`raft`] | openraft's type configuration, construction, the actor that owns its lifecycle |
//! | [`storage`] | log, state machine, snapshots and metadata, on redb or in memory |
//! | `cluster` | actors of all nodes: sessions between them, and an agent on each for operators |
//! | `transport` | the iroh endpoint, admission, the wire protocol, openraft's network, clients over iroh |
//! | `hiqlite` | the second control backend, with the feature of that name |
//! | `api` | the HTTP interface |
//! | `cli` | the command line `aspen`, on the client library |
//! | `node` | identity, supervision, start and stop |
//! | `config`, [`limits`], `telemetry`, `metrics` | settings, bounds, logs, figures |
//! | `fuzzing` | what must hold of every decoder of bytes from outside, in builds for that alone |
//! | `planted` | bugs that the simulation must find, in its build alone |
//!
//! # The layer rule
//!
//! `bin -> node -> {api, cluster -> transport} -> kv -> raft -> storage -> {kv::types, raft::{types, runtime}, limits}`.
//! Beside them, `bin -> cli -> bench -> {transport, kv}` and `node -> hiqlite -> kv`. A layer uses only what stands to its right.
//! `raft` never imports iroh, `storage` imports only openraft's storage traits, `api` never touches Raft.
//! `tests/it/layers.rs` enforces the rule.
//!
//! Everything that opens a socket sits behind the default feature `net`.

#![deny(missing_docs)]

#[cfg(feature = "net")]
pub mod api;
#[cfg(feature = "net")]
pub mod bench;
#[cfg(feature = "net")]
pub mod cli;
#[cfg(feature = "net")]
pub mod cluster;
#[cfg(feature = "net")]
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "hiqlite")]
pub mod hiqlite;
pub mod kv;
pub mod limits;
#[cfg(feature = "net")]
pub mod metrics;
#[cfg(feature = "net")]
pub mod node;
#[cfg(madsim)]
pub mod planted;
pub mod raft;
pub mod storage;
#[cfg(feature = "net")]
pub mod telemetry;
#[cfg(feature = "net")]
pub mod transport;
