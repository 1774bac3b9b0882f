//! The leader's end of a stream of forwarded requests.
//!
//! # Tiger Style
//! - At most [`limits::FORWARD_RUNNING_MAX_COUNT`] requests of one stream are in work.
//! - A message of answers holds at most [`limits::FORWARD_BATCH_MAX_COUNT`] and, but for its last one,
//!   [`limits::FORWARD_BATCH_MAX_BYTES`] of what was read.

use std::pin::pin;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use irpc::WithChannels;

use crate::kv::forward::{ForwardHandler, ForwardReply};
use crate::kv::types::ClusterError;
use crate::limits;
use crate::transport::protocol::{Answers, ForwardStream, RaftRpcProtocol};
use crate::transport::server::StreamError;

/// Serves the requests of a stream side by side, until it ends and all are answered.
pub(in crate::transport) async fn serve(
    stream: WithChannels<ForwardStream, RaftRpcProtocol>,
    handler: &dyn ForwardHandler,
) -> Result<(), StreamError> {
    let WithChannels { tx, rx, .. } = stream;
    // As a stream, so that a message that is half read is not dropped.
    let mut messages = pin!(futures::stream::unfold(rx, |mut rx| async move {
        match rx.recv().await {
            Ok(requests) => requests.map(|requests| (requests, rx)),
            Err(error) => {
                tracing::debug!("a stream of forwarded requests broke off: {error}");
                None
            }
        }
    }));
    let mut running = FuturesUnordered::new();
    let mut has_ended = false;
    loop {
        tokio::select! {
            requests = messages.next(), if !has_ended && running.len() < limits::FORWARD_RUNNING_MAX_COUNT => {
                has_ended = requests.is_none();
                for (number, request) in requests.into_iter().flat_map(|requests| requests.0) {
                    running.push(async move { (number, handler.handle(request).await) });
                }
            }
            Some(first) = running.next(), if !running.is_empty() => {
                let mut bytes = payload_bytes(&first.1);
                let mut answers = vec![first];
                while answers.len() < limits::FORWARD_BATCH_MAX_COUNT
                    && bytes < limits::FORWARD_BATCH_MAX_BYTES
                    && let Some(Some(next)) = running.next().now_or_never()
                {
                    bytes += payload_bytes(&next.1);
                    answers.push(next);
                }
                tx.send(Answers(answers)).await.map_err(|error| StreamError::Send(error.to_string()))?;
            }
            else => return Ok(()),
        }
    }
}

/// What an answer holds of keys and values, about.
fn payload_bytes(answer: &Result<ForwardReply, ClusterError>) -> usize {
    match answer {
        Ok(ForwardReply::Proposed(reply)) => reply.payload_bytes(),
        _ => 0,
    }
}
