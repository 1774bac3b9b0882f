//! `aspen-node verify`, `repair` and `recover`: the data directory of a node that does not run.
//!
//! All take the lock that a running node holds. What they find and do is the storage's; here it is put
//! into words, with the steps that are left to a person.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::data_dir::{DataDir, DataDirError};
use crate::storage::recover::{self, RecoverError, Recovered, RecoveryPlan};
use crate::storage::repair::{self, Action, Plan, RepairError, Repaired};
use crate::storage::verify::{self, Check, Outcome as FileOutcome, Report, VerifyError};

/// What an operation has to say, and whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be printed.
    pub text: String,
    /// Whether nothing is damaged any more.
    pub is_well: bool,
}

/// Why an operation did not get to an end.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The node runs.
    #[error(
        "the node of {} runs{}: stop it first. A running node checks itself in the background",
        dir.display(), pid.map_or(String::new(), |pid| format!(", as process {pid}"))
    )]
    Running {
        /// The directory.
        dir: PathBuf,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// The directory.
    #[error(transparent)]
    DataDir(DataDirError),
    /// The directory cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The repair failed on its way.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// No cluster was made.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

impl CareError {
    /// Whether nothing was begun.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Repair(_) => false,
            Self::Recover(error) => error.is_refusal(),
            _ => true,
        }
    }
}

impl From<DataDirError> for CareError {
    fn from(error: DataDirError) -> Self {
        match error {
            DataDirError::InUse { path, pid } => Self::Running { dir: path, pid },
            other => Self::DataDir(other),
        }
    }
}

/// Checks a data directory.
///
/// # Errors
/// Where it was not checked. Damage is part of the outcome.
pub fn verify(dir: &Path, as_json: bool) -> Result<Outcome, CareError> {
    let _lock = DataDir::open_to_read(dir)?;
    let report = quietly(|| verify::verify(dir))?;
    let is_well = report.damage.is_empty();
    let text = if as_json {
        serde_json::to_string_pretty(&report).expect("a report has only what JSON can hold")
    } else {
        describe(&report)
    };
    Ok(Outcome { text, is_well })
}

/// Makes a damaged state anew, or says what to do instead.
///
/// # Errors
/// Where nothing could be said, or the repair failed on its way.
pub fn repair(dir: &Path, is_dry: bool) -> Result<Outcome, CareError> {
    let _lock = lock(dir, !is_dry)?;
    let plan = quietly(|| repair::plan(dir))?;
    let mut text = describe(&plan.report);
    text.push('\n');
    let is_in_vain = matches!(plan.action, Action::Wait { .. } | Action::Rejoin { .. });
    if is_dry || is_in_vain || plan.action == Action::Nothing {
        text.push_str(&intention(&plan));
        let is_well = !is_in_vain;
        return Ok(Outcome { text, is_well });
    }
    let bar = progress_bar();
    let repaired = quietly(|| {
        plan.carry_out(|done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })
    });
    bar.finish_and_clear();
    text.push_str(&account(&plan, &repaired?));
    Ok(Outcome { text, is_well: true })
}

/// Says what a survivor holds and what may be lost, and makes a cluster of it if it is told to.
///
/// # Errors
/// Where nothing can be made of it, or that failed on its way.
pub fn recover(dir: &Path, yes: bool) -> Result<Outcome, CareError> {
    let _lock = lock(dir, yes)?;
    let plan = quietly(|| recover::plan(dir))?;
    let mut text = survivor(&plan);
    text.push('\n');
    if yes {
        let recovered = quietly(|| plan.carry_out())?;
        text.push_str(&new_cluster(&plan, &recovered));
    } else {
        text.push_str(&what_recovery_does(&plan));
    }
    Ok(Outcome { text, is_well: true })
}

/// Keeps others away. A copy that no node has run on has no lock: one is made where the copy is to be changed.
fn lock(dir: &Path, is_to_change: bool) -> Result<Option<File>, DataDirError> {
    if is_to_change { DataDir::open_to_change(dir).map(Some) } else { DataDir::open_to_read(dir) }
}

/// Runs without the panic messages of the database library, which asserts what damaged files violate:
/// such a panic is caught, and told of as damage.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = run();
    std::panic::set_hook(hook);
    outcome
}

/// A bar on a terminal, and nothing elsewhere.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} log entries applied, {eta} left")
        .expect("the template is valid");
    ProgressBar::new(0).with_style(style)
}

