//! Fills the data directory of a stopped node with many keys, faster than any client could:
//!
//! ```text
//! aspen-node --data-dir d            # once, so that the node makes its cluster; then stop it
//! cargo run --release --example fill -- d 5000000
//! ```
//!
//! The keys are those of `aspen bench --keys COUNT --no-preload`. Every entry goes through the log and the
//! state as it does in a node, but in large batches and with few syncs. The node must have a cluster of its
//! own; it is a tool for measuring, and for nothing else.

#![allow(clippy::print_stdout, reason = "it tells how far it is")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use aspen::bench::plan::KEY_NUMBER_BYTES;
use aspen::kv::types::{Command, Key, Revision, Value, WriteOp};
use aspen::limits;
use aspen::raft::types::{Entry, LogId, TypeConfig};
use aspen::storage::log_redb::{LOG_FILE, RedbLog};
use aspen::storage::progress::Progress;
use aspen::storage::record::encode_command;
use aspen::storage::state::StateMachine;
use aspen::storage::{StorageOptions, state_redb};
use futures::stream;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;

/// As `aspen bench` has it unless it is told otherwise.
const KEY_PREFIX: &str = "bench/";
const VALUE_BYTES: usize = 256;
const BATCH: u64 = 4_000;

#[tokio::main]
async fn main() -> Result<(), anyhow::Error> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: fill DATA_DIR KEYS";
    let dir = PathBuf::from(arguments.next().context(usage)?);
    let keys: u64 = arguments.next().context(usage)?.parse().context(usage)?;
    let started = Instant::now();
    let mut store = Store::open(&dir).await?;
    for from in (0..keys).step_by(usize::try_from(BATCH)?) {
        let puts =
            (from..keys.min(from + BATCH)).map(|number| put(number, keys)).collect::<Result<Vec<_>, _>>()?;
        store.write(puts).await?;
        store.forget_history().await?;
        if from % (100 * BATCH) == 0 {
            store.purge_log().await?;
            println!("{from} of {keys} keys, {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    store.end().await?;
    println!("{keys} keys in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The put of a key, of so many. Those that follow each other are far apart in the order of keys.
fn put(number: u64, keys: u64) -> Result<Command, anyhow::Error> {
    // A prime above any number of keys here, so that each key has its turn once.
    const STRIDE: u128 = 2_654_435_761;
    let at = u128::from(number) * STRIDE % u128::from(keys);
    let name = format!("{KEY_PREFIX}{at:0width$}", width = KEY_NUMBER_BYTES);
    let value = format!("{number:0VALUE_BYTES$}");
    Ok(Command::put(Key::new(name.into_bytes())?, Value::new(value.into_bytes())?))
}

struct Store {
    log: RedbLog,
    state: StateMachine,
    last: LogId,
}

impl Store {
    async fn open(dir: &Path) -> Result<Self, anyhow::Error> {
        let options = StorageOptions::default();
        let progress = Arc::new(Progress::default());
        let mut log = RedbLog::open(&dir.join(LOG_FILE), options.log_cache(), progress.clone())?;
        let mut state = state_redb::open(dir, options, progress)?;
        let last = log.get_log_state().await?.last_log_id.context("the node has no cluster yet")?;
        // What is committed and not applied is the node's own to apply.
        let (applied, _) = state.applied_state().await?;
        ensure!(
            applied == Some(last),
            "the log ends at {last} and the state at {applied:?}: start the node once more"
        );
        Ok(Self { log, state, last })
    }

    /// Commits and applies commands.
    async fn write(&mut self, commands: Vec<Command>) -> Result<(), anyhow::Error> {
        let mut entries: Vec<Entry> = Vec::with_capacity(commands.len());
        for command in commands {
            self.last.index += 1;
            entries.push(Entry::new(self.last, EntryPayload::Normal(encode_command(&command)?)));
        }
        let (sender, flushed) = TypeConfig::oneshot();
        self.log.append(entries.clone(), IOFlushed::signal(sender)).await?;
        flushed.await??;
        self.log.save_committed(Some(self.last)).await?;
        self.state.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await?;
        Ok(())
    }

    /// Keeps the history and the log as short as a node does.
    async fn forget_history(&mut self) -> Result<(), anyhow::Error> {
        let keep = limits::HISTORY_DEFAULT_REVISIONS;
        let (newest, oldest) = {
            let reader = self.state.reader();
            (reader.revision().0, reader.compacted_revision().0)
        };
        if newest.saturating_sub(oldest) > keep {
            let op = WriteOp::Compact { revision: Revision(newest - keep) };
            let steps = BATCH / limits::COMPACT_STEP_MAX_RECORDS as u64 + 1;
            self.write((0..steps).map(|_| Command::new(op.clone())).collect()).await?;
        }
        Ok(())
    }

    /// Leaves a snapshot behind, and a log that begins with it.
    async fn end(mut self) -> Result<(), anyhow::Error> {
        tokio::task::block_in_place(|| self.state.reader().checkpoint())?;
        let began = Instant::now();
        let snapshot = self.state.get_snapshot_builder().await.build_snapshot().await?;
        let mb = snapshot.snapshot.len() / 1_000_000;
        println!("a snapshot of {mb} MB in {:.1} s", began.elapsed().as_secs_f64());
        self.purge_log().await
    }

    async fn purge_log(&mut self) -> Result<(), anyhow::Error> {
        let kept = self.last.index.saturating_sub(limits::LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES);
        Ok(self.log.purge(LogId::new(self.last.leader_id, kept)).await?)
    }
}
