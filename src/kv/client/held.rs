//! The one cluster that a client is served by.
//!
//! A node that lost its data directory may have founded a second, empty cluster at its old address. The client
//! asks for its own with every request, and takes no answer of another.

use std::sync::OnceLock;

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use crate::kv::cluster_header::ClusterHeader;
use crate::kv::types::ClusterId;

/// The cluster that the client was told, or else that of the first answer which named one, for good.
#[derive(Debug, Default)]
pub(super) struct HeldCluster(OnceLock<ClusterHeader>);

/// Whose an answer is that came from another cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stray {
    pub(super) asked: ClusterId,
    pub(super) found: ClusterId,
}

impl HeldCluster {
    /// Holds to a cluster from the start, if there is one.
    pub(super) fn new(cluster_id: Option<ClusterId>) -> Self {
        Self(cluster_id.map(|id| OnceLock::from(ClusterHeader::new(id))).unwrap_or_default())
    }

    /// What a request bears.
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.0.get().map(ClusterHeader::value)
    }

    /// Looks at whose an answer is. Nodes without a cluster, older ones, and those of a backend that gives its
    /// clusters no id say nothing.
    pub(super) fn look_at(&self, headers: &HeaderMap) -> Option<Stray> {
        let said = headers.get(ClusterHeader::NAME)?;
        if self.0.get().is_some_and(|held| held.value() == said) {
            return None;
        }
        let found = said.to_str().ok()?.parse().ok()?;
        let asked = self.0.get_or_init(|| ClusterHeader::new(found)).id();
        (asked != found).then_some(Stray { asked, found })
    }
}
