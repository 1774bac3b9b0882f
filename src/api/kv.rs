//! Reads and writes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tokio::time::Instant;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use crate::kv::json::{ReadForm, ReadReplyForm, WriteForm, WriteReplyForm};
use crate::kv::types::{Command, KvError, WriteOp, WriteReply};
use crate::limits;

/// Runs one write.
pub(super) async fn write(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<WriteForm>,
) -> Result<Json<WriteReplyForm>, ApiError> {
    let JsonBody { value: form, held } = body;
    let encoding = form.encoding;
    let command = form.into_command()?;
    let reply = match &command.op {
        WriteOp::Txn(_) | WriteOp::Restore(_) | WriteOp::Member(_) => shared.api.kv.write(command).await?,
        WriteOp::Compact { .. } => compact(&shared, command).await?,
    };
    drop(held);
    Ok(Json(WriteReplyForm::new(&reply, encoding)?))
}

/// Repeats a compaction, which does a bounded step at a time, until it is complete or its time is up.
/// `succeeded` says which.
async fn compact(shared: &Shared, step: Command) -> Result<WriteReply, KvError> {
    let deadline = Instant::now() + Duration::from_millis(limits::HTTP_COMPACT_TIMEOUT_MS);
    loop {
        let reply = shared.api.kv.write(step.clone()).await?;
        if reply.succeeded || Instant::now() >= deadline {
            return Ok(reply);
        }
    }
}

/// Runs one read.
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<ReadForm>,
) -> Result<Json<ReadReplyForm>, ApiError> {
    let encoding = body.value.encoding;
    let reply = shared.api.kv.read(body.value.into_request()?).await?;
    Ok(Json(ReadReplyForm::new(&reply, encoding)?))
}
