//! Making a damaged or lost state anew from what is whole: the latest snapshot and the log behind it.
//!
//! A state is the log applied, so it can be made again; a log or a vote cannot. Where those are damaged
//! the node must not vote with what is left: an entry that it acknowledged, or a vote that it gave, may
//! be gone. It must never touch a file when in doubt, and never delete one: what was damaged is kept
//! under another name. The caller holds the data directory's lock.
//!
//! # Tiger Style
//! - Entries are applied up to the committed one and no further: what is behind it may be taken back.
//! - The new state is checked as a whole before it gets its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::damage::Damage;
use super::disk::{Disk, RealDisk, give_to_owner_of};
use super::log_redb::LOG_FILE;
use super::log_redb::survey::LogSurvey;
use super::metadata::METADATA_FILE;
use super::snapshot::SnapshotData;
use super::snapshot::files::open_finished;
use super::state_redb::{NEW_STATE_FILE, Rebuild, STATE_FILE};
use super::tables::StateError;
use super::verify::snapshots::SnapshotFacts;
use super::verify::{self, Check, Outcome, Report, Survey, VerifyError, state};
use crate::limits;
use crate::raft::types::{LogId, SnapshotMeta};

/// Why a repair failed. Nothing is deleted by one.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The directory could not be looked at.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}. Nothing was deleted: solve that, then run the repair again", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The log cannot be applied.
    #[error("the log cannot be applied to the new state: {0}. Nothing was replaced")]
    Apply(#[from] StateError),
    /// The log was whole, and now is not.
    #[error("{0}. Nothing was replaced")]
    Damage(Damage),
    /// Too many damaged files lie about.
    #[error("{} damaged files are kept beside {} already. Move some of them away", limits::REPAIR_KEPT_MAX_COUNT, path.display())]
    TooManyKept {
        /// The file that was to be moved out of the way.
        path: PathBuf,
    },
}

/// What can be done about a data directory.
pub struct Plan {
    /// What was found in it.
    pub report: Report,
    /// What to do about it.
    pub action: Action,
    log: Option<LogSurvey>,
    base: Option<SnapshotFacts>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: all is well.
    Nothing,
    /// Move damaged snapshots out of the way; the node makes another one.
    SetSnapshotsAside {
        /// The damaged ones.
        files: Vec<PathBuf>,
    },
    /// Make the state anew.
    RebuildState {
        /// The snapshot to begin with; absent, the log goes back to the beginning.
        snapshot: Option<PathBuf>,
        /// First log index to apply.
        from: u64,
        /// Behind the last log index to apply.
        to: u64,
        /// Damaged snapshots, which are moved out of the way.
        damaged_snapshots: Vec<PathBuf>,
    },
    /// Nothing yet: a file that cannot be made anew cannot be read, and may be whole.
    Wait {
        /// Which, and why not.
        reason: String,
    },
    /// Nothing here: the node must join anew.
    Rejoin {
        /// Why.
        reason: String,
    },
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Where the damaged files are now.
    pub kept: Vec<PathBuf>,
    /// Log entries applied.
    pub applied_entries: u64,
    /// The last log index in the new state.
    pub applied_index: Option<u64>,
}

/// Looks at a data directory and says what can be done. It changes nothing.
///
/// # Errors
/// [`VerifyError`], where the directory cannot be looked at.
pub fn plan(dir: &Path) -> Result<Plan, VerifyError> {
    let survey = verify::survey(dir)?;
    let (action, base) = decide(&survey);
    Ok(Plan { report: survey.report, action, log: survey.log, base })
}

/// Whether what a file held cannot be had from it.
fn is_lost(check: &Check) -> bool {
    matches!(check.outcome, Outcome::Damaged | Outcome::Unreadable)
}

fn decide(survey: &Survey) -> (Action, Option<SnapshotFacts>) {
    let report = &survey.report;
    let damaged_snapshots: Vec<PathBuf> = (report.checks.iter())
        .filter(|check| check.holds == verify::SNAPSHOT && is_lost(check))
        .map(|check| report.data_dir.join(&check.file))
        .collect();
    let rejoin = |reason: &str| (Action::Rejoin { reason: reason.to_owned() }, None);
    if report.damage.is_empty() {
        return (Action::Nothing, None);
    }
    let unreadable: Vec<&Path> = (report.checks.iter())
        .filter(|check| check.outcome == Outcome::Unreadable)
        .map(|check| check.file.as_path())
        .collect();
    let is_lost_for_good = |is_whole: bool, name: &str| !is_whole && !unreadable.contains(&Path::new(name));
    if is_lost_for_good(survey.metadata_is_whole, METADATA_FILE) {
        return rejoin(
            "the metadata is damaged or missing: nothing says any more whose log and votes these are",
        );
    }
    if is_lost_for_good(survey.log_is_whole, LOG_FILE) {
        return rejoin(
            "the log is damaged or missing: entries that this node has acknowledged, or votes that it has given, may be lost",
        );
    }
    if !(survey.metadata_is_whole && survey.log_is_whole) {
        let mut findings = report.damage.iter();
        let first =
            findings.find(|damage| [METADATA_FILE, LOG_FILE].iter().any(|name| damage.file.ends_with(name)));
        let reason = first.expect("a file that is not whole has a finding").to_string();
        return (Action::Wait { reason }, None);
    }
    if survey.state.is_some() {
        return (Action::SetSnapshotsAside { files: damaged_snapshots }, None);
    }
    let Some(log) = &survey.log else {
        return rejoin("there is no log to make the state from");
    };
    match base(log, &survey.snapshots) {
        Ok(base) => {
            let from = base.as_ref().and_then(|base| base.meta.last_log_id).map_or(0, |last| last.index + 1);
            let to = log.facts.committed.map_or(0, |committed| committed.index + 1).max(from);
            let snapshot = base.as_ref().map(|base| base.path.clone());
            (Action::RebuildState { snapshot, from, to, damaged_snapshots }, base)
        }
        Err(reason) => rejoin(&reason),
    }
}

