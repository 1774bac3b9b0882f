//! Checking a stopped node's data directory as a whole, without changing a byte of it.
//!
//! Every record of every file is read and checked, then what the files say about each other: the state
//! must be one that the log leads to, and the log must continue it. The caller holds the directory's
//! lock: of a running node's files nothing can be said.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::damage::{Damage, Kind, Place};
use super::database;
use super::log_redb::LOG_FILE;
use super::log_redb::survey::LogSurvey;
use super::metadata::{METADATA_FILE, Metadata, MetadataError, Recovery};
use super::overlay;
use super::state_redb::{NEW_STATE_FILE, SHRUNK_STATE_FILE, SNAPSHOT_DIR, STATE_FILE};
use crate::kv::types::{ClusterId, NodeId, PublicKey, Revision};
use crate::limits;

pub(super) mod snapshots;
pub(super) mod state;
#[cfg(test)]
pub(crate) mod tests;

use snapshots::SnapshotFacts;
use state::StateFacts;

/// Why a directory was not checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A newer Aspen wrote it.
    #[error(transparent)]
    NewerFormat(MetadataError),
    /// A newer Aspen wrote a part of it.
    #[error("{0}. Nothing was checked beyond that, or changed")]
    NewerRecord(Damage),
    /// There is nothing to check.
    #[error(
        "{} holds no data of an Aspen node: none of metadata.redb, raft.redb and state.redb is there. Give the data directory of a node",
        dir.display()
    )]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a snapshot's file holds.
pub(super) const SNAPSHOT: &str = "snapshot";

/// What was found in a data directory.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The directory.
    pub data_dir: PathBuf,
    /// Whose it is, where that can be read.
    pub node_id: Option<NodeId>,
    /// The cluster, where the node belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// The last log index in the state, where that can be read.
    pub applied_index: Option<u64>,
    /// The last log index known to be committed.
    pub committed_index: Option<u64>,
    /// The newest revision, where the state can be read.
    pub revision: Option<Revision>,
    /// Live keys.
    pub keys: Option<u64>,
    /// What was checked, file by file.
    pub checks: Vec<Check>,
    /// What is damaged, or cannot be read. Empty if all is well.
    pub damage: Vec<Damage>,
    /// What is no damage, and worth knowing.
    pub notes: Vec<String>,
}

/// One file that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its path in the data directory.
    pub file: PathBuf,
    /// What it holds.
    pub holds: &'static str,
    /// Records read.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// How it is.
    pub outcome: Outcome,
}

/// How a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it is as it was written.
    Whole,
    /// Some of it is not.
    Damaged,
    /// The operating system does not give it, so that nothing is known of it.
    Unreadable,
    /// It is not there, and must be.
    Missing,
    /// It is not there, and need not be.
    Absent,
}

/// All that is known of a data directory.
pub(super) struct Survey {
    pub(super) report: Report,
    pub(super) log: Option<LogSurvey>,
    pub(super) state: Option<StateFacts>,
    /// Whole ones, the newest last.
    pub(super) snapshots: Vec<SnapshotFacts>,
    pub(super) metadata_is_whole: bool,
    pub(super) public_key: Option<PublicKey>,
    pub(super) recovery: Option<Recovery>,
    pub(super) log_is_whole: bool,
}

/// Checks the data directory of a node that does not run.
///
/// # Errors
/// [`VerifyError`], where nothing was checked. Damage is no error but part of the report.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    Ok(survey(dir)?.report)
}

/// Looks at everything.
pub(super) fn survey(dir: &Path) -> Result<Survey, VerifyError> {
    let mut survey = Survey::new(dir)?;
    survey.metadata(dir)?;
    survey.log(dir);
    survey.state(dir);
    survey.snapshots(dir)?;
    if let Some(newer) = survey.report.damage.iter().find(|damage| damage.kind == Kind::Newer) {
        return Err(VerifyError::NewerRecord(newer.clone()));
    }
    survey.state_against_log(dir);
    Ok(survey)
}

