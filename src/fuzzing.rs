//! Every decoder of bytes that come from outside, with what must hold of whatever it is fed.
//!
//! A target is a function that `fuzz/` feeds with what a fuzzer makes up, and the tests with what stands in
//! `fuzz/corpus`: it panics where a property does not hold. It is no part of a node.

use crate::storage::fuzzing::Seeds;
use crate::{api, cluster, config, kv, storage, transport};

/// One decoder, or those of one door.
pub struct Target {
    /// Its name, that of its file in `fuzz/fuzz_targets` and of its directory in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds it, and says whether the input was taken for what the target is about.
    pub feed: fn(&[u8]) -> bool,
    /// Real encodings to begin with, by name. They must be taken.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

const fn target(name: &'static str, feed: fn(&[u8]) -> bool, seeds: fn() -> Seeds) -> Target {
    Target { name, feed, seeds }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("backup_file", storage::fuzzing::backup_file, storage::fuzzing::backup_seeds),
    target("config_file", config::fuzzing::config_file, config::fuzzing::config_seeds),
    target("http_body", kv::fuzzing::http_body, kv::fuzzing::body_seeds),
    target("http_request", api::fuzzing::http_request, api::fuzzing::request_seeds),
    target("record", storage::fuzzing::records, storage::fuzzing::record_seeds),
    target("snapshot_file", storage::fuzzing::snapshot_file, storage::fuzzing::snapshot_seeds),
    target("ticket", transport::fuzzing::ticket, transport::fuzzing::ticket_seeds),
    target("wire_actor", cluster::fuzzing::wire_actor, cluster::fuzzing::actor_seeds),
    target("wire_client", transport::fuzzing::wire_client, transport::fuzzing::client_seeds),
    target("wire_hello", transport::fuzzing::wire_hello, transport::fuzzing::hello_seeds),
    target("wire_join", transport::fuzzing::wire_join, transport::fuzzing::join_seeds),
    target("wire_raft", transport::fuzzing::wire_raft, transport::fuzzing::raft_seeds),
    target("wire_snapshot", transport::fuzzing::wire_snapshot, transport::fuzzing::snapshot_seeds),
];

/// Feeds the target of this name.
///
/// # Panics
/// Where what must hold does not, and where there is no such target.
pub fn feed(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the target is in the table");
    (target.feed)(input);
}

#[cfg(test)]
mod tests;
