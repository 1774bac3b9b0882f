//! Holds the documents to what is there: every file that one names, every place that one links to, and every
//! command of the programs that one shows.

use std::fs;
use std::path::{Path, PathBuf};

use aspen::cli::Cli;
use aspen::config::Flags;
use clap::CommandFactory;

/// What is looked through.
const DOCUMENTS: &[&str] =
    &["AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "docs", "fuzz"];

/// The ends of names that are files of this repository.
const ENDINGS: &[&str] = &[".md", ".nix", ".py", ".rs", ".service", ".sh", ".yml"];

/// Where nothing of this repository is kept.
const NOT_OURS: &[&str] = &[".git", "target"];

/// Files that documents name and that are not here.
const ELSEWHERE: &[&str] = &[
    // A user's own: the example for NixOS.
    "aspen-fleet.nix",
    "berlin.nix",
];

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the repository can be listed") {
        let path = entry.expect("the repository can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("names are text");
        if NOT_OURS.contains(&name) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn documents(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    files_below(root, &mut files);
    files.retain(|file| {
        DOCUMENTS.iter().any(|name| file.starts_with(root.join(name)))
            && file.extension().is_some_and(|extension| extension == "md")
    });
    files
}

/// The text of a document without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose += line;
            prose.push('\n');
        }
    }
    prose
}

/// The names between backticks that are names of files.
fn named_files(prose: &str) -> Vec<&str> {
    let is_of_a_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let spans = prose.split('`').skip(1).step_by(2).filter(|span| !span.starts_with(['/', '.', '~']));
    let words = spans.flat_map(|span| span.split_whitespace());
    words
        .filter(|word| word.chars().all(is_of_a_path) && ENDINGS.iter().any(|end| word.ends_with(end)))
        .collect()
}

/// What a document links to within the repository: a file, a heading of it, or both.
fn links(prose: &str) -> Vec<(&str, Option<&str>)> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let inside = targets.filter(|target| !target.contains("://"));
    inside
        .map(|target| target.split_once('#').map_or((target, None), |(file, place)| (file, Some(place))))
        .collect()
}

/// The anchors of a document's headings.
fn anchors(text: &str) -> Vec<String> {
    let prose = prose(text);
    let headings =
        prose.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_file_and_place_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    files_below(root, &mut files);
    let is_there = |name: &str| {
        let end = Path::new(name);
        ELSEWHERE.contains(&name) || files.iter().any(|file| file.ends_with(end))
    };
    let documents = documents(root);
    assert!(documents.len() > 30, "{} documents are looked through", documents.len());
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        let name = document.strip_prefix(root).unwrap().display();
        let prose = prose(&text);
        for file in named_files(&prose) {
            looked_at += 1;
            if !is_there(file) {
                wrong.push(format!("{name} names `{file}`, which is nowhere"));
            }
        }
        for (file, place) in links(&prose) {
            looked_at += 1;
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            if !target.exists() {
                wrong.push(format!("{name} links to {file}, which is nowhere"));
            } else if let Some(place) = place
                && !anchors(&fs::read_to_string(&target).unwrap()).iter().any(|anchor| anchor == place)
            {
                wrong.push(format!("{name} links to {file}#{place}, and there is no such heading"));
            }
        }
    }
    assert!(looked_at > 200, "{looked_at} names are looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_links_and_headings_are_found_and_code_is_passed_over() {
    let text = "See `src/a.rs` and `cargo run x.sh`, [there](b.md#one-two), [here](#c).\n```\n`not/me.rs`\n```\n## One: two\n";
    let prose = prose(text);
    assert_eq!(named_files(&prose), ["src/a.rs", "x.sh"]);
    assert_eq!(links(&prose), [("b.md", Some("one-two")), ("", Some("c"))]);
    assert_eq!(anchors(text), ["one-two"]);
}

/// The commands of Aspen's own programs that a document shows, in prose and in blocks, as words.
fn shown_commands(text: &str) -> Vec<Vec<String>> {
    let prose = prose(text);
    let spans = prose.split('`').skip(1).step_by(2).map(str::to_owned);
    // A command goes on over lines that end in a backslash.
    let joined = text.replace("\\\n", " ");
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            lines.push(line.trim_start().trim_start_matches("$ ").to_owned());
        }
    }
    let ours =
        |words: &Vec<String>| words.first().is_some_and(|first| first == "aspen" || first == "aspen-node");
    let words = |line: String| {
        let command = line.split([';', '|', '&', '>', '#', '$', '(']).next().unwrap_or_default().to_owned();
        command.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    spans.chain(lines).map(words).filter(ours).collect()
}

/// What is wrong with a command as it is shown: a subcommand or a flag that the program does not have.
fn mistake(words: &[String]) -> Option<String> {
    let mut command = match &*words[0] {
        "aspen" => Cli::command(),
        _ => Flags::command(),
    };
    command.build();
    let mut command = &command;
    let mut words = words[1..].iter();
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) {
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let Some(known) = command.get_arguments().find(|argument| argument.get_long() == Some(name))
            else {
                return Some(format!("`{}` has no --{name}", command.get_name()));
            };
            if known.get_action().takes_values() && value.is_none() {
                words.next();
            }
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        } else if command.has_subcommands() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            return Some(format!("`{}` has no subcommand {word}", command.get_name()));
        }
    }
    None
}

#[test]
fn every_command_that_a_document_shows_is_one_that_the_programs_take() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for document in documents(root) {
        for words in shown_commands(&fs::read_to_string(&document).unwrap()) {
            looked_at += 1;
            if let Some(mistake) = mistake(&words) {
                let name = document.strip_prefix(root).unwrap().display();
                wrong.push(format!("{name} shows `{}`, and {mistake}", words.join(" ")));
            }
        }
    }
    assert!(looked_at > 100, "{looked_at} commands are looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_with_a_mistake_are_found() {
    let mistake = |line: &str| mistake(&shown_commands(&format!("See `{line}`."))[0]);
    assert_eq!(mistake("aspen get key --rev 1 | cat --nonsense"), None);
    assert_eq!(mistake("aspen --addr 127.0.0.1:1 member list"), None);
    assert!(mistake("aspen member lst").unwrap().contains("lst"));
    assert!(mistake("aspen get key --revision 1").unwrap().contains("--revision"));
    assert!(mistake("aspen-node --dir x").unwrap().contains("--dir"));
    assert_eq!(shown_commands("```sh\n$ aspen put \\\n  a b\nls\n```"), [["aspen", "put", "a", "b"]]);
}
