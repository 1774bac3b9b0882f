//! Probes and figures. They answer from what the node knows, at once, whatever state it is in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;

use super::Shared;
use crate::kv::json::HealthForm;
use crate::kv::types::NodeState;

/// The text format of Prometheus.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The node and the cluster in brief; 503 where it cannot serve.
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let health = HealthForm::from(&shared.api.cluster.status());
    (serving(health.healthy), Json(health))
}

/// The process lives: nothing else is asked.
pub(super) async fn livez() -> impl IntoResponse {
    Json(json!({ "alive": true }))
}

/// The node takes reads and writes. It needs no token, so it says no more than the state's name.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let state = shared.api.cluster.status().state;
    let ready = state == NodeState::Serving;
    (serving(ready), Json(json!({ "ready": ready, "state": state })))
}

fn serving(serves: bool) -> StatusCode {
    if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The node's figures.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], (shared.api.render_metrics)())
}

/// The figures of the transport and of its iroh endpoint.
pub(super) async fn iroh_metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], (shared.api.render_iroh_metrics)())
}
