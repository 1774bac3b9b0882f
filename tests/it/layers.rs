//! The layer rule of the crate, enforced.
//!
//! Every source file is parsed, and each path into another module of the crate, or into a library that
//! belongs to some layers only, is held against the rule. Code for tests alone is exempt.

use std::fs;
use std::path::{Path, PathBuf};

mod paths;
mod rule;

use paths::{Source, paths_of, test_only_modules};
use rule::{check, layer_of};

/// A path that the rule forbids.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    sentence: String,
}

/// Checks sources as one crate.
fn violations(sources: &[Source]) -> Vec<Violation> {
    let exempt: Vec<Vec<String>> = sources.iter().flat_map(test_only_modules).collect();
    let mut violations = Vec::new();
    for source in sources {
        if exempt.iter().any(|module| source.module.starts_with(module)) {
            continue;
        }
        for found in paths_of(source) {
            if let Err(sentence) = check(layer_of(&source.module), &found.segments) {
                violations.push(Violation { file: source.file.clone(), line: found.line, sentence });
            }
        }
    }
    violations
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_layer_uses_only_what_stands_to_its_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let relative = file.strip_prefix(&root).unwrap().to_str().unwrap();
            Source::parse(relative, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(sources.len() > 10, "the sources are not where they are looked for");

    let violations = violations(&sources);
    let report: Vec<String> = violations
        .iter()
        .map(|Violation { file, line, sentence }| format!("src/{file}:{line}: {sentence}"))
        .collect();
    assert!(report.is_empty(), "the layer rule of src/lib.rs is broken:\n{}", report.join("\n"));
}

/// The lines of one small source that break the rule.
fn broken_lines(file: &str, text: &str) -> Vec<usize> {
    violations(&[Source::parse(file, text)]).into_iter().map(|violation| violation.line).collect()
}

#[test]
fn a_path_to_the_left_is_found_however_it_is_written() {
    for (file, text) in [
        ("storage/log.rs", "use crate::raft::actor::Actor;"),
        ("storage/log.rs", "use crate::{limits, kv::{types::Key, service}};"),
        ("storage/log.rs", "use super::super::api;"),
        ("storage.rs", "use super::kv::service as s;"),
        ("storage/log.rs", "pub use crate::node::*;"),
        ("storage/log.rs", "use ::aspen::node;"),
        ("storage/log.rs", "fn f() { crate::kv::service::get() }"),
        ("storage/log.rs", "fn f(_: Option<crate::config::Config>) {}"),
        ("storage/log.rs", "fn f() { assert!(crate::kv::service::ready()); }"),
        ("storage/log.rs", "mod inner { use super::super::super::transport; }"),
        ("raft/actor.rs", "use iroh::Endpoint;"),
        ("raft/actor.rs", "use iroh_tickets as t;"),
        ("raft/actor.rs", "fn f() { irpc::rpc() }"),
        ("raft/actor.rs", "use crate::kv::forward::Forward;"),
        ("raft/types.rs", "use crate::storage::progress;"),
        ("storage/log.rs", "use ractor::Actor;"),
        ("kv/types/key.rs", "use crate::raft::types::Proposal;"),
        ("kv/types/key.rs", "use openraft::Raft;"),
        ("kv/service.rs", "use redb::Database;"),
        ("kv/service.rs", "use crate::transport::network;"),
        ("api/kv.rs", "use openraft::Raft;"),
        ("api/kv.rs", "use crate::raft::types::LogId;"),
        ("api/kv.rs", "use crate::storage::progress;"),
        ("api/kv.rs", "use crate::transport::server;"),
        ("api/kv.rs", "use crate::config::Config;"),
        ("transport/server.rs", "use crate::node::identity;"),
        ("transport/server.rs", "use axum::Router;"),
        ("transport/server.rs", "use crate::config::Config;"),
        ("limits.rs", "use crate::kv::types::Key;"),
        ("metrics.rs", "use crate::kv::service;"),
        ("unheard_of.rs", "use crate::limits;"),
        ("kv/service.rs", "use crate as aspen;"),
    ] {
        assert_eq!(broken_lines(file, text), [1], "{file}: {text}");
    }
}

#[test]
fn a_path_to_the_right_is_allowed() {
    for (file, text) in [
        ("storage/log.rs", "use crate::{limits, kv::types::Key, raft::types::{Entry, LogId}};"),
        ("storage/log.rs", "use super::progress; use redb::Database; use openraft::storage::RaftLogStorage;"),
        ("storage/log.rs", "fn f() { metrics::counter!(\"a\").increment(1); }"),
        ("raft/actor.rs", "use crate::storage::log; use super::freshness; use ractor::Actor;"),
        ("raft/types.rs", "use crate::kv::types::KvError;"),
        ("kv/forward.rs", "use super::types::Peer; use crate::raft::types::Proposal;"),
        ("kv.rs", "pub use types::Key;"),
        ("api/kv.rs", "use crate::kv::interface::KeyValueStore; use axum::Router;"),
        ("transport/network.rs", "use crate::raft::types::TypeConfig; use iroh::Endpoint;"),
        ("config.rs", "use crate::telemetry::LogFormat; use crate::kv::types::NodeId;"),
        ("node.rs", "use crate::{api, config, metrics, raft, storage, telemetry, transport};"),
        ("bin/aspen-node.rs", "use aspen::node; use aspen::config::Config;"),
        ("lib.rs", "pub mod kv;"),
        ("storage/log.rs", "pub(in crate::storage) fn f() {}"),
        ("storage/log.rs", "/// As [`crate::node`] does.\nfn f() {}"),
    ] {
        assert_eq!(broken_lines(file, text), [0; 0], "{file}: {text}");
    }
}

#[test]
fn code_for_tests_alone_is_exempt() {
    let inline = "#[cfg(test)]\nmod tests { use crate::node; }\nuse crate::api;";
    assert_eq!(broken_lines("storage/log.rs", inline), [3]);
    let not_exempt = "#[cfg(not(test))]\nuse crate::node;";
    assert_eq!(broken_lines("storage/log.rs", not_exempt), [2]);

    let parent = Source::parse("storage/log.rs", "#[cfg(test)]\nmod tests;");
    let tests = Source::parse("storage/log/tests.rs", "use crate::node;");
    let deeper = Source::parse("storage/log/tests/suite.rs", "use crate::node;");
    assert_eq!(violations(&[parent, tests, deeper]), []);
}

#[test]
fn a_violation_names_both_sides_and_the_line() {
    let found = violations(&[Source::parse("raft/actor.rs", "\n\nuse crate::api::router;")]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].file.as_str(), found[0].line), ("raft/actor.rs", 3));
    assert!(found[0].sentence.contains("`raft` must not use `crate::api::router`"), "{}", found[0].sentence);
}
