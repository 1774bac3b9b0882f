//! The HTTP interface: JSON in and out, for clients, operators and probes.
//!
//! Handlers are thin: they parse, call one of the two interfaces of [`crate::kv::interface`] (or
//! [`PeerExchange`]), and map the result. This layer never touches Raft, storage or the transport.
//! Every answer is JSON, errors too, but for the two pages of figures and for backups; `error` alone decides which
//! failure has which status. What the JSON means is defined in [`crate::kv::json`].
//!
//! # Tiger Style
//! * At most [`limits::HTTP_REQUESTS_MAX_COUNT`] requests are in work; one more is refused at once.
//!   Probes and figures are exempt: they must answer when nothing else does.
//! * Request bodies together take at most [`limits::HTTP_BODIES_MAX_BYTES`].
//! * Every request is answered within [`limits::HTTP_REQUEST_TIMEOUT_MS`]; the rest of a backup comes with
//!   a bound for each of its pieces.
//! * Connections are bounded in number and in each of their waits; see [`serve`].

mod backup;
mod body;
mod cluster;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
mod fakes;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod health;
mod kv;
mod named;
mod nodes;
mod own_cluster;
mod peers;
mod request_id;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use tokio::sync::Semaphore;

use figures::RequestFigures;
use own_cluster::OwnCluster;
pub use peers::{PeerError, PeerExchange};
pub use server::serve;

use crate::kv::interface::{ClusterController, KeyValueStore, NodeAgents};
use crate::kv::token::HttpToken;
use crate::limits;

/// Renders a page of figures in the text format of Prometheus.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the HTTP API is made of.
#[derive(Clone)]
pub struct ApiState {
    /// Reads and writes.
    pub kv: Arc<dyn KeyValueStore>,
    /// The cluster and its members.
    pub cluster: Arc<dyn ClusterController>,
    /// Single nodes.
    pub agents: Arc<dyn NodeAgents>,
    /// Tickets and known peers.
    pub peers: Arc<dyn PeerExchange>,
    /// The figures of the node.
    pub render_metrics: RenderMetrics,
    /// The figures of the iroh endpoint.
    pub render_iroh_metrics: RenderMetrics,
    /// The token that requests must bear; none are asked for one if absent.
    pub token: Option<HttpToken>,
}

/// The bounds of one router.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    requests_max_count: usize,
    bodies_max_bytes: usize,
    request_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            requests_max_count: limits::HTTP_REQUESTS_MAX_COUNT,
            bodies_max_bytes: limits::HTTP_BODIES_MAX_BYTES,
            request_timeout: Duration::from_millis(limits::HTTP_REQUEST_TIMEOUT_MS),
        }
    }
}

/// What all requests share.
struct Shared {
    api: ApiState,
    bounds: Bounds,
    requests: Semaphore,
    bodies: Arc<Semaphore>,
    figures: RequestFigures,
    own_cluster: OwnCluster,
}

/// The routes of the API, with everything around them.
pub fn router(state: ApiState) -> Router {
    router_within(state, Bounds::default())
}

fn router_within(state: ApiState, bounds: Bounds) -> Router {
    figures::describe();
    let shared = Arc::new(Shared {
        api: state,
        bounds,
        requests: Semaphore::new(bounds.requests_max_count),
        bodies: Arc::new(Semaphore::new(bounds.bodies_max_bytes)),
        figures: RequestFigures::default(),
        own_cluster: OwnCluster::default(),
    });
    let probes = Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/iroh-metrics", get(health::iroh_metrics));
    let counted = Router::new()
        .route("/write", post(kv::write))
        .route("/read", post(kv::read))
        .route("/backup", get(backup::backup))
        .route("/restore", post(backup::restore))
        .route("/init", post(cluster::init))
        .route("/add-learner", post(cluster::add_learner))
        .route("/change-membership", post(cluster::change_membership))
        .route("/tickets", get(cluster::tickets).post(cluster::new_ticket))
        .route("/tickets/{id}", delete(cluster::revoke_ticket))
        .route("/replace-member", post(cluster::replace_member))
        .route("/transfer-leader", post(cluster::transfer_leader))
        .route("/cluster", get(cluster::cluster))
        .route("/nodes/{id}", get(nodes::report))
        .route("/nodes/{id}/snapshot", post(nodes::snapshot))
        .route("/nodes/{id}/compact-files", post(nodes::compact_files))
        .route("/nodes/{id}/elect", post(nodes::elect))
        .route("/nodes/{id}/transfer-leader", post(nodes::transfer_leader))
        .route("/nodes/{id}/log-filter", post(nodes::set_log_filter))
        .route("/nodes/{id}/support-bundle", get(nodes::support_bundle))
        .route("/peers", get(peers::list).post(peers::add));
    probes
        .merge(counted)
        .fallback(guard::unknown_path)
        .method_not_allowed_fallback(guard::wrong_method)
        // One layer: each costs a copy of all that is inside it, for every request.
        .layer(from_fn_with_state(shared.clone(), guard::enter))
        .with_state(shared)
}
