//! A backup that is sent while it is still being written: the file decouples the two.
//!
//! The writer goes at the pace of the disk, because it holds an old view of the state open; the reader goes
//! at that of whoever takes the backup, and waits where it has caught up. Each ends the other: a writer
//! that fails breaks the reading off, and a reader that goes away ends the writing.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::watch;

use crate::limits;
use crate::raft::runtime;
use crate::storage::snapshot::files::TemporaryFile;

/// How much is written, and whether that is all.
#[derive(Clone, Debug, Default)]
struct Written {
    bytes: u64,
    /// Set at the end.
    ended: Option<Result<(), Arc<str>>>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum GrowingFile {
    /// In a file without a future, which goes with this.
    File(TemporaryFile),
    /// All of them in memory.
    Memory(Bytes),
}

/// The writer's side.
pub(crate) struct Published<W> {
    file: W,
    written: u64,
    sender: watch::Sender<Written>,
}

/// The reader's side: the bytes in order, as they come.
#[derive(Debug)]
pub struct BackupPieces {
    source: Arc<GrowingFile>,
    written: watch::Receiver<Written>,
}

/// Both sides of a backup that `file` writes to `source`.
pub(crate) fn growing<W: Write>(source: Arc<GrowingFile>, file: W) -> (Published<W>, BackupPieces) {
    let (sender, written) = watch::channel(Written::default());
    (Published { file, written: 0, sender }, BackupPieces { source, written })
}

impl<W> Published<W> {
    /// Says how writing ended. Without it the reader takes it for a failure.
    pub(crate) fn end(self, result: io::Result<()>) {
        let ended = Some(result.map_err(|error| error.to_string().into()));
        self.sender.send_modify(|written| written.ended = ended);
    }
}

impl<W: Write> Write for Published<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sender.is_closed() {
            // No interruption, which would be tried again.
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the backup any more"));
        }
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        let bytes = self.written;
        self.sender.send_modify(|written| written.bytes = bytes);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BackupPieces {
    /// All of a backup that is in memory.
    pub(crate) fn of_memory(bytes: Bytes) -> Self {
        let written = Written { bytes: bytes.len() as u64, ended: Some(Ok(())) };
        Self { source: Arc::new(GrowingFile::Memory(bytes)), written: watch::channel(written).1 }
    }

    /// The bytes in order, each piece read when it is asked for. It ends with an error where the backup
    /// could not be written to its end.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures::stream::try_unfold((self, 0), |(mut pieces, offset)| async move {
            let piece = pieces.piece(offset).await?;
            Ok(piece.map(|piece| {
                let next = offset + piece.len() as u64;
                (piece, (pieces, next))
            }))
        })
    }

    async fn piece(&mut self, offset: u64) -> io::Result<Option<Bytes>> {
        loop {
            let Written { bytes, ended } = self.written.borrow_and_update().clone();
            if bytes > offset {
                let length = (bytes - offset).min(limits::WIRE_SNAPSHOT_PIECE_BYTES as u64);
                return self.read(offset, length).await.map(Some);
            }
            match ended {
                Some(Ok(())) => return Ok(None),
                Some(Err(reason)) => return Err(io::Error::other(reason.to_string())),
                None => {}
            }
            let gone = |_| io::Error::other("the backup was not written to its end");
            self.written.changed().await.map_err(gone)?;
        }
    }

    async fn read(&self, offset: u64, length: u64) -> io::Result<Bytes> {
        let length = usize::try_from(length).expect("a piece fits into memory");
        let file = match &*self.source {
            GrowingFile::Memory(bytes) => {
                let start = usize::try_from(offset).expect("it is all in memory");
                return Ok(bytes.slice(start..start + length));
            }
            GrowingFile::File(temporary) => temporary.reader(),
        };
        runtime::blocking(move || {
            let mut piece = BytesMut::zeroed(length);
            file.read_exact_at(offset, &mut piece)?;
            Ok(piece.freeze())
        })
        .await?
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, TryStreamExt};

    use super::*;

    /// A file that never changes stands for one that grows: only what is published is read.
    fn sides() -> (Published<Vec<u8>>, BackupPieces) {
        growing(Arc::new(GrowingFile::Memory(Bytes::from_static(b"abcdef"))), Vec::new())
    }

    #[tokio::test]
    async fn reader_follows_the_writer_and_ends_with_it() {
        let (mut writer, pieces) = sides();
        let mut stream = std::pin::pin!(pieces.stream());
        writer.write_all(b"abc").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "abc");
        assert!(futures::poll!(stream.next()).is_pending(), "there is no more yet");
        writer.write_all(b"def").unwrap();
        writer.end(Ok(()));
        assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap(), ["def"]);
    }

    #[tokio::test]
    async fn writer_that_fails_or_vanishes_breaks_the_reading_off() {
        let (mut writer, pieces) = sides();
        writer.write_all(b"abc").unwrap();
        writer.end(Err(io::Error::other("the disk is gone")));
        let mut stream = std::pin::pin!(pieces.stream());
        assert_eq!(stream.next().await.unwrap().unwrap(), "abc");
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("the disk is gone"), "{error}");

        let (writer, pieces) = sides();
        drop(writer);
        assert!(pieces.stream().try_collect::<Vec<_>>().await.is_err());
    }

    #[test]
    fn reader_that_goes_away_ends_the_writing() {
        let (mut writer, pieces) = sides();
        writer.write_all(b"abc").unwrap();
        drop(pieces);
        assert_eq!(writer.write_all(b"def").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
