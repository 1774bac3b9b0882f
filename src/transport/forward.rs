//! Requests of this node's clients, carried to the leader.

use std::time::Duration;

use async_trait::async_trait;
use irpc_iroh::IrohRemoteConnection;

use super::Transport;
use super::link::Lane;
use super::protocol::{Forwarded, RaftRpcProtocol};
use crate::kv::forward::{ForwardError, ForwardReply, ForwardRequest, Forwarder};
use crate::kv::types::{ClusterError, NodeId, Peer};

#[async_trait]
impl Forwarder for Transport {
    async fn introduce(&self, peer: &Peer, timeout_ms: u64) -> Result<(), ForwardError> {
        let node_id = peer.node_id;
        let unreachable = |reason: String| ForwardError::Unreachable { node_id, reason };
        let was_known = self.book().lookup(node_id).is_some();
        self.book().declare(peer.clone()).map_err(|error| unreachable(error.to_string()))?;
        let limit = Duration::from_millis(timeout_ms);
        let met = match tokio::time::timeout(limit, self.connection(node_id, Lane::Control)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no connection within {timeout_ms} ms"))),
        };
        if met.is_err() && !was_known {
            self.book().forget(node_id);
        }
        met
    }

    async fn forward(
        &self,
        leader: NodeId,
        request: ForwardRequest,
        timeout_ms: u64,
    ) -> Result<Result<ForwardReply, ClusterError>, ForwardError> {
        let limit = tokio::time::Instant::now() + Duration::from_millis(timeout_ms);
        let connected = tokio::time::timeout_at(limit, self.connection(leader, Lane::Forward)).await;
        let reason = match connected {
            Ok(Ok(connection)) => {
                let client = irpc::Client::<RaftRpcProtocol>::boxed(IrohRemoteConnection::new(connection));
                return match tokio::time::timeout_at(limit, client.rpc(Forwarded(request))).await {
                    Ok(Ok(answer)) => Ok(answer),
                    // Without a stream nothing was sent.
                    Ok(Err(error @ irpc::Error::Request { .. })) => {
                        Err(ForwardError::Unreachable { node_id: leader, reason: format!("{error:#}") })
                    }
                    Ok(Err(error)) => {
                        Err(ForwardError::NoAnswer { node_id: leader, reason: format!("{error:#}") })
                    }
                    Err(_) => Err(ForwardError::NoAnswer {
                        node_id: leader,
                        reason: format!("nothing within {timeout_ms} ms"),
                    }),
                };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {timeout_ms} ms"),
        };
        Err(ForwardError::Unreachable { node_id: leader, reason })
    }
}
