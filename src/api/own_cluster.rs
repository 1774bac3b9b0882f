//! Which cluster an answer is of, and whether that is the one that the request is meant for.
//!
//! A node that lost its data directory may found a second cluster at its old address. A client that says which
//! one it means is not served by the other.
//!
//! # Tiger Style
//! The id is asked for until there is one and never again: it stays as long as the process lives.

use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderValue};

use super::error::ApiError;
use crate::kv::cluster_header::ClusterHeader;
use crate::kv::interface::ClusterController;
use crate::kv::types::ClusterId;

/// The cluster of this node, once it belongs to one.
#[derive(Default)]
pub(super) struct OwnCluster(OnceLock<ClusterHeader>);

impl OwnCluster {
    /// Refuses a request that is meant for another cluster. A node without one has none that it could be taken
    /// for, and lets it through.
    pub(super) fn check(
        &self,
        controller: &dyn ClusterController,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let Some(sent) = headers.get(ClusterHeader::NAME) else { return Ok(()) };
        let own = self.named(controller);
        if own.is_some_and(|own| own.value() == sent) {
            return Ok(());
        }
        let given = String::from_utf8_lossy(sent.as_bytes());
        let asked: ClusterId =
            given.parse().map_err(|_| ApiError::BadClusterId { given: given.into_owned() })?;
        match own.map(ClusterHeader::id) {
            Some(own) if own != asked => Err(ApiError::OtherCluster { own, asked }),
            _ => Ok(()),
        }
    }

    /// What the answers of this node bear.
    pub(super) fn header(&self, controller: &dyn ClusterController) -> Option<HeaderValue> {
        self.named(controller).map(|own| own.value().clone())
    }

    fn named(&self, controller: &dyn ClusterController) -> Option<&ClusterHeader> {
        if let Some(known) = self.0.get() {
            return Some(known);
        }
        let id = controller.cluster_id()?;
        Some(self.0.get_or_init(|| ClusterHeader::new(id)))
    }
}
