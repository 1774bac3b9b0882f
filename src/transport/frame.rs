//! Messages as they stand on a stream: a length, and as many bytes.
//!
//! # Tiger Style
//! - Memory for a message is taken as its bytes arrive, never as its length promises.
//! - What has begun to arrive is there within [`limits::WIRE_REQUEST_READ_TIMEOUT_MS`], or the stream is
//!   given up.

use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};
use irpc::rpc::RemoteService;
use irpc::util::AsyncReadVarintExt;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits;

/// Why one stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("no whole message within {0} ms")]
    TooSlow(u64),
    #[error("a message of {0} bytes, more than a message may have")]
    TooLarge(u64),
    #[error("it ended inside a message")]
    Truncated,
    #[error("reading failed: {0}")]
    Read(#[from] std::io::Error),
    #[error("a message that cannot be decoded: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("answers were not taken within {0} ms")]
    NotTaken(u64),
    #[error("sending the answer failed: {0}")]
    Send(String),
}

/// Reads the first message of a stream, and makes channels of the rest.
pub(super) async fn read_request<S: RemoteService>(
    send: SendStream,
    mut recv: RecvStream,
) -> Result<S::Message, StreamError> {
    let request: S = read_first(&mut recv).await?;
    Ok(request.with_remote_channels(recv, send))
}

/// The same, of at most so many bytes.
pub(super) async fn read_request_within<S: RemoteService>(
    send: SendStream,
    mut recv: RecvStream,
    max_bytes: u64,
) -> Result<S::Message, StreamError> {
    let request: S = read_first_within(&mut recv, max_bytes).await?;
    Ok(request.with_remote_channels(recv, send))
}

/// Reads the first message of a stream, which is due as soon as the stream is open.
pub(super) async fn read_first<T: DeserializeOwned>(
    recv: &mut (impl AsyncRead + Unpin),
) -> Result<T, StreamError> {
    read_first_within(recv, limits::WIRE_MESSAGE_MAX_BYTES).await
}

/// The same, of at most so many bytes.
pub(super) async fn read_first_within<T: DeserializeOwned>(
    recv: &mut (impl AsyncRead + Unpin),
    max_bytes: u64,
) -> Result<T, StreamError> {
    let read = async {
        let len = recv.read_varint_u64().await?.ok_or(StreamError::Truncated)?;
        check(len, max_bytes)?;
        decode(recv, len).await
    };
    in_time(read).await
}

/// Waits for a further message, however long, and reads its length. None if the stream ends before it.
pub(super) async fn next_len(
    recv: &mut (impl AsyncRead + Unpin),
    max_bytes: u64,
) -> Result<Option<u64>, StreamError> {
    let mut first = [0];
    if AsyncReadExt::read(&mut *recv, &mut first).await? == 0 {
        return Ok(None);
    }
    let rest = async {
        let len = first.chain(recv).read_varint_u64().await?.ok_or(StreamError::Truncated)?;
        check(len, max_bytes)?;
        Ok(Some(len))
    };
    in_time(rest).await
}

/// Reads what stands behind a length.
pub(super) async fn read_rest<T: DeserializeOwned>(
    recv: &mut (impl AsyncRead + Unpin),
    len: u64,
) -> Result<T, StreamError> {
    in_time(decode(recv, len)).await
}

async fn in_time<T>(read: impl Future<Output = Result<T, StreamError>>) -> Result<T, StreamError> {
    let limit_ms = limits::WIRE_REQUEST_READ_TIMEOUT_MS;
    let read = tokio::time::timeout(Duration::from_millis(limit_ms), read).await;
    read.unwrap_or(Err(StreamError::TooSlow(limit_ms)))
}

fn check(len: u64, max_bytes: u64) -> Result<(), StreamError> {
    if len > max_bytes { Err(StreamError::TooLarge(len)) } else { Ok(()) }
}

async fn decode<T: DeserializeOwned>(
    recv: &mut (impl AsyncRead + Unpin),
    len: u64,
) -> Result<T, StreamError> {
    let mut bytes = Vec::new();
    recv.take(len).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 != len {
        return Err(StreamError::Truncated);
    }
    Ok(postcard::from_bytes(&bytes)?)
}
