//! Keeps a session with every member, for as long as both are.
//!
//! Of two nodes the one with the lower id dials, so that there is one session between them. What
//! `ractor_cluster` does not do is done here: it dials again, with pauses, whenever a session has ended or
//! could not be set up.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::node_server::{AttachError, NodeServerHandle, Side};
use super::sessions::PeerSession;
use crate::kv::types::NodeId;
use crate::limits;
use crate::transport::Transport;
use crate::transport::actor::{ActorStream, OpenActorStreamError};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Open(#[from] OpenActorStreamError),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Dials members, and takes the streams that members open, for as long as it is polled. All sessions end
/// with it.
pub async fn keep(transport: Transport, server: NodeServerHandle, opened: &mut mpsc::Receiver<ActorStream>) {
    let mut changes = transport.book().changes();
    let mut accepted = JoinSet::new();
    let mut dialers: BTreeMap<NodeId, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        dial_members(&transport, &server, &mut dialers);
        tokio::select! {
            Some(_) = accepted.join_next(), if !accepted.is_empty() => {}
            Some(stream) = opened.recv() => {
                let server = server.clone();
                accepted.spawn(accept(server, stream));
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Has one task for each member that this node is to dial, and none for others.
fn dial_members(
    transport: &Transport,
    server: &NodeServerHandle,
    dialers: &mut BTreeMap<NodeId, AbortOnDropHandle<()>>,
) {
    let own = transport.node_id();
    let members = transport.book().members();
    dialers.retain(|node_id, _| members.contains(node_id));
    for peer in members.into_iter().filter(|node_id| *node_id > own) {
        dialers.entry(peer).or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(stay_connected(transport.clone(), server.clone(), peer)))
        });
    }
}

async fn stay_connected(transport: Transport, server: NodeServerHandle, peer: NodeId) {
    loop {
        let mut pauses = pauses();
        let mut session = loop {
            match connect(&transport, &server, peer).await {
                Ok(session) => break session,
                Err(error) => tracing::debug!(%peer, "no session with the actors of node {peer}: {error}"),
            }
            let pause = pauses.next().expect("there is always another pause");
            tokio::time::sleep(pause).await;
        };
        tracing::debug!(%peer, "the actors of node {peer} can be called");
        session.ended().await;
        tracing::debug!(%peer, "the actors of node {peer} cannot be called any more");
        // Also where sessions end as soon as they begin.
        tokio::time::sleep(Duration::from_millis(limits::ACTOR_RECONNECT_MIN_MS)).await;
    }
}

/// Pauses that get longer, each by chance somewhat different from those of other nodes.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(limits::ACTOR_RECONNECT_MIN_MS))
        .with_max_delay(Duration::from_millis(limits::ACTOR_RECONNECT_MAX_MS))
        .with_jitter()
        .without_max_times()
        .build()
}

async fn connect(
    transport: &Transport,
    server: &NodeServerHandle,
    peer: NodeId,
) -> Result<PeerSession, ConnectError> {
    let stream = transport.open_actor_stream(peer).await?;
    Ok(server.attach(peer, stream, Side::Opener).await?)
}

/// Makes a session of a stream that a member has opened, and keeps it until it ends.
async fn accept(server: NodeServerHandle, stream: ActorStream) {
    let peer = stream.node_id;
    match server.attach(peer, stream, Side::Acceptor).await {
        Ok(mut session) => session.ended().await,
        Err(error) => {
            tracing::debug!(%peer, "a stream of the actors of node {peer} came to nothing: {error}");
        }
    }
}