/// The newest snapshot that the log continues; none if the log goes back to the beginning.
fn base(log: &LogSurvey, snapshots: &[SnapshotFacts]) -> Result<Option<SnapshotFacts>, String> {
    let purged = log.facts.purged;
    let newest = snapshots.iter().max_by_key(|snapshot| snapshot.meta.last_log_id);
    let Some(newest) = newest.filter(|snapshot| snapshot.meta.last_log_id >= purged) else {
        return match purged {
            None => Ok(None),
            Some(purged) => Err(format!(
                "the log begins behind entry {}, and no whole snapshot reaches as far: what came before is lost here",
                purged.index
            )),
        };
    };
    let Some(last) = newest.meta.last_log_id else { return Ok(None) };
    let in_log = log.id_at(last.index).map_err(|damage| damage.to_string())?;
    match in_log {
        Some(entry) if entry != last => Err(format!(
            "the snapshot ends at {last}, and the log holds {entry} there: they are not of one history"
        )),
        _ => Ok(Some(newest.clone())),
    }
}

impl Plan {
    /// Does it. `progress` is told how many of how many entries are applied.
    ///
    /// # Errors
    /// [`RepairError`]; nothing is deleted then either.
    pub fn carry_out(&self, progress: impl FnMut(u64, u64)) -> Result<Repaired, RepairError> {
        let mut repaired = Repaired::default();
        match &self.action {
            Action::Nothing | Action::Wait { .. } | Action::Rejoin { .. } => {}
            Action::SetSnapshotsAside { files } => {
                for file in files {
                    repaired.kept.push(set_aside(file)?);
                }
            }
            Action::RebuildState { from, to, damaged_snapshots, .. } => {
                let new = self.rebuild(*from, *to, progress)?;
                let state =
                    state::survey(&new).map_err(|mut damage| RepairError::Damage(damage.swap_remove(0)))?;
                let dir = &self.report.data_dir;
                give_to_owner_of(dir, &new).map_err(|source| RepairError::Io {
                    action: "give the directory's owner",
                    path: new.clone(),
                    source,
                })?;
                let path = dir.join(STATE_FILE);
                if path.exists() {
                    repaired.kept.push(set_aside(&path)?);
                }
                rename(&new, &path)?;
                for file in damaged_snapshots {
                    repaired.kept.push(set_aside(file)?);
                }
                repaired.applied_entries = to - from;
                repaired.applied_index = state.applied.map(|applied| applied.index);
            }
        }
        Ok(repaired)
    }

    /// Makes a new state beside the old one.
    fn rebuild(
        &self,
        from: u64,
        to: u64,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<PathBuf, RepairError> {
        let dir = &self.report.data_dir;
        let failed = |source| RepairError::Io { action: "make", path: dir.join(NEW_STATE_FILE), source };
        let base = self.base.as_ref().map(open_base).transpose()?;
        let mut rebuild =
            Rebuild::begin(dir, base.as_ref().map(|(meta, data)| (meta, data))).map_err(failed)?;
        let mut next = from;
        while next < to {
            progress(next - from, to - from);
            let log = self.log.as_ref().expect("a state is made anew from a log that is whole");
            let entries = log.entries(next..to).map_err(RepairError::Damage)?;
            let last: Option<LogId> = entries.last().map(|entry| entry.log_id);
            next = last.expect("the log has no hole up to its committed entry").index + 1;
            rebuild.apply(entries)?;
        }
        progress(to - from, to - from);
        Ok(rebuild.finish()?)
    }
}

fn open_base(base: &SnapshotFacts) -> Result<(SnapshotMeta, SnapshotData), RepairError> {
    open_finished(&RealDisk, &base.path).map_err(|error| RepairError::Io {
        action: "read",
        path: base.path.clone(),
        source: error.into(),
    })
}

/// Renames a damaged file, never over another one. Returns its new name.
fn set_aside(path: &Path) -> Result<PathBuf, RepairError> {
    let name = path.file_name().expect("a file has a name").to_string_lossy();
    let mut names =
        (1..=limits::REPAIR_KEPT_MAX_COUNT).map(|n| path.with_file_name(format!("{name}.damaged-{n}")));
    let free = names.find(|name| !name.exists());
    let kept = free.ok_or_else(|| RepairError::TooManyKept { path: path.to_owned() })?;
    rename(path, &kept)?;
    Ok(kept)
}

fn rename(from: &Path, to: &Path) -> Result<(), RepairError> {
    let dir = to.parent().expect("a file is in a directory");
    fs::rename(from, to).and_then(|()| RealDisk.sync_dir(dir)).map_err(|source| RepairError::Io {
        action: "rename",
        path: from.to_owned(),
        source,
    })
}
