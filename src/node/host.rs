//! The process of a node, as its agent sees it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use crate::cluster::agent::{Host, HostTraces, RecentProblem};
use crate::config::Loaded;
use crate::metrics::Metrics;
use crate::telemetry::recent::Problem;
use crate::telemetry::{LogControl, TelemetryError};
use crate::transport::Transport;

/// Files that a support bundle lists. A data directory has some ten.
const FILES_MAX_COUNT: usize = 1_000;

/// See the module.
pub(super) struct ProcessHost {
    pub logs: LogControl,
    /// Those in force.
    pub settings: Arc<Mutex<Loaded>>,
    pub figures: Metrics,
    pub transport: Transport,
    pub data_dir: PathBuf,
}

impl Host for ProcessHost {
    fn log_filter(&self) -> String {
        self.logs.filter()
    }

    fn set_log_filter(&self, filter: Option<&str>) -> Result<(String, String), String> {
        let reason = |error| match error {
            // Who asked names the filter.
            TelemetryError::Filter { source, .. } => source.to_string(),
            error => error.to_string(),
        };
        let (filter, before) = self.logs.set_filter(filter).map_err(reason)?;
        tracing::info!("the log filter is '{filter}' now, and was '{before}'");
        Ok((filter, before))
    }

    fn traces(&self) -> HostTraces {
        HostTraces {
            settings: self.settings.lock().expect("no code panics while it holds this lock").render(),
            metrics: self.figures.render(),
            iroh_metrics: self.transport.metrics_text().unwrap_or_default(),
            files: self.files(),
            recent_problems: self.logs.problems().all().into_iter().map(recent_problem).collect(),
        }
    }
}

impl ProcessHost {
    /// Names and lengths, of subdirectories as well; what cannot be read is left out.
    fn files(&self) -> Vec<(String, u64)> {
        let (mut files, mut directories) = (Vec::new(), vec![self.data_dir.clone()]);
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let path = entry.path();
                if metadata.is_dir() {
                    directories.push(path);
                } else if files.len() < FILES_MAX_COUNT {
                    let name = path.strip_prefix(&self.data_dir).unwrap_or(&path);
                    files.push((name.display().to_string(), metadata.len()));
                }
            }
        }
        files.sort();
        files
    }
}

fn recent_problem(problem: Problem) -> RecentProblem {
    let since_epoch = problem.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    RecentProblem {
        at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        level: problem.level.as_str().to_lowercase(),
        target: problem.target,
        message: problem.message,
    }
}
