//! Takes a request's JSON in, within bounds.
//!
//! # Tiger Style
//! One body has at most [`limits::HTTP_BODY_MAX_BYTES`]; all of them together stay within a budget,
//! which each takes from before its first byte is read and gives back when its request ends.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::error::ApiError;
use crate::limits;

/// A parsed body. It must live as long as what was made of it.
pub(super) struct JsonBody<T> {
    pub(super) value: T,
    pub(super) held: BodyBudget,
}

/// A share in the memory for bodies.
pub(super) struct BodyBudget {
    _permit: OwnedSemaphorePermit,
}

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let (head, body) = request.into_parts();
        // Absent for a chunked body, which then is taken to be as long as it may be.
        let announced = body.size_hint().upper();
        let bytes_max = limits::HTTP_BODY_MAX_BYTES;
        let bytes = announced.map_or(bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if bytes > bytes_max {
            take_refused(Request::from_parts(head, body)).await;
            return Err(ApiError::body_too_large());
        }
        let permits = u32::try_from(bytes).expect("a body's bound fits 32 bits");
        let permit = shared
            .bodies
            .clone()
            .try_acquire_many_owned(permits)
            .map_err(|_| ApiError::BodiesFull { max_bytes: shared.bounds.bodies_max_bytes })?;
        let bytes = read(body, bytes).await?;
        let value = serde_json::from_slice(&bytes)?;
        Ok(Self { value, held: BodyBudget { _permit: permit } })
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let Some(given) = given else {
        return Err(ApiError::WrongContentType { given: "absent".to_owned() });
    };
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::WrongContentType { given: format!("'{given}'") })
}

async fn read(mut body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut taken = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BrokenBody { reason: error.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        if taken.len() + data.len() > bytes_max {
            drain(body).await;
            return Err(ApiError::body_too_large());
        }
        taken.extend_from_slice(&data);
    }
    Ok(taken.freeze())
}

/// Takes the body of a refused request in, that its sender sees the refusal.
pub(super) async fn take_refused(request: Request) {
    // A client that waits for a go-ahead has sent nothing yet, and needs none.
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body()).await;
    }
}

/// Takes the rest of a refused body in, within a bound: a connection that is closed with unread bytes
/// is reset, and the sender would never see the refusal.
async fn drain(mut body: Body) {
    let mut left = limits::HTTP_DRAIN_MAX_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if bytes > left {
            return;
        }
        left -= bytes;
    }
}
