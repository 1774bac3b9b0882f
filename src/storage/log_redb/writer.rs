//! The one that owns the disk: one transaction for all that has gathered, then the answers.
//!
//! # Tiger Style
//! Every command is answered exactly once, after the commit that holds it, or with the failure that ended
//! the writer.

use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::storage::IOFlushed;
use redb::{Durability, ReadableTable, Table};
use tokio::sync::oneshot;
use tracing::error;

use super::queue::{Commands, LogDropped, Patience};
use super::{COMMITTED, LOG, META, PURGED, Shared, VOTE};
use crate::limits;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::storage::codec;
use crate::storage::database::panic_message;
use crate::storage::log_view::{LogError, Position};
use crate::storage::syncs::SyncedFile;

pub(super) type Ack = oneshot::Sender<Result<(), LogError>>;

/// A change to the log.
pub(super) enum Command {
    Append {
        entries: Vec<Entry>,
        bytes: usize,
        callback: IOFlushed<TypeConfig>,
    },
    SaveVote {
        vote: Vote,
        ack: Ack,
    },
    /// Removes the entries from `next` on.
    Truncate {
        next: u64,
        ack: Ack,
    },
    /// Removes the entries up to `to`.
    Purge {
        to: LogId,
        ack: Ack,
    },
}

impl Command {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { bytes, .. } => *bytes,
            _ => 0,
        }
    }

    fn entries(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.len(),
            _ => 0,
        }
    }

    fn answer(self, result: Result<(), LogError>) {
        match self {
            Self::Append { callback, .. } => callback.io_completed(result.map_err(Into::into)),
            // Who waited may be gone; the write stands all the same.
            Self::SaveVote { ack, .. } | Self::Truncate { ack, .. } | Self::Purge { ack, .. } => {
                ack.send(result).ok();
            }
        }
    }
}

/// A command, and where the log ends with it.
pub(super) struct Queued {
    pub(super) command: Command,
    pub(super) position: Position,
    pub(super) bytes: usize,
}

/// See the module.
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    /// One buffer for all records.
    record: Vec<u8>,
}

/// What is on disk, as far as the next transaction depends on it.
#[derive(Clone, Copy)]
struct Disk {
    position: Position,
    committed: Option<LogId>,
    /// Purged entries up to this index wait to be deleted.
    sweep_to: Option<u64>,
}

