//! Backups over HTTP: one is taken from whichever member makes it, and restored a step at a time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use super::request::{Call, Deadline, Repeat, with_causes};
use super::{Address, ClientError, Decoded, KvClient, to_json};
use crate::kv::json::RestoreForm;
use crate::kv::types::{RestoreStep, WriteReply};
use crate::limits;

/// A backup that comes in, as the node has it; whether it is whole is for a decoder to say.
#[derive(Debug)]
pub struct BackupBody {
    address: Address,
    body: Incoming,
}

impl KvClient {
    /// Begins to take a backup.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup(&self) -> Result<BackupBody, ClientError> {
        let deadline = Deadline::after(self.inner.timeout);
        let call = Call::new(Method::GET, "/backup", Bytes::new(), Repeat::Freely, deadline);
        let (address, body) = self.inner.http.open(&call).await?;
        Ok(BackupBody { address, body })
    }

    /// Does one step of a restore.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restore_step(&self, step: &RestoreStep) -> Result<WriteReply, ClientError> {
        let deadline = Deadline::after(self.inner.timeout);
        let body = to_json(&RestoreForm::from(step));
        // Each step is known again. Whether the keys were replaced must not be guessed.
        let call = Call::new(Method::POST, "/restore", body, Repeat::WithSession, deadline);
        let Decoded(reply): Decoded<WriteReply> = self.inner.http.call(&call).await?;
        self.saw(reply.revision);
        Ok(reply)
    }
}

impl BackupBody {
    /// The node that sends it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next bytes; none at the end. It waits no longer than
    /// [`limits::CLIENT_BACKUP_PIECE_TIMEOUT_MS`] for them.
    ///
    /// # Errors
    /// [`ClientError::BrokenOff`].
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let broken_off = |reason| ClientError::BrokenOff { address: self.address.clone(), reason };
        let bound_ms = limits::CLIENT_BACKUP_PIECE_TIMEOUT_MS;
        loop {
            let frame = tokio::time::timeout(Duration::from_millis(bound_ms), self.body.frame()).await;
            match frame.map_err(|_| broken_off(format!("nothing more came within {bound_ms} ms")))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken_off(with_causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}
