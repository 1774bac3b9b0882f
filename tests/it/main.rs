//! Integration tests, one binary for all topics.

// All of this is test code, although clippy takes only the functions with `#[test]` for that. Tests say
// on their output what they skipped, and what a node logged before they failed.
#![allow(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

mod actor_cluster;
mod backup;
mod bad_input;
mod bench_over_iroh;
mod command_line;
#[cfg(feature = "hiqlite")]
mod conformance;
mod damage;
mod disk_pressure;
mod documents;

mod examples;
mod failover;
#[cfg(feature = "hiqlite")]
mod hiqlite_flow;
mod hosts;
mod http_docs;
mod layers;
mod life;
mod load;
mod recover;
mod relay;
mod strangers;
mod support;
mod systemd;
mod transport_figures;
