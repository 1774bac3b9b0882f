//! A node's life in steps drawn from a seed, through openraft's traits: what the steps do to the store and
//! what they make the model expect.
//!
//! One step runs at a time, and where the log is to lag behind, its syncs are held: so the order of all
//! that reaches the disk, and with it the whole run, depends on the seed alone.

use std::io;

use futures::stream;
use openraft::alias::OneshotReceiverOf;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log_id;
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, Membership};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use uuid::Uuid;

use super::model::{Model, count};
use super::store::Store;
use super::{Planted, Step};
use crate::kv::types::{
    Command, Key, KeyRange, NodeId, RestoreId, Revision, SessionId, SessionTag, TxnOp, Value, WriteOp,
};
use crate::raft::types::{Entry, TypeConfig, Vote};
use crate::storage::apply::tests::restore_steps;
use crate::storage::disk::SimulatedDisk;
use crate::storage::log_redb::LOG_FILE;
use crate::storage::record::encode_command;
use crate::storage::snapshot::format;

/// Why a step did not end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The power went off in it.
    PowerCut,
    /// Something went wrong although the power was on.
    Broken(String),
}

type Done = Result<(), Stop>;
type Flushed = OneshotReceiverOf<TypeConfig, Result<(), io::Error>>;

pub(super) struct Workload<'r> {
    pub(super) rng: &'r mut Xoshiro256PlusPlus,
    pub(super) disk: &'r SimulatedDisk,
    pub(super) model: &'r mut Model,
    pub(super) planted: Option<Planted>,
}

