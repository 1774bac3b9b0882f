//! Data directories that are another node's, another process's, damaged, or no data directories.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{
    FAILED, assert_data_kept, assert_ends, serving_with_data, stopped_with_data, temporary_directory,
};
use crate::support::node::Node;

/// A node that is told to use the directory of another one.
fn in_directory_of(other: &Node, id: u64, base: &Path) -> Node {
    Node::new(id, base, &[]).with_flags(["--data-dir", &other.dir.to_string_lossy()])
}

#[test]
fn directory_of_another_node_id_is_refused_and_stays_as_it_was() {
    let dir = temporary_directory();
    let mut owner = stopped_with_data(1, dir.path());
    let mut other = in_directory_of(&owner, 2, dir.path());
    assert_ends(
        &mut other,
        FAILED,
        &["belongs to node 1", "says node 2", "set it to 1", "empty data directory"],
    );
    owner.start_serving();
    assert_data_kept(&owner);
}

#[test]
fn directory_of_another_key_is_refused_and_stays_as_it_was() {
    let dir = temporary_directory();
    let mut owner = stopped_with_data(1, dir.path());
    let secret = dir.path().join("other-key");
    let made = Command::new(env!("CARGO_BIN_EXE_aspen-node"))
        .args(["keygen", "--out"])
        .arg(&secret)
        .output()
        .expect("keygen runs");
    assert!(made.status.success(), "{made:?}");
    let other_key = String::from_utf8(made.stdout).expect("a key is printed in hex");
    let secret = secret.to_string_lossy();

    let mut other = in_directory_of(&owner, 1, dir.path()).with_flags(["--secret-key-file", &secret]);
    let given = format!("started with the key {}", other_key.trim());
    assert_ends(&mut other, FAILED, &["belongs to the key", &given, "put the old secret key back"]);
    owner.start_serving();
    assert_data_kept(&owner);
}

#[test]
fn key_file_with_something_else_is_refused_and_not_replaced() {
    let dir = temporary_directory();
    let mut node = stopped_with_data(1, dir.path());
    let path = node.dir.join("iroh-secret-key");
    let key = fs::read(&path).expect("the key is there");
    fs::write(&path, "not a key\n").expect("the file can be written");
    assert_ends(
        &mut node,
        FAILED,
        &["iroh-secret-key does not hold a secret key", "Restore it from a backup"],
    );
    assert_eq!(fs::read(&path).expect("the file is there"), b"not a key\n");
    fs::write(&path, key).expect("the file can be written");
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn second_process_on_a_directory_is_refused_and_the_first_serves_on() {
    let dir = temporary_directory();
    let first = serving_with_data(1, dir.path());
    let mut second = in_directory_of(&first, 1, &dir.path().join("second"));
    fs::create_dir(dir.path().join("second")).expect("a directory can be made");
    let holder = format!("in use by process {}", first.pid());
    assert_ends(&mut second, FAILED, &[&first.dir.to_string_lossy(), &holder, "Stop that one first"]);
    assert_data_kept(&first);
}

#[test]
fn truncated_databases_are_refused_and_left_alone() {
    let dir = temporary_directory();
    let mut node = stopped_with_data(1, dir.path());
    for name in ["metadata.redb", "raft.redb", "state.redb"] {
        let path = node.dir.join(name);
        let whole = fs::read(&path).expect("the database is there");
        for length in [0, 100, whole.len() / 2] {
            fs::write(&path, &whole[..length]).expect("the file can be written");
            assert_ends(&mut node, FAILED, &[name, "damaged", "Run `aspen-node repair`"]);
            let left = fs::read(&path).expect("the database is there");
            assert!(left == whole[..length], "{name} of {length} bytes was changed");
        }
        fs::write(&path, whole).expect("the file can be written");
    }
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn databases_that_hold_something_else_are_refused_and_left_alone() {
    let dir = temporary_directory();
    let mut node = stopped_with_data(1, dir.path());
    for name in ["metadata.redb", "raft.redb", "state.redb"] {
        let path = node.dir.join(name);
        let whole = fs::read(&path).expect("the database is there");
        let foreign = b"#!/bin/sh\n".repeat(10_000);
        fs::write(&path, &foreign).expect("the file can be written");
        assert_ends(&mut node, FAILED, &[name, "no file of Aspen's", "Run `aspen-node repair`"]);
        assert!(fs::read(&path).expect("the file is there") == foreign, "{name} was changed");
        fs::write(&path, whole).expect("the file can be written");
    }
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn lost_log_or_metadata_is_refused_and_not_made_anew() {
    let dir = temporary_directory();
    let mut node = stopped_with_data(1, dir.path());
    let away = dir.path().join("away");
    for (name, parts) in [
        ("raft.redb", ["raft.redb is missing", "Remove node 1 from the cluster", "under another id"]),
        ("metadata.redb", ["metadata.redb is missing", "Run `aspen-node repair`", "how to replace the node"]),
    ] {
        let path = node.dir.join(name);
        fs::rename(&path, &away).expect("a file can be moved");
        assert_ends(&mut node, FAILED, &parts);
        assert!(!path.exists(), "{name} was made anew");
        fs::rename(&away, &path).expect("a file can be moved");
    }
    node.start_serving();
    assert_data_kept(&node);
}

#[test]
fn foreign_directories_and_files_are_refused_and_left_alone() {
    let dir = temporary_directory();
    let mut node = Node::new(1, dir.path(), &[]);
    fs::create_dir(&node.dir).expect("a directory can be made");
    fs::write(node.dir.join("thesis.tex"), "x").expect("a file can be written");
    assert_ends(&mut node, FAILED, &["n1 holds 'thesis.tex'", "left alone", "an empty or a new directory"]);
    let left: Vec<_> = fs::read_dir(&node.dir).expect("it can be listed").collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let mut node = Node::new(2, dir.path(), &[]);
    fs::write(&node.dir, "x").expect("a file can be written");
    assert_ends(&mut node, FAILED, &["n2 is not a directory", "Set data_dir to a directory"]);
    assert_eq!(fs::read(&node.dir).expect("the file is there"), b"x");
}

#[test]
fn node_that_is_killed_again_and_again_serves_the_same_cluster() {
    let dir = temporary_directory();
    let mut node = serving_with_data(1, dir.path());
    let cluster_id = |node: &Node| node.get("/cluster").ok()["cluster_id"].clone();
    let before = cluster_id(&node);
    for _ in 0..10 {
        node.kill();
        node.start_serving();
        assert_eq!(cluster_id(&node), before);
    }
    assert_data_kept(&node);
}
