//! Runs every example of docs/http-api.md, in order, against a node that has just been started.

use std::process::Command;

use crate::support::node::Node;

/// The address that the document's examples use.
const DOCUMENTED: &str = "127.0.0.1:4600";

/// A command of a `console` block with the whole reply that it shall give.
struct Example {
    line: usize,
    command: String,
    reply: String,
}

/// Takes the examples out of a document: behind `$` a command, to the end of its quotes; then its reply.
fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut in_block, mut in_command) = (false, false);
    for (index, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            in_block = line == "```console";
            in_command = false;
        } else if in_block && in_command {
            let example = examples.last_mut().expect("a command was begun");
            example.command.push('\n');
            example.command.push_str(line);
            in_command = is_quote_open(&example.command);
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| in_block) {
            in_command = is_quote_open(command);
            examples.push(Example { line: index + 1, command: command.to_owned(), reply: String::new() });
        } else if in_block {
            let example = examples.last_mut().unwrap_or_else(|| panic!("line {}: no command", index + 1));
            example.reply.push_str(line);
            example.reply.push('\n');
        }
    }
    examples
}

fn is_quote_open(command: &str) -> bool {
    command.matches('\'').count() % 2 == 1
}

/// Whether a text is what was documented, where `…` stands for any text.
fn matches(documented: &str, text: &str) -> bool {
    let mut parts = documented.split('…');
    let first = parts.next().expect("a split has one part at least");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn every_example_of_the_http_documentation_gives_the_reply_that_it_shows() {
    let document = include_str!("../../docs/http-api.md");
    let examples = examples(document);
    assert!(examples.len() >= 30, "only {} examples were found", examples.len());

    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1, dir.path(), &["--bootstrap", "manual"]);
    node.start();
    let addr = node.http().to_string();
    for example in examples {
        let command = example.command.replace(DOCUMENTED, &addr);
        let run = Command::new("bash").args(["-c", &command]).output().expect("bash runs");
        let reply = String::from_utf8(run.stdout).expect("a reply is text").replace(&addr, DOCUMENTED);
        assert!(
            matches(example.reply.trim_end(), reply.trim_end()),
            "docs/http-api.md, line {}:\n$ {}\ndocumented: {}\nanswered:   {}",
            example.line,
            example.command,
            example.reply.trim_end(),
            reply.trim_end()
        );
    }
}

#[test]
fn a_documented_reply_matches_itself_and_nothing_else() {
    assert!(matches("{\"a\":…,\"b\":1}", "{\"a\":77,\"b\":1}"));
    assert!(matches("…", ""));
    assert!(matches("same", "same"));
    assert!(!matches("{\"a\":…,\"b\":1}", "{\"a\":77,\"b\":2}"));
    assert!(!matches("same", "same, but longer"));
}
