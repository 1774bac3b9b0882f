//! Disks that take no more: read-only ones and full ones. File systems of their own stand in for them,
//! which takes root; without it the tests say that they were skipped.

use std::thread;

use serde_json::json;

use super::{FAILED, assert_data_kept, assert_ends, assert_says, temporary_directory};
use crate::support::disk::Disk;
use crate::support::node::Node;

#[test]
fn read_only_directory_is_refused_and_serves_again_once_it_is_writable() {
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &[]);
    let Some(disk) = Disk::mount(&node.dir, "size=64m", "read_only_directory_is_refused") else { return };
    node.start_serving();
    node.put("kept", "what was written before");
    assert!(node.terminate().success(), "{}", node.log());

    disk.remount("ro");
    let path = node.dir.to_string_lossy().into_owned();
    assert_ends(&mut node, FAILED, &[&path, "the file system is read-only", "Mount it writable"]);
    let inside = node.dir.join("new").to_string_lossy().into_owned();
    let mut new = Node::new(2, dir.path(), &["--data-dir", &inside]);
    assert_ends(&mut new, FAILED, &[&inside, "the file system is read-only", "or move data_dir"]);

    disk.remount("rw");
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn disk_that_something_else_fills_at_once_costs_nothing_that_was_acknowledged() {
    // Where it hits is where log and state happen to be; some sizes hit the one, some the other.
    for size in ["24m", "31m", "40m"] {
        fill_up_and_make_room(size);
    }
}

/// Fills the disk behind the node's back while it writes. The node refuses in time, or ends with the
/// reason where the write was under way already.
fn fill_up_and_make_room(size: &str) {
    const VALUE_BYTES: usize = 200_000;
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &[]);
    let Some(disk) = Disk::mount(&node.dir, &format!("size={size}"), "disk_that_something_else_fills") else {
        return;
    };
    node.start_serving();
    node.put("kept", "what was written before");

    let value = |index: usize| format!("{index:06}").repeat(VALUE_BYTES / 6);
    let mut acknowledged = 0;
    let refusal = thread::scope(|scope| {
        let filling = scope.spawn(|| disk.fill_up_to(0));
        loop {
            let body = json!({ "put": { "key": format!("k{acknowledged}"), "value": value(acknowledged) } });
            match node.try_post("/write", &body) {
                Ok(answer) if answer.status == 200 => acknowledged += 1,
                refused => {
                    filling.join().expect("the disk can be filled");
                    break refused;
                }
            }
        }
    });
    match refusal {
        Ok(answer) if answer.status == 507 => {
            assert_eq!(answer.json()["error"]["code"], "disk_full");
            println!("{size}: refused in time, after {acknowledged} writes");
            assert_eq!(node.value("kept").as_deref(), Some("what was written before"), "{}", node.log());
            disk.empty();
            node.wait_until_writable();
        }
        ended => {
            println!("{size}: the node ended, after {acknowledged} writes: {ended:?}");
            let status = node.wait_for_end();
            assert_eq!(status.code(), Some(FAILED), "{}", node.last_log());
            assert_says(&node.last_log(), &["the node ends", "No space left on device"]);
            assert!(!node.last_log().contains("is damaged"), "{}", node.last_log());
            disk.empty();
            node.start_serving();
        }
    }
    for index in 0..acknowledged {
        assert!(node.value(&format!("k{index}")) == Some(value(index)), "k{index} of {acknowledged} is lost");
    }
    disk.remount("size=256m");
    node.wait_until_writable();
    assert_data_kept(&node);
}

#[test]
fn new_node_on_a_full_disk_says_so_and_starts_once_there_is_room() {
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &[]);
    let Some(disk) = Disk::mount(&node.dir, "size=64k", "new_node_on_a_full_disk") else { return };
    node.spawn();
    let (status, log) = (node.wait_for_end(), node.last_log());
    assert_eq!(status.code(), Some(FAILED), "{log}");
    assert_says(&log, &[&node.dir.to_string_lossy(), "o space"]);
    disk.remount("size=64m");
    node.start_serving();
    node.put("k", "v");
}
