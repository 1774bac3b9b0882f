//! A node's log on disk, with everything that Raft asks of it told to the invariants.

use std::io;

use aspen::kv::types::NodeId;
use aspen::raft::types::{Entry, LogId, TypeConfig, Vote};
use aspen::storage::log_redb::{RedbLog, RedbLogReader};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};

use crate::invariants::Event;
use crate::world::World;

/// See the module.
pub struct ObservedLog {
    log: RedbLog,
    node: NodeId,
    world: World,
}

impl ObservedLog {
    /// The log of a node.
    pub fn new(log: RedbLog, node: NodeId, world: World) -> Self {
        Self { log, node, world }
    }
}

impl RaftLogStorage<TypeConfig> for ObservedLog {
    type LogReader = RedbLogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> RedbLogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(vote).await?;
        self.world.milestone(self.node, format_args!("saved vote {vote}"));
        self.world.saw(&Event::VoteSaved { node: self.node, vote: *vote });
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.log.append(entries.clone(), callback).await?;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.world.note(self.node, format_args!("appended {}..={}", first.log_id, last.log_id.index));
        }
        self.world.saw(&Event::Appended { node: self.node, entries: &entries });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.world.milestone(self.node, format_args!("truncates after {last:?}"));
        self.world.count("truncations");
        // Before the disk has it: a crash on the way may leave the old end, which promises nothing.
        self.world.saw(&Event::Truncated { node: self.node, last });
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, to: LogId) -> Result<(), io::Error> {
        self.log.purge(to).await?;
        // It may have gone less far.
        if let Some(to) = self.log.get_log_state().await?.last_purged_log_id {
            self.world.note(self.node, format_args!("purged up to {to}"));
            self.world.count("purges");
            self.world.saw(&Event::Purged { node: self.node, to });
        }
        Ok(())
    }
}