/// A report for people.
fn describe(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |sentence: String| {
        text.push_str(&sentence);
        text.push('\n');
    };
    let node = report.node_id.map_or("a node of unknown id".to_owned(), |id| format!("node {id}"));
    let cluster = report.cluster_id.map_or("of no cluster yet".to_owned(), |id| format!("of cluster {id}"));
    line(format!("{}: {node} {cluster}", report.data_dir.display()));
    if let (Some(revision), Some(keys)) = (report.revision, report.keys) {
        let index = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
        line(format!(
            "revision {revision}, {keys} keys, applied index {}, committed index {}",
            index(report.applied_index),
            index(report.committed_index)
        ));
    }
    line(String::new());
    line(table(&report.checks));
    line(String::new());
    for note in &report.notes {
        line(format!("note: {note}"));
    }
    for damage in &report.damage {
        let what = if damage.is_damage() { "damage" } else { "failure" };
        line(format!("{what}: {damage}"));
    }
    let damaged = report.damage.iter().filter(|damage| damage.is_damage()).count();
    match damaged {
        0 if report.damage.is_empty() => line("all is well".to_owned()),
        0 => line("no damage was found in what could be read".to_owned()),
        1 => line("1 piece of damage was found".to_owned()),
        count => line(format!("{count} pieces of damage were found")),
    }
    text
}

