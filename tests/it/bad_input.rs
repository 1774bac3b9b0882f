//! Whatever is done to a node, it says what is wrong and what to do, and keeps what was written.
//!
//! All of it is tried on real processes. A node that refuses to start ends with 2 where its flags or
//! its configuration are at fault, with 1 otherwise; a node that runs answers and goes on serving.

use crate::support::node::Node;

mod configuration;
mod data_dir;
mod disk;
mod peers;
mod ports;
mod requests;

/// The exit code of a node that failed.
const FAILED: i32 = 1;
/// The exit code of a node whose flags or configuration were refused.
const REFUSED: i32 = 2;

/// Starts a node that must end by itself with that exit code, after a sentence with all of the parts.
fn assert_ends(node: &mut Node, code: i32, parts: &[&str]) {
    node.spawn();
    let status = node.wait_for_end();
    let log = node.last_log();
    assert_eq!(status.code(), Some(code), "{log}");
    assert_says(&log, parts);
}

/// The last line of a log, which stands for the whole of it, has all of the parts.
fn assert_says(log: &str, parts: &[&str]) {
    let last = log.trim_end().lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "'{part}' is missing in the last line of\n{log}");
    }
    assert!(!log.contains("panicked at"), "{log}");
}

/// A node of a cluster of its own that holds a key and has stopped.
fn stopped_with_data(id: u64, base: &std::path::Path) -> Node {
    let mut node = serving_with_data(id, base);
    assert!(node.terminate().success(), "{}", node.log());
    node
}

/// A node of a cluster of its own that holds a key.
fn serving_with_data(id: u64, base: &std::path::Path) -> Node {
    let mut node = Node::new(id, base, &[]);
    node.start_serving();
    node.put("kept", "what was written before");
    node
}

/// The node still serves, and has what [`serving_with_data`] wrote.
fn assert_data_kept(node: &Node) {
    assert_eq!(node.value("kept").as_deref(), Some("what was written before"), "{}", node.log());
    node.put("new", "and what is written now");
    assert_eq!(node.value("new").as_deref(), Some("and what is written now"), "{}", node.log());
}

fn temporary_directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}
