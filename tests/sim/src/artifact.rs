//! A run as a file: what it was, what came of it, and how to run it again.
//!
//! `docs/simulations/README.md` explains the format.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::runner::Report;
use crate::settings::Settings;
use crate::world::Violation;

/// The format's number; it grows when a field changes its meaning.
const FORMAT: u32 = 1;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing was violated.
    Passed,
    /// Something was.
    Failed,
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SimulationArtifact {
    /// Number of the format.
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How it ended.
    pub status: Status,
    /// The command that runs it again.
    pub replay: String,
    /// What does not hold, with both sides.
    pub violation: Option<Violation>,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Hash of all events, in hex: the same seed gives the same.
    pub trace_hash: String,
    /// How many events there were.
    pub events: u64,
    /// Answers to clients that were checked.
    pub checked: u64,
    /// What the run was made of.
    pub settings: Option<Settings>,
    /// Figures by name; those of the transport have the names that nodes export.
    pub metrics: BTreeMap<String, u64>,
    /// What shaped the run: faults, leaders, memberships. The newest of them.
    pub milestones: Vec<String>,
    /// The last events, each in detail.
    pub last_events: Vec<String>,
}

/// Makes an artifact of a report.
pub struct ArtifactBuilder {
    artifact: SimulationArtifact,
}

impl ArtifactBuilder {
    /// Of a run.
    pub fn new(report: &Report) -> Self {
        let status = if report.violation.is_some() { Status::Failed } else { Status::Passed };
        let replay = format!("./scripts/simulate.sh --scenario {} --seed {}", report.scenario, report.seed);
        Self {
            artifact: SimulationArtifact {
                format: FORMAT,
                scenario: report.scenario.to_owned(),
                seed: report.seed,
                status,
                replay,
                violation: report.violation.clone(),
                virtual_ms: u64::try_from(report.virtual_time.as_millis()).unwrap_or(u64::MAX),
                trace_hash: format!("{:016x}", report.hash),
                events: report.events,
                checked: report.checked,
                settings: report.settings.clone(),
                metrics: report.figures.clone(),
                milestones: report.milestones.clone(),
                last_events: report.last_events.clone(),
            },
        }
    }

    /// Leaves the detail out, for runs that are kept as examples.
    #[must_use]
    pub fn without_detail(mut self) -> Self {
        self.artifact.last_events.clear();
        self
    }

    /// The artifact.
    pub fn build(self) -> SimulationArtifact {
        self.artifact
    }
}

impl SimulationArtifact {
    /// Writes it into a directory, under the name of its scenario and seed, and returns the path.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{}.json", self.scenario, self.seed));
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        std::fs::write(&path, json)?;
        Ok(path)
    }
}
