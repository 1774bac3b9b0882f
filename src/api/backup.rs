//! Backups out, and back in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Shared;
use super::body::JsonBody;
use super::error::ApiError;
use crate::kv::json::{Encoding, RestoreForm, WriteReplyForm};
use crate::kv::types::{BackupOrigin, Command, WriteOp};

/// Sends a backup as it is made. Its head is answered once it has begun; how long the rest takes is for
/// those who take it, within a bound for each piece.
pub(super) async fn backup(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, ApiError> {
    let status = shared.api.cluster.status();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let origin = BackupOrigin {
        cluster_id: status.cluster_id,
        node_id: status.node_id,
        created_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
    };
    let pieces = shared.api.kv.backup(origin).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)))
}

/// Does one step of a restore.
pub(super) async fn restore(
    State(shared): State<Arc<Shared>>,
    body: JsonBody<RestoreForm>,
) -> Result<Json<WriteReplyForm>, ApiError> {
    let JsonBody { value: form, held } = body;
    let step = form.into_step()?;
    let reply = shared.api.kv.write(Command::new(WriteOp::Restore(step))).await?;
    drop(held);
    Ok(Json(WriteReplyForm::new(&reply, Encoding::Utf8)?))
}
