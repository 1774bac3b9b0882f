//! What must hold whenever a store is opened again.

use std::ffi::OsStr;
use std::io::BufReader;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};

use super::model::{Model, count};
use super::store::{Store, dir, snapshot_dir};
use crate::raft::types::Vote;
use crate::storage::disk::SimulatedDisk;
use crate::storage::snapshot::format;
use crate::storage::tables::{MemTables, WriteTables, dump};

/// What is broken, in a sentence.
type Broken = String;

/// How far a store goes that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) log_len: u64,
    pub(super) purged: u64,
    pub(super) committed: u64,
    pub(super) applied: u64,
    pub(super) snapshot: Option<u64>,
    pub(super) vote: Option<Vote>,
}

macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}

/// Checks a store right after it was opened, before anything is applied again.
pub(super) async fn opened(model: &Model, store: &mut Store, disk: &SimulatedDisk) -> Result<Found, Broken> {
    let found = find(store).await?;
    votes_survive(model, found)?;
    acknowledged_entries_survive(model, store, found).await?;
    committed_stays_in_the_log(model, found)?;
    purge_goes_no_further_than_asked(model, found)?;
    applied_stays_in_the_log(model, found)?;
    state_is_the_one_at(model, store, found.applied)?;
    revision_never_goes_backwards(model, store)?;
    snapshot_is_whole(model, store, found).await?;
    nothing_is_left_over(disk)?;
    Ok(found)
}

pub(super) async fn find(store: &mut Store) -> Result<Found, Broken> {
    let log = store.log.get_log_state().await.map_err(|error| error.to_string())?;
    let committed = store.log.read_committed().await.map_err(|error| error.to_string())?;
    let (applied, _) = store.state.applied_state().await.map_err(|error| error.to_string())?;
    let snapshot = store.state.get_current_snapshot().await.map_err(|error| error.to_string())?;
    let vote = store.log.reader().read_vote().await.map_err(|error| error.to_string())?;
    Ok(Found {
        vote,
        log_len: count(log.last_log_id),
        purged: count(log.last_purged_log_id),
        committed: count(committed),
        applied: count(applied),
        snapshot: snapshot.map(|snapshot| count(snapshot.meta.last_log_id)),
    })
}

fn votes_survive(model: &Model, found: Found) -> Result<(), Broken> {
    let vote = found.vote;
    let allowed = vote == model.vote || (vote.is_some() && vote == model.vote_under_way);
    ensure!(
        allowed,
        "the vote is {vote:?}: {:?} was acknowledged, {:?} under way",
        model.vote,
        model.vote_under_way
    );
    Ok(())
}

async fn acknowledged_entries_survive(model: &Model, store: &Store, found: Found) -> Result<(), Broken> {
    let Found { log_len, purged, .. } = found;
    let kept = model.acknowledged.min(model.truncating.unwrap_or(u64::MAX));
    ensure!(log_len >= kept, "the log has {log_len} entries, and {kept} were acknowledged");
    let most = model.next().max(model.log_len).max(model.installing.unwrap_or(0));
    ensure!(log_len <= most, "the log has {log_len} entries, and {most} were written");
    let entries = store
        .log
        .reader()
        .try_get_log_entries(..)
        .await
        .map_err(|error| format!("reading the log: {error}"))?;
    ensure!(
        entries.len() as u64 == log_len - purged,
        "the log has {} entries from {purged} to {log_len}",
        entries.len()
    );
    for (written, read) in model.range(purged, log_len).iter().zip(&entries) {
        ensure!(written == read, "entry {} was written as {written:?} and is {read:?}", written.log_id);
    }
    Ok(())
}

fn committed_stays_in_the_log(model: &Model, found: Found) -> Result<(), Broken> {
    let Found { committed, log_len, .. } = found;
    ensure!(committed <= log_len, "{committed} entries are committed in a log of {log_len}");
    let saved = model.saved_committed;
    ensure!(committed <= saved, "{committed} entries are committed, and at most {saved} were saved as such");
    Ok(())
}

fn purge_goes_no_further_than_asked(model: &Model, found: Found) -> Result<(), Broken> {
    let Model { purged: least, purge_asked: most, .. } = *model;
    let purged = found.purged;
    ensure!((least..=most).contains(&purged), "{purged} entries are purged, which were {least} to {most}");
    Ok(())
}

fn applied_stays_in_the_log(model: &Model, found: Found) -> Result<(), Broken> {
    let Found { applied, log_len, purged, .. } = found;
    ensure!(
        applied <= log_len || model.installing == Some(applied),
        "{applied} entries are applied, which is past the log of {log_len} and no snapshot from another node"
    );
    ensure!(purged <= applied, "the log begins after {purged} entries, and only {applied} are applied");
    let durable = model.durable;
    ensure!(applied >= durable, "{applied} entries are applied, and {durable} were reported as durable");
    Ok(())
}

pub(super) fn state_is_the_one_at(model: &Model, store: &Store, applied: u64) -> Result<(), Broken> {
    ensure!(applied <= model.committed, "{applied} entries are applied, {} committed", model.committed);
    let (is, should) = (store.state.dump(), dump(model.state(applied)));
    if is == should {
        return Ok(());
    }
    let differs = is.iter().zip(&should).position(|(is, should)| is != should);
    Err(format!(
        "the state after {applied} entries has {} rows and should have {}; row {differs:?} is the first other one",
        is.len(),
        should.len()
    ))
}

fn revision_never_goes_backwards(model: &Model, store: &Store) -> Result<(), Broken> {
    let (revision, durable) = (store.state.reader().revision(), model.revision(model.durable));
    ensure!(revision >= durable, "the revision is {revision}, and {durable} was reported as durable");
    Ok(())
}

async fn snapshot_is_whole(model: &Model, store: &mut Store, found: Found) -> Result<(), Broken> {
    let current = store.state.get_current_snapshot().await.map_err(|error| error.to_string())?;
    let kept = model.snapshot;
    let Some(snapshot) = current else {
        ensure!(kept == 0, "there is no snapshot, and one of {kept} entries was kept");
        return Ok(());
    };
    let entries = count(snapshot.meta.last_log_id);
    ensure!(entries >= kept, "the snapshot has {entries} entries, and one of {kept} was kept");
    ensure!(
        entries <= found.applied || model.installing == Some(entries),
        "the snapshot has {entries} entries, and {} are applied",
        found.applied
    );
    let mut tables = MemTables::default();
    format::read(BufReader::new(snapshot.snapshot.reader()), |table, key, value| {
        tables.put(table, key, value)
    })
    .map_err(|error| format!("the snapshot of {entries} entries: {error}"))?;
    ensure!(
        dump(&tables) == dump(model.state(entries)),
        "the snapshot of {entries} entries does not hold the state after them"
    );
    Ok(())
}

fn nothing_is_left_over(disk: &SimulatedDisk) -> Result<(), Broken> {
    let mount = disk.mount();
    for dir in [dir(), snapshot_dir()] {
        for file in mount.list(&dir).map_err(|error| error.to_string())? {
            let leftover =
                ["new", "tmp", "shrunk"].map(Some).contains(&file.extension().and_then(OsStr::to_str));
            ensure!(!leftover, "{} was left over", file.display());
        }
    }
    Ok(())
}
