//! The snapshots of a stopped node, looked at as a whole: every chunk, and every row in it.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::raft::types::SnapshotMeta;
use crate::storage::blocks::BlockError;
use crate::storage::damage::{Damage, Place};
use crate::storage::record;
use crate::storage::snapshot::SnapshotError;
use crate::storage::snapshot::files::{FINISHED, TEMPORARY};
use crate::storage::snapshot::format::SnapshotCheck;
use crate::storage::tables::StateError;

/// What is in a snapshot.
#[derive(Clone, Debug)]
pub(in crate::storage) struct SnapshotFacts {
    pub(in crate::storage) path: PathBuf,
    pub(in crate::storage) meta: SnapshotMeta,
    pub(in crate::storage) records: u64,
}

/// What the directory of snapshots holds.
#[derive(Debug, Default)]
pub(in crate::storage) struct Snapshots {
    /// By name, which is by age.
    pub(in crate::storage) finished: Vec<PathBuf>,
    /// What a crash left.
    pub(in crate::storage) unfinished: Vec<PathBuf>,
}

/// Lists a directory of snapshots, which need not be there.
pub(in crate::storage) fn list(dir: &Path) -> std::io::Result<Snapshots> {
    let mut snapshots = Snapshots::default();
    if !dir.exists() {
        return Ok(snapshots);
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(FINISHED) => snapshots.finished.push(path),
            Some(TEMPORARY) => snapshots.unfinished.push(path),
            _ => {}
        }
    }
    snapshots.finished.sort_unstable();
    snapshots.unfinished.sort_unstable();
    Ok(snapshots)
}

/// Reads a snapshot to its end.
pub(in crate::storage) fn survey(path: &Path) -> Result<SnapshotFacts, Damage> {
    read(path).map_err(|error| {
        if let SnapshotError::Blocks(BlockError::Io(error)) = &error {
            return Damage::of_io(path, Place::File, error);
        }
        let place = match &error {
            SnapshotError::Blocks(BlockError::Checksum(part) | BlockError::Malformed(part, _)) => {
                Place::Part(part.to_string())
            }
            SnapshotError::State(
                StateError::Checksum { table, key } | StateError::Malformed { table, key, .. },
            ) => Place::row(table, key),
            _ => Place::File,
        };
        Damage::new(path, place, error)
    })
}

fn read(path: &Path) -> Result<SnapshotFacts, SnapshotError> {
    let file = File::open(path).map_err(BlockError::Io)?;
    let mut check = SnapshotCheck::begin(BufReader::new(file))?;
    while check.next_chunk(record::check_row)?.is_some() {}
    Ok(SnapshotFacts { path: path.to_owned(), meta: check.meta().clone(), records: check.rows() })
}