impl Survey {
    fn new(dir: &Path) -> Result<Self, VerifyError> {
        let is_there = |name: &&str| dir.join(name).exists();
        if ![METADATA_FILE, LOG_FILE, STATE_FILE].iter().any(is_there) {
            return Err(VerifyError::NoStore { dir: dir.to_owned() });
        }
        let report = Report {
            data_dir: dir.to_owned(),
            node_id: None,
            cluster_id: None,
            applied_index: None,
            committed_index: None,
            revision: None,
            keys: None,
            checks: Vec::new(),
            damage: Vec::new(),
            notes: Vec::new(),
        };
        Ok(Self {
            report,
            log: None,
            state: None,
            snapshots: Vec::new(),
            metadata_is_whole: false,
            public_key: None,
            recovery: None,
            log_is_whole: false,
        })
    }

    /// Whether the node has taken part in a cluster, as far as that can be told.
    fn is_member(&self) -> bool {
        self.report.cluster_id.is_some() || self.log.as_ref().is_some_and(|log| log.facts.vote.is_some())
    }

    fn add(&mut self, path: &Path, holds: &'static str, records: u64, outcome: Outcome) {
        let file = path.strip_prefix(&self.report.data_dir).unwrap_or(path).to_owned();
        let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.report.checks.push(Check { file, holds, records, bytes, outcome });
    }

    fn add_faulty(&mut self, path: &Path, holds: &'static str, mut damage: Vec<Damage>) {
        damage.truncate(limits::VERIFY_FINDINGS_MAX_COUNT);
        let outcome = if damage.iter().all(|damage| damage.kind == Kind::Failed) {
            Outcome::Unreadable
        } else {
            Outcome::Damaged
        };
        self.report.damage.append(&mut damage);
        self.add(path, holds, 0, outcome);
    }

    fn add_missing(&mut self, path: &Path, holds: &'static str, is_needed: bool) {
        if is_needed {
            self.report.damage.push(Damage::new(path, Place::File, "it is missing"));
        }
        self.add(path, holds, 0, if is_needed { Outcome::Missing } else { Outcome::Absent });
    }

    fn metadata(&mut self, dir: &Path) -> Result<(), VerifyError> {
        const HOLDS: &str = "whose directory it is";
        let path = dir.join(METADATA_FILE);
        if !path.exists() {
            self.add_missing(&path, HOLDS, true);
            return Ok(());
        }
        let inspected = overlay::open(&path).map(|database| Metadata::inspect(&path, database));
        match inspected {
            Ok(Ok(metadata)) => {
                self.report.node_id = Some(metadata.node_id());
                self.report.cluster_id = metadata.cluster_id();
                self.metadata_is_whole = true;
                self.public_key = Some(metadata.public_key());
                self.recovery = metadata.recovery();
                if self.recovery.is_some() {
                    let sentence = "a recovery was cut short; `aspen-node recover` completes it";
                    self.report.notes.push(sentence.to_owned());
                }
                self.add(&path, HOLDS, metadata.record_count(), Outcome::Whole);
            }
            Ok(Err(newer @ MetadataError::NewerFormat { .. })) => {
                return Err(VerifyError::NewerFormat(newer));
            }
            Ok(Err(error)) => self.add_faulty(&path, HOLDS, vec![error.damage_in(&path)]),
            Err(damage) => self.add_faulty(&path, HOLDS, vec![damage]),
        }
        Ok(())
    }

    fn log(&mut self, dir: &Path) {
        const HOLDS: &str = "log and votes";
        let path = dir.join(LOG_FILE);
        if !path.exists() {
            // A state, too, says that there was a log.
            let is_needed = self.is_member() || dir.join(STATE_FILE).exists();
            self.add_missing(&path, HOLDS, is_needed);
            self.log_is_whole = !is_needed;
            return;
        }
        match LogSurvey::of(&path) {
            Ok(log) => {
                self.report.committed_index = log.facts.committed.map(|committed| committed.index);
                self.add(&path, HOLDS, log.facts.records, Outcome::Whole);
                self.log = Some(log);
                self.log_is_whole = true;
            }
            Err(damage) => self.add_faulty(&path, HOLDS, damage),
        }
    }

