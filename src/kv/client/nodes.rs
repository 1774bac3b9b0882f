//! Single nodes over HTTP, each through whichever node answers.
//!
//! All operations can be repeated: what is done already is done again, or found done.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::request::{Call, Deadline, Repeat};
use super::{ClientError, KvClient, to_json};
use crate::kv::json::{LogFilterForm, TransferLeaderForm};
use crate::kv::types::{Election, FilesCompacted, LogFilterSet, NodeId, NodeReport, SnapshotMade};
use crate::limits;

impl KvClient {
    /// How a node is.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all calls.
    pub async fn node_report(&self, node_id: NodeId) -> Result<NodeReport, ClientError> {
        self.look(format!("/nodes/{node_id}"), None).await
    }

    /// Has a node make a snapshot of its state, and waits for it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot_node(&self, node_id: NodeId) -> Result<SnapshotMade, ClientError> {
        self.operate(node_id, "snapshot", Bytes::new()).await
    }

    /// Has a node copy its state into a smaller file, and waits for it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compact_files_of(&self, node_id: NodeId) -> Result<FilesCompacted, ClientError> {
        self.operate(node_id, "compact-files", Bytes::new()).await
    }

    /// Has a node stand for election. A leader that a majority hears stays.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn elect_node(&self, node_id: NodeId) -> Result<Election, ClientError> {
        self.operate(node_id, "elect", Bytes::new()).await
    }

    /// Has a node, which leads, hand the leadership over.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn transfer_leader_from(
        &self,
        node_id: NodeId,
        to: Option<NodeId>,
    ) -> Result<Election, ClientError> {
        self.operate(node_id, "transfer-leader", to_json(&TransferLeaderForm { to })).await
    }

    /// Has a node log by another filter, or by the configured one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_log_filter_of(
        &self,
        node_id: NodeId,
        filter: Option<String>,
    ) -> Result<LogFilterSet, ClientError> {
        self.operate(node_id, "log-filter", to_json(&LogFilterForm { filter })).await
    }

    /// All that somebody needs who is to find out what is wrong with a node, as a JSON object.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn support_bundle_of(&self, node_id: NodeId) -> Result<serde_json::Value, ClientError> {
        self.look(format!("/nodes/{node_id}/support-bundle"), None).await
    }

    async fn operate<R: DeserializeOwned>(
        &self,
        node_id: NodeId,
        operation: &str,
        body: Bytes,
    ) -> Result<R, ClientError> {
        let deadline = Deadline::after(self.inner.slow_timeout);
        let path = format!("/nodes/{node_id}/{operation}");
        let call = Call::new(Method::POST, path, body, Repeat::Freely, deadline);
        let attempt_timeout = Duration::from_millis(limits::CLIENT_SLOW_ATTEMPT_TIMEOUT_MS);
        self.inner.http.call(&Call { attempt_timeout, ..call }).await
    }
}
