//! The owner of a `ractor_cluster::NodeServer`, with all that makes it fit for a node of Aspen.
//!
//! # Tiger Style
//! - Its TCP listener, which cannot be left out, is on loopback at any port, and no session that comes
//!   through it lives: sessions are attached here or not at all.
//! - It connects to nobody by itself: it is `Isolated`.
//! - Its name is that of one process of one data directory. Sessions of an earlier process have another
//!   name and can never be taken for those of this one.
//! - A new session with a node begins when those before it have ended. It is usable within
//!   [`limits::ACTOR_SESSION_TIMEOUT_MS`], or is given up.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServer, NodeServerMessage};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use super::sessions::{PeerSession, Sessions, Stage, Witness};
use crate::kv::types::{ClusterId, NodeId};
use crate::limits;

/// What a process is called among those of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessName {
    /// The node.
    pub node_id: NodeId,
    /// Drawn when its data directory was made.
    pub incarnation: u64,
    /// Drawn when the process started.
    pub boot: u64,
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_id, incarnation, boot } = self;
        write!(f, "{node_id}.{incarnation:016x}.{boot:016x}")
    }
}

/// Which side of a session this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opened the stream.
    Opener,
    /// The other node did.
    Acceptor,
}

/// Why a node server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An actor could not be started; for that of the listener, loopback may have no free port.
    #[error("the node server of the actors could not be started: {0}")]
    Spawn(#[from] SpawnErr),
    /// It ended at once.
    #[error("the node server of the actors ended as soon as it was started")]
    Ended,
}

/// Why a stream did not become a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The node server is gone.
    #[error("the node server has ended")]
    ServerEnded,
    /// The other side refused, or the stream broke off.
    #[error("the session with node {0} ended before it could be used")]
    Ended(NodeId),
    /// It takes too long.
    #[error("the session with node {peer} could not be used within {waited_ms} ms")]
    NotInTime {
        /// The other node.
        peer: NodeId,
        /// How long was waited.
        waited_ms: u64,
    },
}

/// A running node server. Clones share it.
#[derive(Clone)]
pub struct NodeServerHandle {
    server: ActorRef<NodeServerMessage>,
    sessions: Sessions,
    /// Held while a stream of a node takes the place of those before it.
    attaching: Arc<Mutex<HashMap<NodeId, Arc<AsyncMutex<()>>>>>,
}

impl NodeServerHandle {
    /// Starts a node server for the members of a cluster, whose id is its cookie. The other value is there
    /// when it has ended.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        own: ProcessName,
        cluster_id: ClusterId,
        sessions: Sessions,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        sessions.forget_all();
        // A name and a host of its own: two processes with the same are taken for one.
        let (name, host) = (own.to_string(), format!("aspen-{own}"));
        let mode = Some(NodeConnectionMode::Isolated);
        let server = NodeServer::new(0, format!("aspen {cluster_id}"), name, host, None, mode)
            .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .with_max_inbound_frame_size(limits::ACTOR_MESSAGE_MAX_BYTES);
        let (server, ended) = Actor::spawn(None, server, ()).await?;
        let subscription = Box::new(Witness(sessions.clone()));
        let subscribe = NodeServerMessage::SubscribeToEvents { id: "aspen".to_owned(), subscription };
        server.cast(subscribe).map_err(|_| StartError::Ended)?;
        Ok((Self { server, sessions, attaching: Arc::default() }, ended))
    }

    /// Makes a session of a stream to a node, which takes the place of an earlier one. The session is ready
    /// for use, and ends when what is returned is dropped.
    ///
    /// # Errors
    /// [`AttachError`]; the stream is closed then.
    pub async fn attach(
        &self,
        peer: NodeId,
        stream: impl ClusterBidiStream,
        side: Side,
    ) -> Result<PeerSession, AttachError> {
        let mut session = {
            let turn = self.turn_of(peer);
            let _turn = turn.lock().await;
            self.end_sessions_with(peer).await;
            let session = self.sessions.announce(peer);
            let stream = Box::new(Labelled { stream: Box::new(stream), label: session.label().to_owned() });
            let is_server = side == Side::Acceptor;
            let opened = NodeServerMessage::ConnectionOpenedExternal { stream, is_server };
            self.server.cast(opened).map_err(|_| AttachError::ServerEnded)?;
            session
        };
        let waited_ms = limits::ACTOR_SESSION_TIMEOUT_MS;
        match tokio::time::timeout(Duration::from_millis(waited_ms), session.ready()).await {
            Ok(true) => Ok(session),
            Ok(false) => Err(AttachError::Ended(peer)),
            Err(_) => Err(AttachError::NotInTime { peer, waited_ms }),
        }
    }

    /// Ends the node server, and all its sessions with it, when what is returned is dropped.
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }

    #[cfg(test)]
    pub(super) fn server(&self) -> &ActorRef<NodeServerMessage> {
        &self.server
    }

    fn turn_of(&self, peer: NodeId) -> Arc<AsyncMutex<()>> {
        let mut attaching = self.attaching.lock().expect("no code panics while it holds this lock");
        attaching.entry(peer).or_default().clone()
    }

    /// Two sessions with one process would be put to a vote, in which the older may win.
    async fn end_sessions_with(&self, peer: NodeId) {
        let bound = Duration::from_millis(limits::ACTOR_SESSION_END_TIMEOUT_MS);
        let all_ended = async {
            for mut stage in self.sessions.end_all_with(peer) {
                stage.wait_for(|stage| *stage == Stage::Ended).await.ok();
            }
        };
        if tokio::time::timeout(bound, all_ended).await.is_err() {
            tracing::debug!(%peer, "an earlier session with node {peer} has not ended yet");
        }
    }
}

/// See [`NodeServerHandle::stop_on_drop`].
pub struct StopOnDrop(NodeServerHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.server.stop(None);
        self.0.sessions.forget_all();
    }
}

/// A stream under the label that its session is known by.
struct Labelled {
    stream: Box<dyn ClusterBidiStream>,
    label: String,
}

impl ClusterBidiStream for Labelled {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        self.stream.split()
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }

    fn local_label(&self) -> Option<String> {
        self.stream.local_label()
    }
}
