//! Streams between the actors of two members, on connections of their own.
//!
//! The node with the lower id opens them, so that there is one between two nodes; what is said on them is
//! none of the transport's business.
//!
//! # Tiger Style
//! - Who opens a stream is a member, by its key and by its hello.
//! - At most [`limits::ACTOR_STREAMS_WAITING_MAX_COUNT`] opened streams wait to be taken; further ones are
//!   dropped, which ends them, and their openers try again.

use std::time::Duration;

use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::Transport;
use super::link::Lane;
use super::ticket::public_key;
use crate::kv::types::NodeId;
use crate::limits;

/// Where opened streams are taken.
pub type ActorDoor = mpsc::Sender<ActorStream>;

/// What the opener writes first: the other side learns of a stream only from bytes on it.
const OPENING: u8 = 1;

/// A stream to a member or from one.
#[derive(Debug)]
pub struct ActorStream {
    /// The member.
    pub node_id: NodeId,
    /// What this node says.
    pub send: SendStream,
    /// What the member says.
    pub recv: RecvStream,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no stream to the actors of node {node_id}: {reason}")]
pub struct OpenActorStreamError {
    node_id: NodeId,
    reason: String,
}

impl Transport {
    /// Opens a stream to a member. It ends at the latest with its connection, which nothing else uses.
    ///
    /// # Errors
    /// [`OpenActorStreamError`] if the member cannot be reached within the connect timeout, or refuses.
    pub async fn open_actor_stream(&self, node_id: NodeId) -> Result<ActorStream, OpenActorStreamError> {
        let failed = |reason: String| OpenActorStreamError { node_id, reason };
        let connection =
            self.connection(node_id, Lane::Actor).await.map_err(|error| failed(error.to_string()))?;
        let open = async {
            let (mut send, recv) = connection.open_bi().await.map_err(|error| failed(error.to_string()))?;
            send.write_all(&[OPENING]).await.map_err(|error| failed(error.to_string()))?;
            Ok(ActorStream { node_id, send, recv })
        };
        let limit = self.0.timeouts.connect;
        tokio::time::timeout(limit, open)
            .await
            .unwrap_or_else(|_| Err(failed(format!("not opened within {} ms", limit.as_millis()))))
    }

    /// Passes the streams of a connection on, until it ends.
    pub(super) async fn serve_actors(&self, connection: &Connection, door: &ActorDoor) {
        let limit = Duration::from_millis(limits::WIRE_REQUEST_READ_TIMEOUT_MS);
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            let Some(node_id) = self.0.book.admitted(&public_key(&connection.remote_id())) else { return };
            match tokio::time::timeout(limit, recv.read_u8()).await {
                Ok(Ok(OPENING)) => {
                    if door.try_send(ActorStream { node_id, send, recv }).is_err() {
                        tracing::debug!(peer = %node_id, "nobody took a stream of actors of node {node_id}");
                    }
                }
                other => {
                    tracing::debug!(peer = %node_id, "a stream of actors did not begin as it should: {other:?}");
                }
            }
        }
    }
}
