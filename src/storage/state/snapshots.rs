//! Making snapshots: because Raft asks for one, or because the one there is is damaged.
//!
//! Raft takes a snapshot that cannot be made, or is not there once the log was purged, for a failed disk, and
//! ends. So one that finds no room waits for some, and a damaged one stays until another stands in its place.
//!
//! # Tiger Style
//! None is begun without room for all of it beside the last reserve. One that Raft cannot start without does
//! not wait for room: nothing would make any.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftSnapshotBuilder;
use tracing::{error, info, warn};

use super::{Snapshot, Store};
use crate::limits;
use crate::raft::runtime;
use crate::raft::types::{SnapshotMeta, TypeConfig};
use crate::storage::snapshot::{SnapshotData, SnapshotError};
use crate::storage::space::Space;
use crate::storage::state_redb::RedbState;

/// Makes a snapshot of the state as it is when it begins, while entries are applied.
pub struct SnapshotBuilder {
    store: Store,
    space: Arc<Space>,
    need: Need,
}

/// What depends on a snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The log stays longer without it.
    ToPurge,
    /// Raft does not start without it.
    ToStart,
}

impl SnapshotBuilder {
    pub(super) fn new(store: Store, space: Arc<Space>, need: Need) -> Self {
        Self { store, space, need }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    /// Where the room is taken by somebody else on the way, it begins again once there is some.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if self.need == Need::ToStart {
            return self.build_to_start().await.map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => needed_to_start(&error),
                _ => error,
            });
        }
        loop {
            match self.store.build_snapshot().await {
                Ok((meta, snapshot)) => return Ok(Snapshot { meta, snapshot }),
                Err(full) if full.kind() == io::ErrorKind::StorageFull => put_off(&full),
                Err(error) => return Err(error),
            }
            loop {
                tokio::time::sleep(Duration::from_millis(limits::SNAPSHOT_ROOM_CHECK_INTERVAL_MS)).await;
                match fits(&self.store, &self.space).await {
                    Ok(()) => break,
                    Err(full) if full.kind() == io::ErrorKind::StorageFull => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

impl SnapshotBuilder {
    async fn build_to_start(&self) -> io::Result<Snapshot> {
        fits(&self.store, &self.space).await?;
        let (meta, snapshot) = self.store.build_snapshot().await?;
        Ok(Snapshot { meta, snapshot })
    }
}

fn needed_to_start(full: &io::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "the log was purged, there is no whole snapshot of what it held, and no room to make one: {full}. Make \
             room on the disk, or lower disk_reserve_bytes, then start the node again"
        ),
    )
}

/// Whether a snapshot fits onto the disk.
pub(super) async fn fits(store: &Store, space: &Arc<Space>) -> io::Result<()> {
    let Store::Redb(state) = store else { return Ok(()) };
    let (state, space) = (state.clone(), space.clone());
    runtime::blocking(move || fits_on_disk(&state, &space)).await?
}

fn fits_on_disk(state: &RedbState, space: &Space) -> io::Result<()> {
    // What waits in memory is no part of the file yet. A snapshot begins with this anyway.
    state.checkpoint()?;
    let most = state.file_bytes()?;
    if space.fits_now(most).is_ok() {
        return Ok(());
    }
    // The file may be mostly empty, after deletes. To read it all takes a while.
    let bytes = if most <= limits::SNAPSHOT_MEASURE_MAX_BYTES { state.measure_snapshot()? } else { most };
    space.fits_now(bytes).map_err(|no_room| {
        io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "it takes up to {} bytes, and of the {} that are free {} must stay free",
                no_room.needed_bytes, no_room.free_bytes, no_room.kept_bytes
            ),
        )
    })
}

/// Makes a damaged snapshot anew, unless another one is the current one by now. It blocks for as long as a
/// snapshot takes.
pub(in crate::storage) fn make_anew(
    state: &RedbState,
    space: &Space,
    meta: &SnapshotMeta,
    damaged: &SnapshotData,
    problem: &SnapshotError,
) {
    let snapshots = state.snapshots();
    if !snapshots.is_current(damaged) {
        return;
    }
    let file = snapshots.path_of(meta);
    metrics::counter!("aspen_snapshot_damaged_total").increment(1);
    warn!(file = %file.display(), "a snapshot is damaged and is made anew: {problem}");
    match fits_on_disk(state, space).and_then(|()| state.build_snapshot()) {
        Ok((meta, _)) => info!(file = %snapshots.path_of(&meta).display(), "the snapshot was made anew"),
        Err(error) => error!(file = %file.display(), %error, "the snapshot could not be made anew"),
    }
}

pub(super) fn put_off(reason: &io::Error) {
    metrics::counter!("aspen_storage_snapshots_put_off_total").increment(1);
    warn!("a snapshot is put off: {reason}");
}
