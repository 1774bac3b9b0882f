//! Backups: begun at a linearizable point, written by the state, handed over within bounds.
//!
//! # Tiger Style
//! A node makes [`limits::BACKUPS_MAX_COUNT`] at a time, none that its disk has no room for, and ends one
//! whose receiver takes longer than [`limits::BACKUP_PIECE_TIMEOUT_MS`] for a piece.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::KvService;
use crate::kv::backup::BackupStream;
use crate::kv::types::{BackupOrigin, KvError};
use crate::limits;
use crate::raft::runtime;

impl KvService {
    pub(super) async fn begin_backup(&self, origin: BackupOrigin) -> Result<BackupStream, KvError> {
        let permit = self.0.backups.clone().try_acquire_owned();
        let permit = permit.map_err(|_| KvError::BackupsFull { in_work: limits::BACKUPS_MAX_COUNT })?;
        self.await_linearizable().await?;
        self.ensure_room_for_backup(origin).await?;
        let pieces = self.0.parts.reader.backup(origin).await.map_err(failed)?;
        let bound = Duration::from_millis(limits::BACKUP_PIECE_TIMEOUT_MS);
        Ok(hand_over(pieces.stream(), permit, bound))
    }

    /// Refuses a backup that would use up what the log needs to go on.
    async fn ensure_room_for_backup(&self, origin: BackupOrigin) -> Result<(), KvError> {
        let reader = self.0.parts.reader.clone();
        let space = self.0.parts.disk.space().clone();
        let checked = runtime::blocking(move || {
            let most = reader.file_bytes()?.unwrap_or(0);
            if space.fits_now(most).is_ok() {
                return Ok(Ok(()));
            }
            // The file may be mostly empty, after deletes. To read it all takes a while.
            let bytes = match most <= limits::SNAPSHOT_MEASURE_MAX_BYTES {
                true => reader.measure_backup(origin)?,
                false => most,
            };
            Ok::<_, io::Error>(space.fits_now(bytes))
        });
        match checked.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(no_room))) => Err(self.disk_full(no_room)),
            Ok(Err(error)) | Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: io::Error) -> KvError {
    KvError::Storage { reason: error.to_string() }
}

/// Gives pieces on to whoever takes them, each within a bound, and `permit` back at the end.
fn hand_over(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    permit: OwnedSemaphorePermit,
    bound: Duration,
) -> BackupStream {
    let (sender, receiver) = mpsc::channel(1);
    let giving = tokio::spawn(async move {
        let _permit = permit;
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            match tokio::time::timeout(bound, sender.send(piece)).await {
                Ok(Ok(())) => {}
                // Nobody takes it any more.
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    let reason =
                        format!("a piece of the backup was not taken within {} ms", bound.as_millis());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
            }
        }
        Ok(())
    });
    // An end without an error would be taken for that of the backup.
    let outcome = async move {
        match giving.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            Err(error) => Some(Err(io::Error::other(error))),
        }
    };
    let taken = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    taken.chain(stream::once(outcome).filter_map(std::future::ready)).boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::TryStreamExt;
    use tokio::sync::Semaphore;

    use super::*;

    fn endless() -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::repeat_with(|| Ok(Bytes::from_static(b"piece")))
    }

    async fn permit_of(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        permits.clone().acquire_owned().await.expect("the semaphore stays open")
    }

    #[tokio::test(start_paused = true)]
    async fn receiver_that_takes_too_long_gets_an_error_and_not_an_end() {
        let permits = Arc::new(Semaphore::new(1));
        let bound = Duration::from_secs(1);
        let mut stream = hand_over(endless(), permit_of(&permits).await, bound);
        for _ in 0..5 {
            assert_eq!(stream.try_next().await.unwrap().unwrap(), "piece");
        }
        // Virtual time: the permit comes back once the bound has passed.
        let _permit = permit_of(&permits).await;
        let error = loop {
            match stream.try_next().await {
                Ok(piece) => assert!(piece.is_some(), "it ended as if that were all"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn all_pieces_come_and_the_permit_is_given_back_also_where_the_receiver_goes_away() {
        let permits = Arc::new(Semaphore::new(1));
        let bound = Duration::from_secs(10);
        let stream = hand_over(endless().take(3), permit_of(&permits).await, bound);
        assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().len(), 3);
        drop(hand_over(endless(), permit_of(&permits).await, bound));
        drop(permit_of(&permits).await);
    }

    #[tokio::test]
    async fn failure_of_the_writer_is_passed_on() {
        let permits = Arc::new(Semaphore::new(1));
        let pieces = stream::iter([Ok(Bytes::new()), Err(io::Error::other("the disk is gone"))]);
        let stream = hand_over(pieces, permit_of(&permits).await, Duration::from_secs(10));
        let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is gone");
    }
}