fn table(checks: &[Check]) -> String {
    let mut table = Table::new();
    let rows = checks.iter().map(|check| {
        let result = match check.outcome {
            FileOutcome::Whole => "whole",
            FileOutcome::Damaged => "DAMAGED",
            FileOutcome::Unreadable => "UNREADABLE",
            FileOutcome::Missing => "MISSING",
            FileOutcome::Absent => "not there, not needed",
        };
        let (records, bytes) = (check.records.to_string(), check.bytes.to_string());
        [check.file.display().to_string(), check.holds.to_owned(), records, bytes, result.to_owned()]
    });
    table.load_style(presets::NOTHING);
    table.set_header(["FILE", "HOLDS", "RECORDS", "BYTES", "RESULT"]).add_rows(rows);
    for number in [2, 3] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// What a repair would do.
fn intention(plan: &Plan) -> String {
    match &plan.action {
        Action::Nothing => "there is nothing to repair".to_owned(),
        Action::SetSnapshotsAside { files } => {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            format!("would rename {}; the node makes another snapshot by itself", names.join(", "))
        }
        Action::RebuildState { snapshot, from, to, .. } => {
            format!("would make state.redb anew from {}", sources(snapshot.as_deref(), *from, *to))
        }
        Action::Wait { reason } => format!(
            "cannot be repaired now: {reason}.\n\
             That is no damage: what is in the file may be whole. See to the disk and to who may read the file, then\n\
             run this again. Where the disk never gives it again, it is lost:\n{}",
            replacement(&plan.report)
        ),
        Action::Rejoin { reason } => {
            format!("cannot be repaired: {reason}.\n{}", replacement(&plan.report))
        }
    }
}

fn sources(snapshot: Option<&Path>, from: u64, to: u64) -> String {
    let entries = to.checked_sub(1).filter(|_| to > from).map(|last| format!("log entries {from} to {last}"));
    match (snapshot.map(Path::display), entries) {
        (Some(snapshot), Some(entries)) => format!("the snapshot {snapshot} and the {entries}"),
        (Some(snapshot), None) => format!("the snapshot {snapshot}; no committed entry comes after it"),
        (None, Some(entries)) => format!("the {entries}"),
        (None, None) => "nothing: the log has no committed entry".to_owned(),
    }
}

/// What a repair has done.
fn account(plan: &Plan, repaired: &Repaired) -> String {
    let mut text = String::new();
    if let Action::RebuildState { snapshot, from, to, .. } = &plan.action {
        let sources = sources(snapshot.as_deref(), *from, *to);
        writeln!(text, "made state.redb anew from {sources}").expect("writing to a string succeeds");
    }
    for kept in &repaired.kept {
        writeln!(text, "kept what was damaged as {}; delete it when the node serves again", kept.display())
            .expect("writing to a string succeeds");
    }
    text.push_str("the node can be started. If the disk is failing, replace the node instead");
    text
}

/// The way back for a node whose log cannot be trusted any more.
fn replacement(report: &Report) -> String {
    let id = report.node_id.map_or("N".to_owned(), |id| id.to_string());
    let dir = report.data_dir.display();
    let whose = match report.node_id {
        Some(_) => "",
        None => " (N is the id of this node; `aspen member list` on another member shows it)",
    };
    format!(
        "The node must not vote again with what is left. Replace it{whose}:\n\
         \x20 1. on another member:  aspen member remove {id}\n\
         \x20 2. here:               mv {dir} {dir}.damaged\n\
         \x20 3. on another member:  aspen ticket new\n\
         \x20 4. here, with what that printed; the node gets an id that was never used, and its vote:\n\
         \x20                        aspen-node --data-dir {dir} --join TICKET\n\
         If this is the only node of its cluster, restore the directory from a backup instead: \
         what is damaged here exists nowhere else."
    )
}

/// What a survivor holds, and what may be lost.
fn survivor(plan: &RecoveryPlan) -> String {
    let RecoveryPlan { report, node_id, from, members, last, committed, revision, keys, .. } = plan;
    let mut text = String::new();
    let mut line = |sentence: String| {
        text.push_str(&sentence);
        text.push('\n');
    };
    let cluster = from.map_or("an unknown cluster".to_owned(), |id| format!("cluster {id}"));
    line(format!("{}: node {node_id} of {cluster}", report.data_dir.display()));
    if plan.is_unfinished {
        line("an earlier recovery was cut short; this one completes it".to_owned());
    }
    line(String::new());
    line("members, as this node knew them last:".to_owned());
    for member in members {
        let role = if member.is_voter { "voter" } else { "learner, without a vote" };
        let this = if member.node_id == *node_id { ", this node" } else { "" };
        let addresses: Vec<String> = member.info.addresses.iter().map(ToString::to_string).collect();
        line(format!("  {:>4}  {role}{this}  {}", member.node_id, addresses.join(", ")));
    }
    line(String::new());
    line("what it holds:".to_owned());
    let index = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
    let id = |id: &Option<_>| id.as_ref().map_or("none".to_owned(), ToString::to_string);
    line(format!("  revision {revision} with {keys} keys, all of its log applied"));
    line(format!("  last log entry {}, committed as far as it knows {}", id(last), id(committed)));
    let applied =
        report.applied_index.map_or("nothing is".to_owned(), |index| format!("up to entry {index} it is"));
    line(format!("  of that log {applied} in the state on disk; the next start applies the rest"));
    line(String::new());
    line("what may be lost:".to_owned());
    let voters = members.iter().filter(|member| member.is_voter).count();
    if members.iter().any(|member| member.node_id == *node_id && member.is_voter) && voters == 1 {
        line("  nothing: it is the only voter, so nothing was acknowledged without it".to_owned());
    } else {
        line(format!(
            "  whatever the other members acknowledged behind entry {}. It cannot know whether there is any",
            index(last.map(|last| last.index))
        ));
        line(
            "  If there is another survivor, compare, and recover the one whose last entry is the higher:"
                .to_owned(),
        );
        line(
            "  the term counts first, which stands in front, then the index, which stands behind".to_owned(),
        );
    }
    if let Some((first, last)) = plan.uncommitted() {
        let entries = match first == last {
            true => format!("Entry {first}, which it does not know to be committed, is"),
            false => format!("Entries {first} to {last}, which it does not know to be committed, are"),
        };
        line(format!("{entries} kept: a majority may have had it all, and then it was acknowledged."));
        line("What no majority had is of writes whose senders never learnt what became of them.".to_owned());
    }
    text
}

fn what_recovery_does(plan: &RecoveryPlan) -> String {
    format!(
        "With --yes node {id} becomes the only member of a new cluster, under another cluster id, with all that\n\
         it holds, at a revision beyond all that the others may have reached. The other members can never join\n\
         with what they have: each needs an empty directory and an id that was never used. While a majority of\n\
         the voters may come back, start those instead: then nothing is lost. Nothing was changed.",
        id = plan.node_id
    )
}

fn new_cluster(plan: &RecoveryPlan, recovered: &Recovered) -> String {
    let Recovered { cluster_id, log_id } = recovered;
    let id = plan.node_id;
    format!(
        "node {id} is the only member of the new cluster {cluster_id}, by log entry {log_id}\n\
         \x20 1. take the tickets of the old members out of its configuration, and start it\n\
         \x20 2. look whether all is there:      aspen status; aspen range --limit 10\n\
         \x20 3. here, for each node that joins:  aspen ticket new\n\
         \x20 4. there, with what that printed, the old data directory moved away; the node gets an id that was\n\
         \x20    never used, and its vote:        aspen-node --data-dir DIR --join TICKET"
    )
}
