//! Complete states as files or in memory: made here, sent to a peer, received from one.
//!
//! A snapshot is read from the file while it is sent, never held in memory as a whole. A received one
//! is a temporary file until every byte of it was verified and the state machine has taken it.
//!
//! # Tiger Style
//! A piece has [`limits::WIRE_SNAPSHOT_PIECE_BYTES`], the last one at least one byte and at most that.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;

use super::blocks::BlockError;
use super::disk::{Disk, DiskFile};
use crate::limits;
use crate::raft::runtime;
use crate::raft::types::SnapshotMeta;

pub(crate) mod files;
pub(crate) mod format;
#[cfg(test)]
mod tests;

pub use super::blocks::Part;
use files::{SnapshotDir, TemporaryFile};
pub use format::SnapshotError;

/// A complete snapshot. A clone shares it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SnapshotData {
    /// A file, open as long as this lives even if the file's name goes away.
    File(Arc<SnapshotFile>),
    /// All of it in memory.
    Memory(Bytes),
}

/// The open file of a snapshot.
#[derive(Debug)]
pub struct SnapshotFile {
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Removes the file's name, if it is not kept.
    temporary: Option<TemporaryFile>,
}

impl SnapshotFile {
    fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path)?;
        Ok(Self { len: file.len()?, file, temporary: None })
    }

    fn temporary(temporary: TemporaryFile) -> io::Result<Self> {
        let file = temporary.file.clone();
        Ok(Self { len: file.len()?, file, temporary: Some(temporary) })
    }
}

impl SnapshotData {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has no bytes, and so is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, in order. Each piece is read when it is asked for, off the async threads.
    pub fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold((self, 0), |(data, offset)| async move {
            let piece = data.piece(offset).await?;
            let next = offset + piece.len() as u64;
            Ok((!piece.is_empty()).then_some((piece, (data, next))))
        })
    }

    async fn piece(&self, offset: u64) -> io::Result<Bytes> {
        let left = self.len() - offset;
        let length = left.min(limits::WIRE_SNAPSHOT_PIECE_BYTES as u64);
        let length = usize::try_from(length).expect("a piece fits into memory");
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).expect("it is all in memory");
                Ok(bytes.slice(start..start + length))
            }
            Self::File(file) => {
                let file = file.clone();
                runtime::blocking(move || {
                    let mut piece = BytesMut::zeroed(length);
                    file.file.read_exact_at(offset, &mut piece)?;
                    Ok(piece.freeze())
                })
                .await?
            }
        }
    }

    /// Reads it to its end, off the async threads, and looks at every checksum and at the state that it is of.
    ///
    /// # Errors
    /// [`SnapshotError`]: it is damaged, is of another state than was announced, or cannot be read.
    pub async fn verify(&self, announced: &SnapshotMeta) -> Result<(), SnapshotError> {
        let (reader, announced) = (BufReader::new(self.reader()), announced.clone());
        let verified = runtime::blocking(move || {
            let found = format::read(reader, |_, _, _| Ok(()))?;
            format::ensure_same(found, &announced)
        });
        verified.await.map_err(BlockError::Io)?
    }

    /// Reads it from the start.
    pub(crate) fn reader(&self) -> SnapshotBytes {
        match self {
            Self::File(file) => SnapshotBytes::File { file: file.clone(), offset: 0 },
            Self::Memory(bytes) => SnapshotBytes::Memory(bytes.clone()),
        }
    }

    /// Has the system read the file from the disk rather than from its memory.
    pub(crate) fn forget_cached(&self) {
        if let Self::File(file) = self {
            file.file.forget_cached(0, file.len);
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::File(one), Self::File(other)) if Arc::ptr_eq(one, other))
    }

    fn temporary_path(&self) -> Option<&Path> {
        match self {
            Self::File(file) => file.temporary.as_ref().map(|temporary| &*temporary.path),
            Self::Memory(_) => None,
        }
    }
}

/// Reads a snapshot from its start, leaving other readers alone.
#[derive(Debug)]
pub(crate) enum SnapshotBytes {
    File { file: Arc<SnapshotFile>, offset: u64 },
    Memory(Bytes),
}

impl Read for SnapshotBytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, offset } => {
                let read = file.file.read_at(*offset, buf)?;
                *offset += read as u64;
                Ok(read)
            }
            Self::Memory(bytes) => bytes.reader().read(buf),
        }
    }
}

/// Where snapshots from peers are received.
#[derive(Clone, Debug)]
pub struct SnapshotInbox(Inbox);

#[derive(Clone, Debug)]
enum Inbox {
    Files(Arc<SnapshotDir>),
    Memory,
}

impl SnapshotInbox {
    pub(crate) fn files(dir: Arc<SnapshotDir>) -> Self {
        Self(Inbox::Files(dir))
    }

    pub(crate) fn memory() -> Self {
        Self(Inbox::Memory)
    }

    /// Begins to receive one.
    ///
    /// # Errors
    /// Where no file can be made for it.
    pub fn begin(&self) -> io::Result<IncomingSnapshot> {
        Ok(IncomingSnapshot(match &self.0 {
            Inbox::Files(dir) => Incoming::File { file: dir.create_temporary()?, len: 0 },
            Inbox::Memory => Incoming::Memory(BytesMut::new()),
        }))
    }
}

/// A snapshot that is being received. Dropping it before the end removes it.
#[derive(Debug)]
pub struct IncomingSnapshot(Incoming);

#[derive(Debug)]
enum Incoming {
    File { file: TemporaryFile, len: u64 },
    Memory(BytesMut),
}

impl IncomingSnapshot {
    /// Appends a piece.
    ///
    /// # Errors
    /// Where it cannot be written. What was received is then of no use.
    pub async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        match &mut self.0 {
            Incoming::Memory(bytes) => {
                bytes.extend_from_slice(&piece);
                Ok(())
            }
            Incoming::File { file, len } => {
                let (file, offset) = (file.file.clone(), *len);
                *len += piece.len() as u64;
                runtime::blocking(move || file.write_all_at(offset, &piece)).await?
            }
        }
    }

    /// Makes what was received durable. Whether it is whole is for [`SnapshotData::verify`] to find out.
    ///
    /// # Errors
    /// Where it cannot be made durable.
    pub async fn finish(self) -> io::Result<SnapshotData> {
        match self.0 {
            Incoming::Memory(bytes) => Ok(SnapshotData::Memory(bytes.freeze())),
            Incoming::File { file, .. } => runtime::blocking(move || file.finish()).await?,
        }
    }
}
