//! The header that says in a request which cluster it is meant for, and in an answer which one it is of.

use hyper::header::{HeaderName, HeaderValue};

use super::types::ClusterId;

/// A cluster's id, and the same as it stands in the header, so that no request makes it anew.
#[derive(Clone, Debug)]
pub struct ClusterHeader {
    id: ClusterId,
    value: HeaderValue,
}

impl ClusterHeader {
    /// The header's name.
    pub const NAME: HeaderName = HeaderName::from_static("aspen-cluster-id");

    /// The header of a cluster.
    pub fn new(id: ClusterId) -> Self {
        let value = HeaderValue::try_from(id.to_string()).expect("an id is of hex digits and dashes");
        Self { id, value }
    }

    /// The id.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// What stands in the header.
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}
