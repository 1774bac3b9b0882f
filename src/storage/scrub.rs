//! The scrub: goes through everything on disk while the node runs, slowly, and looks for damage.
//!
//! A pass reads the blocks of the log's file and compares them with what this process read or wrote
//! there, then checks every entry of the log; the same for the state and its rows; then every chunk of
//! the current snapshot. Together they say that the *disk* is right, although the database library
//! answers from its page cache: the records show that what the library holds is whole, the blocks that
//! the disk holds the same. Before it reads blocks the scrub asks the system to forget them, so that it
//! sees the disk and not the system's memory.
//!
//! It does not see what the disk's own cache hides, nor pages that are in no use. Damage of log or
//! state raises the alarm, and the node stops. A damaged snapshot alone is removed and made anew: the
//! state holds all of it.
//!
//! # Tiger Style
//! A step reads at most [`limits::SCRUB_STEP_MAX_BYTES`] and one record, and its read transaction lives
//! for [`limits::SCRUB_STEP_MAX_MS`], one record, and the way back over the keys.

use std::io::BufReader;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge};

use super::damage::Damage;
use super::log_redb::{LogScrub, RedbLog};
use super::snapshot::format::SnapshotCheck;
use super::snapshot::{SnapshotBytes, SnapshotData, SnapshotError};
use super::space::Space;
use super::state::{self, StateMachine};
use super::state_redb::{RedbState, TableScrub};
use super::tables::Table;
use crate::limits;
use crate::raft::types::SnapshotMeta;

/// Looks for damage in a log and a state on disk. Clones look at the same ones.
#[derive(Clone)]
pub struct Scrubber {
    log: LogScrub,
    state: Arc<RedbState>,
    space: Arc<Space>,
}

/// One way through everything, step by step.
pub struct Pass {
    stage: Stage,
    started: Instant,
    tally: Tally,
}

/// What a pass has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Log entries, rows of the state, chunks of a snapshot.
    pub records: u64,
    /// Blocks of files that were compared with what they were.
    pub blocks: u64,
    /// Bytes read, or looked at in memory.
    pub bytes: u64,
    /// Damaged snapshots, which were made anew.
    pub snapshots_damaged: u64,
}

enum Stage {
    LogBlocks { from: u64 },
    LogEntries { from: u64 },
    StateBlocks { from: u64 },
    StateRows(TableScrub),
    Snapshot(Box<CurrentSnapshot>),
    Done,
}

struct CurrentSnapshot {
    meta: SnapshotMeta,
    data: SnapshotData,
    check: SnapshotCheck<BufReader<SnapshotBytes>>,
}

impl Scrubber {
    /// A scrub of both; none for a state in memory.
    pub fn new(log: &RedbLog, state: &StateMachine) -> Option<Self> {
        Some(Self { log: log.scrub(), state: state.on_disk()?, space: state.space() })
    }

    /// Waits for damage that anyone has met: a read, a write, or a pass.
    pub async fn damage(&self) -> Damage {
        tokio::select! {
            damage = self.log.alarm().raised() => damage,
            damage = self.state.alarm().raised() => damage,
        }
    }

    /// Begins at the beginning.
    pub fn begin(&self) -> Pass {
        Pass { stage: Stage::LogBlocks { from: 0 }, started: Instant::now(), tally: Tally::default() }
    }

    /// Goes on. Returns the bytes that this step has read, none at the end. It blocks on the disk.
    ///
    /// # Errors
    /// The first damage; whoever waits for [`Self::damage`] is told as well.
    pub fn step(&self, pass: &mut Pass) -> Result<Option<u64>, Damage> {
        let before = pass.tally;
        pass.stage = match std::mem::replace(&mut pass.stage, Stage::Done) {
            Stage::LogBlocks { from } => {
                let done = self.log.file().scrub(from, limits::SCRUB_STEP_MAX_BYTES)?;
                pass.tally.add(0, done.compared, done.bytes);
                done.next.map_or(Stage::LogEntries { from: 0 }, |from| Stage::LogBlocks { from })
            }
            Stage::LogEntries { from } => {
                let done = self.log.entries(from)?;
                pass.tally.add(done.records, 0, done.bytes);
                done.next.map_or(Stage::StateBlocks { from: 0 }, |from| Stage::LogEntries { from })
            }
            Stage::StateBlocks { from } => {
                let done = self.state.file().scrub(from, limits::SCRUB_STEP_MAX_BYTES)?;
                pass.tally.add(0, done.compared, done.bytes);
                let rows = Stage::StateRows(TableScrub::begin(Table::ALL[0]));
                done.next.map_or(rows, |from| Stage::StateBlocks { from })
            }
            Stage::StateRows(rows) => {
                let following = Table::from_id(rows.table().id() + 1);
                let done = self.state.scrub_rows(rows)?;
                pass.tally.add(done.records, 0, done.bytes);
                match done.next.or(following.map(TableScrub::begin)) {
                    Some(rows) => Stage::StateRows(rows),
                    None => self.begin_snapshot(&mut pass.tally),
                }
            }
            Stage::Snapshot(snapshot) => self.snapshot_step(snapshot, &mut pass.tally),
            Stage::Done => {
                pass.publish();
                return Ok(None);
            }
        };
        counter!("aspen_scrub_records_total").increment(pass.tally.records - before.records);
        counter!("aspen_scrub_bytes_total").increment(pass.tally.bytes - before.bytes);
        Ok(Some(pass.tally.bytes - before.bytes))
    }

    fn begin_snapshot(&self, tally: &mut Tally) -> Stage {
        let Some((meta, data)) = self.state.snapshots().current() else { return Stage::Done };
        data.forget_cached();
        match SnapshotCheck::begin(BufReader::new(data.reader())) {
            Ok(check) => Stage::Snapshot(Box::new(CurrentSnapshot { meta, data, check })),
            Err(error) => self.make_anew(&meta, &data, &error, tally),
        }
    }

    fn snapshot_step(&self, mut snapshot: Box<CurrentSnapshot>, tally: &mut Tally) -> Stage {
        match snapshot.check.next_chunk(|_, _, _| Ok(())) {
            Ok(Some(bytes)) => {
                tally.add(1, 0, bytes as u64);
                Stage::Snapshot(snapshot)
            }
            Ok(None) => Stage::Done,
            Err(error) => self.make_anew(&snapshot.meta, &snapshot.data, &error, tally),
        }
    }

    fn make_anew(
        &self,
        meta: &SnapshotMeta,
        data: &SnapshotData,
        problem: &SnapshotError,
        tally: &mut Tally,
    ) -> Stage {
        tally.snapshots_damaged += 1;
        state::make_anew(&self.state, &self.space, meta, data, problem);
        Stage::Done
    }
}

impl Pass {
    /// What it has looked at so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How long it has taken so far, pauses included.
    pub fn duration(&self) -> Duration {
        self.started.elapsed()
    }

    fn publish(&self) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("aspen_scrub_last_pass_timestamp_seconds").set(since_epoch.as_secs_f64());
        gauge!("aspen_scrub_last_pass_seconds").set(self.duration().as_secs_f64());
        counter!("aspen_scrub_passes_total").increment(1);
    }
}

impl Tally {
    fn add(&mut self, records: u64, blocks: u64, bytes: u64) {
        self.records += records;
        self.blocks += blocks;
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests;
