//! The name in a path, refused in the form of every other failure where it is no text.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::Shared;
use super::error::ApiError;

/// What a path names: a node, or a ticket.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Arc<Shared>> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let named = Path::<String>::from_request_parts(parts, shared).await;
        named.map(|Path(name)| Self(name)).map_err(|rejection| ApiError::BadPath {
            path: parts.uri.path().to_owned(),
            reason: rejection.body_text(),
        })
    }
}
