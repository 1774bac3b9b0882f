//! A log whose readers wait where they would fail for a purge.
//!
//! A leader takes no notice of a follower's stream that has just failed, and may then purge entries with
//! which the stream is about to begin again. To Raft the failed read is a failed disk, and the leader
//! stops for good, although nothing is lost: the follower gets a snapshot instead. So such a read waits
//! until its stream is given up, which the network does with streams that fall silent.
//!
//! # Tiger Style
//! A read waits no longer than [`limits::PURGED_READ_WAIT_MS`], which is longer than any stream may be
//! silent, and fails then.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::time::Duration;

use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::limits;
use crate::storage::LogError;

/// See the module.
pub(super) struct PatientLog<L>(pub(super) L);

/// A reader of such a log.
pub(super) struct PatientReader<R>(R);

impl<L: RaftLogStorage<TypeConfig>> RaftLogStorage<TypeConfig> for PatientLog<L> {
    type LogReader = PatientReader<L::LogReader>;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        PatientReader(self.0.get_log_reader().await)
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.0.truncate_after(last).await
    }

    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        self.0.purge(to).await
    }
}

impl<R: RaftLogReader<TypeConfig>> RaftLogReader<TypeConfig> for PatientReader<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.0.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.0.read_vote().await
    }

    /// What replication reads with.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let read = self.0.limited_get_log_entries(start, end).await;
        if let Err(error) = &read
            && is_purged(error)
        {
            tracing::info!("a stream to a follower waits for its end: {error}");
            tokio::time::sleep(Duration::from_millis(limits::PURGED_READ_WAIT_MS)).await;
        }
        read
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.0.entries_stream(range).await
    }
}

fn is_purged(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<LogError>());
    matches!(inner, Some(LogError::Purged { .. }))
}
