//! The answering end of a stream.
//!
//! # Tiger Style
//! - At most a given number of requests of one stream are in work, and those of the message that
//!   reached it.
//! - A message of answers holds at most [`limits::FORWARD_BATCH_MAX_COUNT`] and, but for its last one,
//!   [`limits::FORWARD_BATCH_MAX_BYTES`] of what was read. It is taken within
//!   [`limits::WIRE_ANSWER_TIMEOUT_MS`], or the stream is given up.

use std::pin::pin;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use irpc::RpcMessage;
use irpc::channel::mpsc;

use super::{Numbered, Payload};
use crate::limits;
use crate::transport::frame::StreamError;

const TIMEOUT: Duration = Duration::from_millis(limits::WIRE_ANSWER_TIMEOUT_MS);

/// Answers the requests of a stream side by side, until it ends and all are answered.
pub(in crate::transport) async fn serve<Q, A: RpcMessage + Payload, F: Future<Output = A>>(
    messages: impl Stream<Item = Numbered<Q>>,
    answers: mpsc::Sender<Numbered<A>>,
    running_max_count: usize,
    answer: impl Fn(Q) -> F,
) -> Result<(), StreamError> {
    let mut messages = pin!(messages);
    let mut running = FuturesUnordered::new();
    let mut has_ended = false;
    loop {
        tokio::select! {
            message = messages.next(), if !has_ended && running.len() < running_max_count => {
                has_ended = message.is_none();
                for (number, request) in message.into_iter().flat_map(|message| message.0) {
                    running.push(answer(request).map(move |answer| (number, answer)));
                }
            }
            Some(first) = running.next(), if !running.is_empty() => {
                let mut bytes = first.1.payload_bytes();
                let mut batch = vec![first];
                while batch.len() < limits::FORWARD_BATCH_MAX_COUNT
                    && bytes < limits::FORWARD_BATCH_MAX_BYTES
                    && let Some(Some(next)) = running.next().now_or_never()
                {
                    bytes += next.1.payload_bytes();
                    batch.push(next);
                }
                // The requests in work rest meanwhile, and hold what they hold.
                let sent = tokio::time::timeout(TIMEOUT, answers.send(Numbered(batch))).await;
                let sent = sent.map_err(|_| StreamError::NotTaken(limits::WIRE_ANSWER_TIMEOUT_MS))?;
                sent.map_err(|error| StreamError::Send(error.to_string()))?;
            }
            else => return Ok(()),
        }
    }
}