impl Workload<'_> {
    /// Takes a step. The store is gone where the step ends it.
    pub(super) async fn take(&mut self, step: Step, store: &mut Option<Store>) -> Done {
        let open = store.as_mut().expect("the store is open between steps");
        match step {
            Step::Append => self.append(open).await,
            Step::Vote => self.vote(open).await,
            Step::Commit => self.commit(open).await,
            Step::Apply => self.apply(open).await,
            Step::Checkpoint => self.checkpoint(open),
            Step::Truncate => self.truncate(open).await,
            Step::Purge => self.purge(open).await,
            Step::Build => self.build(open).await,
            Step::Install => self.install(open).await,
            Step::Lag => self.lag(store).await,
            Step::Shrink => self.shrink(open),
        }
    }

    fn end<T, E: ToString>(&self, result: Result<T, E>, what: &str) -> Result<T, Stop> {
        result.map_err(|error| {
            if self.disk.is_on() {
                Stop::Broken(format!("{what} failed although the power was on: {}", error.to_string()))
            } else {
                Stop::PowerCut
            }
        })
    }

    /// Adds entries that the log lacks, or new ones, without waiting for them.
    async fn begin_append(&mut self, store: &mut Store) -> Result<Flushed, Stop> {
        if self.model.log_len == self.model.next() {
            for _ in 0..self.rng.random_range(1..6) {
                let entry = self.new_entry();
                self.model.entries.push(entry);
            }
        }
        let entries = self.model.range(self.model.log_len, self.model.next()).to_vec();
        let (flushed, on_flush) = TypeConfig::oneshot();
        let appended = store.log.append(entries, IOFlushed::signal(flushed)).await;
        self.model.log_len = self.model.next();
        self.end(appended, "an append")?;
        if self.planted == Some(Planted::AcknowledgedBeforeTheSync) {
            self.model.acknowledged = self.model.log_len;
        }
        Ok(on_flush)
    }

    async fn end_append(&mut self, flushed: Flushed, log_len: u64) -> Done {
        let flushed = flushed.await.map_err(|_| Stop::Broken("an append was never answered".to_owned()))?;
        self.end(flushed, "an append")?;
        self.model.acknowledged = self.model.acknowledged.max(log_len);
        Ok(())
    }

    async fn append(&mut self, store: &mut Store) -> Done {
        let flushed = self.begin_append(store).await?;
        let log_len = self.model.log_len;
        self.end_append(flushed, log_len).await
    }

    async fn vote(&mut self, store: &mut Store) -> Done {
        let vote = self.new_vote();
        let saved = store.log.save_vote(&vote).await;
        self.end(saved, "a vote")?;
        self.model.vote = self.model.vote_under_way.take();
        Ok(())
    }

    fn new_vote(&mut self) -> Vote {
        self.model.term += 1;
        let vote = Vote::new(self.model.term, NodeId(self.rng.random_range(1..4)));
        self.model.vote_under_way = Some(vote);
        vote
    }

    /// A quorum has more of the log. It may have what this disk does not hold yet.
    async fn commit(&mut self, store: &mut Store) -> Done {
        let to = self.rng.random_range(self.model.committed..=self.model.log_len.max(self.model.committed));
        self.model.commit(to);
        self.save_committed(store).await
    }

    async fn save_committed(&mut self, store: &mut Store) -> Done {
        self.model.saved_committed = self.model.committed;
        let saved = store.log.save_committed(self.model.id(self.model.committed)).await;
        self.end(saved, "the committed id")
    }

    /// Applies what is committed, or a part of it, from the log.
    async fn apply(&mut self, store: &mut Store) -> Done {
        let Some(to) = self.draw_applied() else { return Ok(()) };
        let read = store.log.reader().try_get_log_entries(self.model.applied..to).await;
        let entries = self.end(read, "reading the log")?;
        if entries != self.model.range(self.model.applied, to) {
            return Err(Stop::Broken("the log gives other entries than were written".to_owned()));
        }
        self.apply_to(store, to).await
    }

    fn draw_applied(&mut self) -> Option<u64> {
        let most = self.model.committed.min(self.model.log_len);
        (self.model.applied < most).then(|| self.rng.random_range(self.model.applied + 1..=most))
    }

    async fn apply_to(&mut self, store: &mut Store, to: u64) -> Done {
        let entries = self.model.range(self.model.applied, to).to_vec();
        let applied =
            store.state.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await;
        self.end(applied, "applying")?;
        self.model.applied = to;
        Ok(())
    }

    fn checkpoint(&mut self, store: &mut Store) -> Done {
        let made = self.end(store.state.reader().checkpoint(), "a checkpoint")?;
        if !made {
            return Err(Stop::Broken("no checkpoint was made although the log is on disk".to_owned()));
        }
        self.model.durable = self.model.applied;
        Ok(())
    }

    /// Cuts off what is not committed: another leader's log is another one.
    async fn truncate(&mut self, store: &mut Store) -> Done {
        let to = self.rng.random_range(self.model.committed..=self.model.next().max(self.model.committed));
        self.truncate_to(store, to).await
    }

    async fn truncate_to(&mut self, store: &mut Store, to: u64) -> Done {
        if to >= self.model.log_len {
            return Ok(());
        }
        self.model.truncating = Some(to);
        let truncated = store.log.truncate_after(self.model.id(to)).await;
        self.end(truncated, "a truncation")?;
        self.truncated(to);
        Ok(())
    }

    fn truncated(&mut self, to: u64) {
        self.model.truncating = None;
        self.model.truncate(to);
        self.model.log_len = to;
        self.model.acknowledged = self.model.acknowledged.min(to);
        self.model.term += 1;
    }

    async fn purge(&mut self, store: &mut Store) -> Done {
        let most = self.model.applied.min(self.model.log_len);
        if most <= self.model.purged {
            return Ok(());
        }
        if self.planted == Some(Planted::PurgePastTheState) {
            store.progress.set_durable(Some(u64::MAX - 1));
        }
        let to = self.rng.random_range(self.model.purged + 1..=most);
        self.purge_to(store, to).await
    }

    async fn purge_to(&mut self, store: &mut Store, to: u64) -> Done {
        self.model.purge_asked = self.model.purge_asked.max(to);
        let id = self.model.id(to).expect("a purge has an end");
        let purged = store.log.purge(id).await;
        self.end(purged, "a purge")?;
        let state = store.log.get_log_state().await;
        self.model.purged = count(self.end(state, "looking at the log")?.last_purged_log_id);
        self.model.log_len = self.model.log_len.max(self.model.purged);
        self.model.acknowledged = self.model.acknowledged.max(self.model.purged);
        Ok(())
    }

    async fn build(&mut self, store: &mut Store) -> Done {
        let built = store.state.get_snapshot_builder().await.build_snapshot().await;
        let built = self.end(built, "building a snapshot")?;
        self.model.durable = self.model.applied;
        self.model.snapshot = count(built.meta.last_log_id);
        Ok(())
    }

    /// The state is copied into a new file, durably.
    fn shrink(&mut self, store: &mut Store) -> Done {
        let state = store.state.on_disk().expect("the state is in a file");
        self.end(state.shrink(), "a copy of the state")?;
        self.model.durable = self.model.applied;
        Ok(())
    }

    /// The cluster has gone on without this node, and sends its state.
    async fn install(&mut self, store: &mut Store) -> Done {
        self.truncate_to(store, self.model.committed).await?;
        self.model.truncate(self.model.committed);
        for _ in 0..self.rng.random_range(1..12) {
            let entry = self.new_entry();
            self.model.entries.push(entry);
        }
        let to = self.model.next();
        self.model.commit(to);
        let mut bytes = Vec::new();
        let meta = format::write(self.model.state(to), &mut bytes).expect("memory takes a snapshot");
        self.model.installing = Some(to);

        let received = async {
            let mut incoming = store.state.inbox().begin()?;
            for piece in bytes.chunks(3_000) {
                incoming.write(bytes::Bytes::copy_from_slice(piece)).await?;
            }
            incoming.finish().await
        };
        let data = self.end(received.await, "receiving a snapshot")?;
        self.save_committed(store).await?;
        let installed = store.state.install_snapshot(&meta, data).await;
        self.end(installed, "installing a snapshot")?;
        self.model.applied = to;
        self.model.durable = to;
        self.model.snapshot = to;
        self.purge_to(store, to).await
    }

    /// The log's disk answers late: more is appended, committed and applied than is flushed. It ends with
    /// the answers, or with the power, before which the state may have been closed.
    async fn lag(&mut self, store: &mut Option<Store>) -> Done {
        self.disk.hold_syncs(LOG_FILE);
        let open = store.as_mut().expect("the store is open between steps");
        let mut waiting = Vec::new();
        for n in 0..self.rng.random_range(1..4) {
            let flushed = self.begin_append(open).await?;
            waiting.push((flushed, self.model.log_len));
            if n == 0 && !self.disk.wait_for_held_sync() {
                return Err(Stop::PowerCut);
            }
        }
        self.commit(open).await?;
        // Not through the log: what its memory does not hold is behind the disk that does not answer.
        if let Some(to) = self.draw_applied() {
            self.apply_to(open, to).await?;
        }
        if self.planted == Some(Planted::CheckpointPastTheLog) {
            open.progress.set_flushed(Some(u64::MAX - 1));
        }
        match self.rng.random_range(0..4) {
            0 => self.disk.cut_power(),
            1 => {
                let Store { log, state, .. } = store.take().expect("the store is open between steps");
                drop(state);
                self.disk.cut_power();
                drop(log);
            }
            2 => {
                let vote = self.new_vote();
                let mut saved = std::pin::pin!(open.log.save_vote(&vote));
                assert!(futures::poll!(&mut saved).is_pending(), "the disk has not answered");
                self.disk.cut_power();
                let saved = saved.await;
                self.end(saved, "a vote").expect_err("the power is off");
            }
            _ => self.disk.release_syncs(),
        }
        for (flushed, log_len) in waiting {
            self.end_append(flushed, log_len).await?;
        }
        Ok(())
    }

    fn new_entry(&mut self) -> Entry {
        let id = log_id::<TypeConfig>(self.model.term, NodeId(1), self.model.next());
        match self.rng.random_range(0..20) {
            0 => Entry::new_blank(id),
            1 => {
                let voters = [NodeId(1), NodeId(self.rng.random_range(2..5))].into();
                Entry::new(id, EntryPayload::Membership(Membership::new_with_defaults(vec![voters], [])))
            }
            _ => {
                let command = self.new_command();
                let proposal = encode_command(&command).expect("the workload's commands are small");
                Entry::new(id, EntryPayload::Normal(proposal))
            }
        }
    }

    /// Goes on with a restore, or begins one.
    fn next_restore_step(&mut self) -> Command {
        if self.model.restoring.is_empty() {
            let id = RestoreId(Uuid::from_u128(self.rng.random()));
            self.model.restoring = restore_steps(id, &[vec!["a", "b"], vec!["a"]]);
            self.model.restoring.reverse();
        }
        let step = self.model.restoring.pop().expect("a restore has steps");
        Command::new(WriteOp::Restore(step))
    }

    fn new_command(&mut self) -> Command {
        let key = |rng: &mut Xoshiro256PlusPlus| {
            Key::new(format!("k{:02}", rng.random_range(0..40))).expect("a short key")
        };
        let op = match self.rng.random_range(0..20) {
            0 => return self.next_restore_step(),
            1 => {
                let current = self.model.revision(self.model.committed);
                return Command::new(WriteOp::Compact { revision: current });
            }
            2..5 => TxnOp::Delete { range: KeyRange::Key(key(self.rng)) },
            5 => TxnOp::Delete { range: KeyRange::Prefix(bytes::Bytes::from_static(b"k1")) },
            _ => {
                let bytes = match self.rng.random_range(0..30) {
                    0 => 30_000,
                    1..4 => 5_000,
                    _ => self.rng.random_range(0..200),
                };
                let value = Value::new(vec![self.rng.random(); bytes]).expect("a short value");
                TxnOp::Put { key: key(self.rng), value, lease: 0 }
            }
        };
        let session = self.rng.random_bool(0.3).then(|| SessionTag {
            id: SessionId(Uuid::from_u128(self.rng.random_range(0..5))),
            sequence: self.rng.random_range(1..50),
            since: Revision(0),
        });
        Command { session, ..Command::ops(vec![op]) }
    }
}