    fn state(&mut self, dir: &Path) {
        const HOLDS: &str = "keys, history, sessions";
        let path = dir.join(STATE_FILE);
        if !path.exists() {
            self.add_missing(&path, HOLDS, self.is_member() || !self.log_is_whole);
            return;
        }
        match state::survey(&path) {
            Ok(state) => {
                self.report.applied_index = state.applied.map(|applied| applied.index);
                self.report.revision = Some(state.revision);
                self.report.keys = Some(state.keys);
                self.add(&path, HOLDS, state.records, Outcome::Whole);
                self.state = Some(state);
            }
            Err(damage) => self.add_faulty(&path, HOLDS, damage),
        }
    }

    fn snapshots(&mut self, dir: &Path) -> Result<(), VerifyError> {
        const HOLDS: &str = SNAPSHOT;
        let path = dir.join(SNAPSHOT_DIR);
        let found = snapshots::list(&path).map_err(|source| VerifyError::Io { path, source })?;
        for path in found.finished {
            match snapshots::survey(&path) {
                Ok(facts) => {
                    self.add(&path, HOLDS, facts.records, Outcome::Whole);
                    self.snapshots.push(facts);
                }
                Err(damage) => self.add_faulty(&path, HOLDS, vec![damage]),
            }
        }
        let there = |names: [PathBuf; 2]| names.into_iter().filter(|path| path.exists());
        let states = there([NEW_STATE_FILE, SHRUNK_STATE_FILE].map(|name| dir.join(name)));
        for path in found.unfinished.into_iter().chain(states) {
            self.report.notes.push(format!("{} is unfinished; the next start removes it", path.display()));
        }
        // These are made once, and removed only when they are made again.
        for path in there([METADATA_FILE, LOG_FILE].map(|name| database::unfinished(&dir.join(name)))) {
            self.report.notes.push(format!("{} is unfinished, and nothing needs it", path.display()));
        }
        Ok(())
    }

    /// The state must be one that the log leads to, and the log must continue it.
    fn state_against_log(&mut self, dir: &Path) {
        let (Some(state), Some(log)) = (&self.state, &self.log) else { return };
        let (applied, facts) = (state.applied, &log.facts);
        let snapshot = self.snapshots.iter().filter_map(|snapshot| snapshot.meta.last_log_id).max();
        let covered = facts.last.max(snapshot);
        let problem = if applied.map(|id| id.index) < facts.purged.map(|id| id.index)
            && snapshot < facts.purged
        {
            Some(format!("it ends at {}, and the log begins behind {}", show(applied), show(facts.purged)))
        } else if applied.map(|id| id.index) > covered.map(|id| id.index) {
            Some(format!("it ends at {}, and the log at {}", show(applied), show(facts.last)))
        } else {
            let same = applied.filter(|id| Some(id.index) > facts.purged.map(|purged| purged.index));
            let entry = same.and_then(|id| log.id_at(id.index).ok().flatten());
            entry
                .filter(|entry| Some(*entry) != applied)
                .map(|entry| format!("it ends at {}, and the log holds {entry} there", show(applied)))
        };
        let applied = applied.map_or(0, |id| id.index + 1);
        if problem.is_none()
            && let Some(committed) = facts.committed.filter(|committed| committed.index >= applied)
        {
            let sentence = format!(
                "the state on disk ends before the log entry {applied}; the next start applies those up to {}",
                committed.index
            );
            self.report.notes.push(sentence);
        }
        if let Some(problem) = problem {
            let path = dir.join(STATE_FILE);
            self.report.damage.push(Damage::new(&path, Place::row("meta", b"applied"), problem));
            self.state = None;
            for check in &mut self.report.checks {
                if check.file == Path::new(STATE_FILE) {
                    check.outcome = Outcome::Damaged;
                }
            }
        }
    }
}

fn show(id: Option<crate::raft::types::LogId>) -> String {
    id.map_or("nothing".to_owned(), |id| id.to_string())
}
