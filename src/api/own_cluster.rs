//! Which cluster an answer is of, and whether that is the one that the request is meant for.
//!
//! A node that lost its data directory may found a second cluster at its old address. A client that says which
//! one it means is not served by the other.
//!
//! # Tiger Style
//! The id is asked for until there is one and never again: it stays as long as the process lives.

use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use crate::kv::interface::ClusterController;
use crate::kv::json::CLUSTER_ID_HEADER;
use crate::kv::types::ClusterId;

/// Where the id stands, in a request and in its answer.
pub(super) const HEADER: HeaderName = HeaderName::from_static(CLUSTER_ID_HEADER);

/// The cluster of this node, once it belongs to one.
#[derive(Default)]
pub(super) struct OwnCluster(OnceLock<Named>);

/// An id, and the same as it stands in a header.
struct Named {
    id: ClusterId,
    header: HeaderValue,
}

impl OwnCluster {
    /// Refuses a request that is meant for another cluster. A node without one has none that it could be taken
    /// for, and lets it through.
    pub(super) fn check(
        &self,
        controller: &dyn ClusterController,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let Some(sent) = headers.get(HEADER) else { return Ok(()) };
        let own = self.named(controller);
        if own.is_some_and(|own| own.header == sent) {
            return Ok(());
        }
        let given = String::from_utf8_lossy(sent.as_bytes());
        let asked: ClusterId =
            given.parse().map_err(|_| ApiError::BadClusterId { given: given.into_owned() })?;
        match own.map(|own| own.id) {
            Some(own) if own != asked => Err(ApiError::OtherCluster { own, asked }),
            _ => Ok(()),
        }
    }

    /// What the answers of this node bear.
    pub(super) fn header(&self, controller: &dyn ClusterController) -> Option<HeaderValue> {
        self.named(controller).map(|own| own.header.clone())
    }

    fn named(&self, controller: &dyn ClusterController) -> Option<&Named> {
        if let Some(known) = self.0.get() {
            return Some(known);
        }
        let id = controller.cluster_id()?;
        Some(self.0.get_or_init(|| {
            let header = HeaderValue::from_str(&id.to_string());
            Named { id, header: header.expect("an id is of hex digits and dashes") }
        }))
    }
}
