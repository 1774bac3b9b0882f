//! The support bundle: one JSON object with all that somebody needs who is to find out what is wrong.
//!
//! It must never hold a secret key, a token, or a key or value of the store. So it has figures, sentences
//! and addresses, and nothing that was read from the store or from a file of secrets.

use serde_json::{Value, json};

use super::agent::AgentParts;
use super::report;
use crate::kv::clock::now_ms;
use crate::kv::types::AgentError;
use crate::limits;

pub(super) async fn of(parts: &std::sync::Arc<AgentParts>) -> Result<Value, AgentError> {
    let node_id = parts.node_id();
    let failed = |reason: String| AgentError::Failed { node_id, what: "a support bundle".to_owned(), reason };
    let host = parts.host.clone();
    // It looks at the data directory.
    let traces = tokio::task::spawn_blocking(move || host.traces());
    let traces = traces.await.map_err(|panic| failed(panic.to_string()))?;
    let files = traces.files.into_iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let bundle = json!({
        "collected_at_ms": now_ms(),
        "version": env!("CARGO_PKG_VERSION"),
        "node_id": node_id,
        "report": report::of(parts),
        "cluster": parts.cluster.status(),
        "settings": traces.settings,
        "files": files.collect::<Vec<_>>(),
        "recent_problems": traces.recent_problems,
        "metrics": traces.metrics,
        "iroh_metrics": traces.iroh_metrics,
    });
    let bytes = bundle.to_string().len() as u64;
    // Half of a message, for it is text within text on its way.
    let max_bytes = limits::ACTOR_MESSAGE_MAX_BYTES / 2;
    if bytes > max_bytes {
        return Err(failed(format!("it has {bytes} bytes, more than the {max_bytes} that can be sent")));
    }
    Ok(bundle)
}
