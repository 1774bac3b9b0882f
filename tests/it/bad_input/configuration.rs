//! Flags, environment and files that are refused before anything is opened or made.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{REFUSED, assert_data_kept, assert_ends, serving_with_data, temporary_directory};
use crate::support::node::Node;

/// A node with these flags is refused, and has not made its directory.
fn assert_refused(node: Node, parts: &[&str]) {
    let mut node = node;
    assert_ends(&mut node, REFUSED, parts);
    assert!(!node.dir.exists(), "a node whose configuration was refused made its directory");
}

#[test]
fn flags_with_nonsense_are_refused_by_name_with_what_is_allowed() {
    let dir = temporary_directory();
    for (flags, parts) in [
        (["--peer", "nonsense"], ["peers", "'nonsense", "flag --peer", "aspennode", "`endpoint`"].as_slice()),
        (["--peer", "aspennodeaaaa"], &["peers", "'aspennodeaaaa", "flag --peer", "is no node ticket"]),
        (["--peers", "10.0.0.1:4601,"], &["'10.0.0.1:4601", "is no node ticket"]),
        (["--node-id", "0"], &["node_id", "flag --node-id", "a whole number of 1 or more"]),
        (["--node-id", "two"], &["node_id", "\"two\"", "a whole number of 1 or more"]),
        (["--http-addr", "4600"], &["http_addr", "flag --http-addr", "such as 127.0.0.1:4600"]),
        (["--iroh-relay", "carrier pigeon"], &["iroh_relay", "carrier pigeon", "disabled, n0, or the URL"]),
        (["--serve-relay", "0.0.0.0:4602"], &["serve_relay", "0.0.0.0:4602", "set iroh_relay to its URL"]),
        (["--iroh-paths", "relay"], &["iroh_paths", "no way to anybody", "iroh_relay"]),
        (["--storage", "paper"], &["storage", "\"paper\"", "redb or memory"]),
        #[cfg(not(feature = "hiqlite"))]
        (
            ["--control-backend", "hiqlite"],
            &["control_backend = \"hiqlite\"", "not built into this program", "Set it to \"raft\""],
        ),
        (["--config", "/nowhere/aspen.toml"], &["/nowhere/aspen.toml", "Check the path"]),
    ] {
        assert_refused(Node::new(1, dir.path(), &flags), parts);
    }
}

#[test]
fn public_http_address_without_a_token_is_refused() {
    let dir = temporary_directory();
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:4600"] {
        let node = Node::new(1, dir.path(), &["--http-addr", addr]);
        let given = format!("http_addr = {addr}");
        assert_refused(node, &[&given, "flag --http-addr", "Set http_token_file", "loopback address"]);
    }
}

#[test]
fn unknown_variables_of_the_environment_are_refused_with_the_nearest_name() {
    let dir = temporary_directory();
    let node = Node::new(1, dir.path(), &[]).with_env("ASPEN_HTTP_ADR", "127.0.0.1:0");
    assert_refused(node, &["unknown key 'ASPEN_HTTP_ADR'", "environment variable", "'ASPEN_HTTP_ADDR'"]);
    let node = Node::new(1, dir.path(), &[]).with_env("ASPEN_RAFT__HEARTBEAT_INTERVAL_MS", "often");
    let variable = "environment variable ASPEN_RAFT__HEARTBEAT_INTERVAL_MS";
    assert_refused(node, &["raft.heartbeat_interval_ms", "often", variable, "10 or more milliseconds"]);
}

#[test]
fn files_with_a_mistake_are_refused_with_the_file_and_the_key() {
    let dir = temporary_directory();
    let path = dir.path().join("aspen.toml");
    let file = path.to_str().expect("temporary directories have names in UTF-8");
    for (text, parts) in [
        ("bootstrap = 3", ["bootstrap = 3", "auto, manual or static"].as_slice()),
        ("peers = \"one\"", &["peers = \"one\"", "tickets of other nodes"]),
        ("peers = [\"one\"]", &["'one", "is no node ticket"]),
        (
            "[raft]\nheartbeat_interval_ms = \"1s\"",
            &["raft.heartbeat_interval_ms", "10 or more milliseconds"],
        ),
        ("raft = 3", &["'raft'", "[raft]"]),
        ("boostrap = \"auto\"", &["unknown key 'boostrap'", "Did you mean 'bootstrap'?"]),
        ("[raft]\nheartbeat = 3", &["unknown key 'raft.heartbeat'", "'raft.heartbeat_interval_ms'"]),
    ] {
        fs::write(&path, text).expect("the file can be written");
        let node = Node::new(1, dir.path(), &["--config", file]);
        assert_refused(node, &[parts, &[file]].concat());
    }
}

#[test]
fn file_that_is_no_toml_is_refused_with_the_place() {
    let dir = temporary_directory();
    let path = dir.path().join("aspen.toml");
    fs::write(&path, "bootstrap = \"auto\"\nstorage = = redb\n").expect("the file can be written");
    let mut node = Node::new(1, dir.path(), &[]).with_flags(["--config", &path.to_string_lossy()]);
    node.spawn();
    let (status, log) = (node.wait_for_end(), node.last_log());
    assert_eq!(status.code(), Some(REFUSED), "{log}");
    for part in ["aspen.toml is not valid TOML", "line 2", "storage = = redb"] {
        assert!(log.contains(part), "'{part}' is missing in\n{log}");
    }
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let dir = temporary_directory();
    let secret = dir.path().join("secret");
    fs::write(&secret, "0123456789abcdef".repeat(4)).expect("the file can be written");
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).expect("the mode can be set");
    let secret = secret.to_str().expect("temporary directories have names in UTF-8");
    for (flag, key) in [("--secret-key-file", "secret_key_file"), ("--http-token-file", "http_token_file")] {
        let node = Node::new(1, dir.path(), &[flag, secret]);
        assert_refused(node, &[key, flag, secret, "can be read by others (mode 0644)", "`chmod 600`"]);
    }
}

#[test]
fn own_secret_key_that_others_can_read_is_refused_until_it_is_private_again() {
    let dir = temporary_directory();
    let mut node = serving_with_data(1, dir.path());
    node.kill();
    let secret = node.dir.join("iroh-secret-key");
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("the mode can be set");
    };
    set_mode(&secret, 0o644);
    let parts = ["iroh-secret-key can be read by others (mode 0644)", "`chmod 600`"];
    assert_ends(&mut node, super::FAILED, &parts);
    set_mode(&secret, 0o600);
    node.start_serving();
    assert_data_kept(&node);
}