impl Writer {
    /// Everything in the view is on disk.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let disk = {
            let state = shared.lock();
            Disk { position: state.view.position(), committed: state.view.committed, sweep_to: None }
        };
        Self { shared, disk, record: Vec::new() }
    }

    /// How long it may wait for the next command.
    pub(super) fn patience(&self) -> Patience {
        if self.disk.sweep_to.is_some() { Patience::None } else { Patience::UntilChores }
    }

    /// Writes a batch, and what is not urgent. The last turn is that after which the log is dropped, or
    /// in which a write fails.
    pub(super) fn turn(
        &mut self,
        next: Result<Vec<Queued>, LogDropped>,
        commands: &mut Commands,
    ) -> ControlFlow<()> {
        let (batch, more_to_come) = match next {
            Ok(batch) => (batch, true),
            Err(LogDropped) => (Vec::new(), false),
        };
        if !batch.is_empty() || self.has_chores() {
            match self.commit(&batch) {
                Ok(disk) => self.publish(batch, disk),
                Err(failure) => {
                    self.fail(batch, commands, failure);
                    return ControlFlow::Break(());
                }
            }
        }
        if more_to_come { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn has_chores(&self) -> bool {
        self.disk.sweep_to.is_some() || self.newer_committed(self.disk.position).is_some()
    }

    /// The committed id, if it is newer than that on disk and its entry is among those on disk.
    fn newer_committed(&self, position: Position) -> Option<LogId> {
        let committed = self.shared.lock().view.committed_within(position);
        committed.filter(|committed| Some(*committed) != self.disk.committed)
    }

    /// Writes a batch in one transaction, durably.
    fn commit(&mut self, batch: &[Queued]) -> Result<Disk, Arc<str>> {
        // The database asserts what no file that it wrote can violate; on a damaged file it panics.
        // Those who wait must hear of that too.
        let progress = Arc::clone(&self.shared.progress);
        let write = || progress.syncs().watch(SyncedFile::Log, || self.write(batch));
        match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(disk)) => Ok(disk),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(panic) => Err(panic_message(&*panic).into()),
        }
    }

    fn write(&mut self, batch: &[Queued]) -> Result<Disk, redb::Error> {
        let mut transaction = self.shared.database.begin_write()?;
        transaction.set_durability(durability(batch))?;
        // One phase may roll back silently past an acknowledged write when a bit flips.
        transaction.set_two_phase_commit(true);
        let mut disk = self.disk;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            for queued in batch {
                self.write_command(&queued.command, &mut log, &mut meta, &mut disk)?;
                disk.position = queued.position;
            }
            if let Some(committed) = self.newer_committed(disk.position) {
                meta.insert(COMMITTED, codec::seal(&committed).as_slice())?;
                disk.committed = Some(committed);
            }
            if let Some(to) = disk.sweep_to {
                disk.sweep_to = sweep_step(&mut log, to)?;
            }
        }
        self.shared.progress.syncs().time(SyncedFile::Log, || transaction.commit())?;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        count(batch);
        Ok(disk)
    }

    fn write_command(
        &mut self,
        command: &Command,
        log: &mut Table<'_, u64, &[u8]>,
        meta: &mut Table<'_, &str, &[u8]>,
        disk: &mut Disk,
    ) -> Result<(), redb::Error> {
        match command {
            Command::Append { entries, .. } => {
                // Through a cursor at the end: a fifth cheaper than inserts, and it refuses a key
                // that is not above all others.
                let mut end = log.upper_bound_mut(Bound::<u64>::Unbounded)?;
                for entry in entries {
                    codec::seal_into(&mut self.record, entry);
                    end.insert_before(entry.log_id.index, self.record.as_slice())?;
                }
                end.close()?;
            }
            Command::SaveVote { vote, .. } => {
                meta.insert(VOTE, codec::seal(vote).as_slice())?;
            }
            Command::Truncate { next, .. } => log.retain_in(*next.., |_, _| false)?,
            Command::Purge { to, .. } => {
                meta.insert(PURGED, codec::seal(to).as_slice())?;
                disk.sweep_to = Some(to.index);
            }
        }
        Ok(())
    }

    /// Tells the view and all who wait that a batch is on disk.
    fn publish(&mut self, batch: Vec<Queued>, disk: Disk) {
        self.disk = disk;
        {
            let mut state = self.shared.lock();
            for queued in &batch {
                state.queued_bytes -= queued.bytes;
                if let Command::SaveVote { vote, .. } = &queued.command {
                    state.view.vote = Some(*vote);
                }
            }
            state.view.set_flushed(disk.position);
            state.view.shrink_tail(limits::LOG_TAIL_MAX_BYTES);
            self.shared.progress.set_flushed(state.view.flushed());
        }
        self.shared.drained.notify_waiters();
        // The last first. For openraft it stands for the appends before it; told of one after the other,
        // it would pass on the first and wait a millisecond or two before it looks for the next.
        for queued in batch.into_iter().rev() {
            queued.command.answer(Ok(()));
        }
    }

    /// Refuses everything that waits and everything that comes.
    fn fail(&self, batch: Vec<Queued>, commands: &mut Commands, failure: Arc<str>) {
        error!(%failure, "a write to the log failed: it takes no more");
        // Nothing is sent once the failure is set, so nothing can slip in behind the drain below.
        self.shared.lock().failure = Some(Arc::clone(&failure));
        self.shared.drained.notify_waiters();
        for queued in batch.into_iter().chain(commands.drain()) {
            queued.command.answer(Err(LogError::Failed(Arc::clone(&failure))));
        }
    }
}

/// How a batch is committed: on disk when the commit returns.
fn durability(#[cfg_attr(not(madsim), expect(unused_variables))] batch: &[Queued]) -> Durability {
    #[cfg(madsim)]
    {
        use crate::planted::{self, Bug};
        let all = |is: fn(&Command) -> bool| batch.iter().all(|queued| is(&queued.command));
        if planted::has(Bug::FlushBeforeSync) && all(|command| matches!(command, Command::Append { .. }))
            || planted::has(Bug::VoteNotSynced) && all(|command| matches!(command, Command::SaveVote { .. }))
        {
            return Durability::None;
        }
    }
    Durability::Immediate
}

/// Deletes the oldest entries, a bounded number, up to `to`. Some while there may be more.
pub(super) fn sweep_step(log: &mut Table<'_, u64, &[u8]>, to: u64) -> Result<Option<u64>, redb::Error> {
    let Some(first) = log.first()?.map(|(index, _)| index.value()).filter(|first| *first <= to) else {
        return Ok(None);
    };
    let last = to.min(first.saturating_add(limits::LOG_PURGE_STEP_MAX_ENTRIES - 1));
    log.retain_in(first..=last, |_, _| false)?;
    Ok((last < to).then_some(to))
}

fn count(batch: &[Queued]) {
    let entries = batch.iter().map(|queued| queued.command.entries()).sum::<usize>() as u64;
    metrics::counter!("aspen_log_entries_total").increment(entries);
    if entries > 0 {
        metrics::histogram!("aspen_log_batch_entries").record(entries as f64);
    }
}
