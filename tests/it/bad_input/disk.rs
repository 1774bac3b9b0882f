//! Disks that take no more: read-only ones and full ones. File systems of their own stand in for them,
//! which takes root; without it the tests say that they were skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::{FAILED, assert_data_kept, assert_ends, assert_says, temporary_directory};
use crate::support::node::Node;

/// A file system in memory, unmounted when dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at a new directory. Absent, after a line that says so, where this is not permitted.
    fn mount(path: &Path, options: &str, test: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("a directory can be made");
        match mount(path, &["-t", "tmpfs", "-o", options, "tmpfs"]) {
            Ok(()) => Some(Self { path: path.to_owned() }),
            Err(reason) => {
                println!("skipped: {test}: no file system can be mounted: {reason}");
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        mount(&self.path, &["-o", &options]).expect("what was mounted can be mounted again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while a process still uses it.
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}

fn mount(path: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(path).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

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
fn full_disk_ends_the_node_with_the_reason_and_loses_nothing_acknowledged() {
    // Where it ends is where log and state happen to be; some sizes hit the one, some the other.
    for size in ["12m", "17m", "24m", "31m"] {
        fill_up_and_make_room(size);
    }
}

fn fill_up_and_make_room(size: &str) {
    const VALUE_BYTES: usize = 200_000;
    const WRITES_MAX: usize = 400;
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &[]);
    let Some(disk) = Disk::mount(&node.dir, &format!("size={size}"), "full_disk_ends_the_node") else {
        return;
    };
    node.start_serving();
    node.put("kept", "what was written before");

    let value = |index: usize| format!("{index:06}").repeat(VALUE_BYTES / 6);
    let mut acknowledged = 0;
    let refusal = loop {
        let body = json!({ "put": { "key": format!("k{acknowledged}"), "value": value(acknowledged) } });
        let answer = node.post("/write", &body);
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < WRITES_MAX, "the disk is never full");
    };
    assert!(acknowledged > 0, "{refusal:?}");
    assert!(refusal.status >= 500, "{refusal:?}");
    let error = &refusal.json()["error"];
    assert!(error["action"].as_str().is_some_and(|action| !action.is_empty()), "{error}");

    let status = node.wait_for_end();
    assert_eq!(status.code(), Some(FAILED), "{}", node.last_log());
    assert_says(&node.last_log(), &["the node ends", "No space left on device"]);

    disk.remount("size=256m");
    node.start_serving();
    for index in 0..acknowledged {
        assert!(node.value(&format!("k{index}")) == Some(value(index)), "k{index} of {acknowledged} is lost");
    }
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
