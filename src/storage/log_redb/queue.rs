//! What waits for the disk, and what the writer runs on: a thread of its own, or a task in the
//! simulation, which has one thread and time of its own.

use std::io;
use std::time::Duration;

use super::writer::{Queued, Writer};
use crate::limits;

#[cfg(not(madsim))]
use std::sync::mpsc;
#[cfg(madsim)]
use tokio::sync::mpsc;

/// The sending end. Dropping it ends the writer once all is written.
#[cfg(not(madsim))]
pub(super) type Sender = mpsc::Sender<Queued>;
#[cfg(madsim)]
pub(super) type Sender = mpsc::UnboundedSender<Queued>;

#[cfg(not(madsim))]
type Receiver = mpsc::Receiver<Queued>;
#[cfg(madsim)]
type Receiver = mpsc::UnboundedReceiver<Queued>;

/// What one transaction takes. Little in tests, so that appends come in pieces and the power fails between them.
pub(super) const BATCH_MAX_BYTES: usize = if cfg!(test) { 16 * 1024 } else { limits::LOG_BATCH_MAX_BYTES };

/// There is nobody left to send a command.
pub(super) struct LogDropped;

/// How long the writer may wait for a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all: it has something else to do.
    None,
    /// Until it is time to look after what is not urgent.
    UntilChores,
}

/// The commands that wait.
pub(super) struct Commands {
    receiver: Receiver,
    /// Received, but too large for the batch before it.
    carried: Option<Queued>,
}

/// An empty queue.
pub(super) fn channel() -> (Sender, Commands) {
    #[cfg(not(madsim))]
    let (sender, receiver) = mpsc::channel();
    #[cfg(madsim)]
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Commands { receiver, carried: None })
}

impl Commands {
    /// Takes all that fit into one transaction, after the first one.
    fn batch_after(&mut self, first: Queued) -> Vec<Queued> {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while let Ok(queued) = self.receiver.try_recv() {
            bytes += queued.bytes;
            if bytes > BATCH_MAX_BYTES {
                self.carried = Some(queued);
                break;
            }
            batch.push(queued);
        }
        batch
    }

    /// All that still wait.
    pub(super) fn drain(&mut self) -> Vec<Queued> {
        let mut left: Vec<Queued> = self.carried.take().into_iter().collect();
        while let Ok(queued) = self.receiver.try_recv() {
            left.push(queued);
        }
        left
    }
}

fn chores_interval() -> Duration {
    Duration::from_millis(limits::COMMITTED_SAVE_INTERVAL_MS)
}

#[cfg(not(madsim))]
impl Commands {
    /// Waits for commands and takes all that fit into one transaction. Empty when the patience ends.
    pub(super) fn next_batch(&mut self, patience: Patience) -> Result<Vec<Queued>, LogDropped> {
        use mpsc::{RecvTimeoutError, TryRecvError};

        if let Some(carried) = self.carried.take() {
            return Ok(self.batch_after(carried));
        }
        let first = match patience {
            Patience::UntilChores => self.receiver.recv_timeout(chores_interval()),
            Patience::None => self.receiver.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
        };
        match first {
            Ok(first) => Ok(self.batch_after(first)),
            Err(RecvTimeoutError::Timeout) => Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => Err(LogDropped),
        }
    }
}

#[cfg(madsim)]
impl Commands {
    /// Waits for commands and takes all that fit into one transaction. Empty when the patience ends.
    async fn next_batch(&mut self, patience: Patience) -> Result<Vec<Queued>, LogDropped> {
        if let Some(carried) = self.carried.take() {
            return Ok(self.batch_after(carried));
        }
        let interval = if patience == Patience::None { Duration::ZERO } else { chores_interval() };
        match tokio::time::timeout(interval, self.receiver.recv()).await {
            Ok(Some(first)) => Ok(self.batch_after(first)),
            Ok(None) => Err(LogDropped),
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// A writer at work.
#[derive(Debug)]
pub(super) struct Running {
    #[cfg(not(madsim))]
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Sets a writer to work until the log is dropped or a write fails.
    #[cfg(not(madsim))]
    pub(super) fn start(mut writer: Writer, mut commands: Commands) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name("aspen-log".to_owned()).spawn(move || {
            loop {
                let next = commands.next_batch(writer.patience());
                if writer.turn(next, &mut commands).is_break() {
                    return;
                }
            }
        })?;
        Ok(Self { thread: Some(thread) })
    }

    /// Sets a writer to work until the log is dropped or a write fails. Each turn takes the time that
    /// the simulated disk takes.
    #[cfg(madsim)]
    pub(super) fn start(
        mut writer: Writer,
        mut commands: Commands,
        disk: std::sync::Arc<dyn crate::storage::disk::Disk>,
    ) -> io::Result<Self> {
        tokio::spawn(async move {
            loop {
                let next = commands.next_batch(writer.patience()).await;
                tokio::time::sleep(disk.sync_time()).await;
                if writer.turn(next, &mut commands).is_break() {
                    return;
                }
            }
        });
        Ok(Self {})
    }

    /// Waits for its end, which must be in sight: the queue is closed.
    pub(super) fn join(&mut self) {
        #[cfg(not(madsim))]
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the log panicked; its last words are above");
        }
    }
}
