//! The corpus, replayed.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use super::*;

/// Set, the seeds are written to the corpus where they differ, rather than compared with it.
const WRITE_SEEDS: &str = "ASPEN_WRITE_SEEDS";

/// Begins the names of the seeds in the corpus.
const SEED: &str = "seed-";

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &Target) -> Vec<PathBuf> {
    let dir = fuzz().join("corpus").join(target.name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap()
}

#[test]
fn every_input_of_the_corpus_keeps_the_properties() {
    let mut failures = Vec::new();
    for target in TARGETS {
        let files = corpus(target);
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for file in files {
            let input = fs::read(&file).unwrap();
            match catch_unwind(|| (target.feed)(&input)) {
                Ok(false) if name(&file).starts_with(SEED) => failures.push(format!(
                    "{} refuses {}, which was a real encoding: is what it stands for still readable?",
                    target.name,
                    file.display()
                )),
                Ok(_) => {}
                Err(_) => failures.push(format!("{} fails with {}", target.name, file.display())),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn seeds_in_the_corpus_are_what_is_encoded_today() {
    for target in TARGETS {
        let dir = fuzz().join("corpus").join(target.name);
        for (name, bytes) in (target.seeds)() {
            let file = dir.join(format!("{SEED}{name}"));
            if fs::read(&file).is_ok_and(|there| there == bytes) {
                continue;
            }
            if std::env::var_os(WRITE_SEEDS).is_some() {
                fs::create_dir_all(&dir).unwrap();
                fs::write(&file, bytes).unwrap();
                continue;
            }
            panic!(
                "{} is another one than is encoded today. If the encoding may change, keep that file under \
                 another name that begins with '{SEED}', so that it stays readable, and run with {WRITE_SEEDS}=1",
                file.display()
            );
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let programs: BTreeSet<String> = fs::read_dir(fuzz().join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(programs, names, "fuzz/fuzz_targets and TARGETS name the same");
    for name in &names {
        let text = fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(text.contains(&format!("feed(\"{name}\", input)")), "{name} feeds another target");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
    }
}

/// So small that every checkout can have it.
#[test]
fn corpus_is_small() {
    let files = TARGETS.iter().flat_map(corpus);
    let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 512 * 1024, "the corpus has {bytes} bytes: minimise it with scripts/fuzz.sh --minimise");
}
