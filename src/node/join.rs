//! Coming into a cluster with a ticket.
//!
//! First the ticket is taken to a member, which allots the node its id: only then is there a directory that
//! votes and a log could belong to. Once the node runs, it asks to be made a member, until it is. Both are
//! asked for again after a crash, and answered the same.
//!
//! # Tiger Style
//! - The id and the cluster are on disk, in one step, before anything else of the node is.
//! - A node that has come in never looks at a ticket again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Storage};
use crate::kv::types::{ClusterId, NodeId, Peer, PublicKey};
use crate::limits;
use crate::raft::{RaftHandle, observe};
use crate::storage::log_redb::{LOG_FILE, OpenLogError, RedbLog};
use crate::storage::metadata::{Metadata, MetadataError};
use crate::transport::Transport;
use crate::transport::join::{self, JoinError, JoinRequest, Welcomed};
use crate::transport::join_ticket::{JoinTicket, ParseJoinTicketError};
use crate::transport::relay::{Reach, RelayPass};

use super::identity::Identity;

/// Why a node did not come into a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ComeInError {
    /// The ticket as such.
    #[error("the join ticket cannot be used: {0}")]
    Ticket(#[from] ParseJoinTicketError),
    /// A member said no.
    #[error("this node was not let into cluster {cluster_id}: {source}")]
    Refused {
        /// The ticket's cluster.
        cluster_id: ClusterId,
        /// Why.
        source: JoinError,
    },
    /// No member let it in in time.
    #[error(
        "this node was not let into cluster {cluster_id} within {} s: {source}. Check that the cluster has a quorum and that UDP gets through, then start the node again",
        limits::JOIN_TIMEOUT_MS / 1_000
    )]
    TimedOut {
        /// The ticket's cluster.
        cluster_id: ClusterId,
        /// The last reason.
        source: JoinError,
    },
    /// The directory is another cluster's.
    #[error(
        "the data directory belongs to cluster {own}, and the join ticket is one of cluster {given}: give the node an empty data directory"
    )]
    OtherCluster {
        /// The directory's.
        own: ClusterId,
        /// The ticket's.
        given: ClusterId,
    },
    /// The directory was made without a ticket.
    #[error(
        "the data directory is that of node {node_id}, which was started without a join ticket and belongs to no cluster: give the new node an empty data directory"
    )]
    HasId {
        /// Whose it is.
        node_id: NodeId,
    },
    /// Nothing is kept that a cluster could count on.
    #[error(
        "a node with --storage memory forgets its id and its votes, so it cannot join with a ticket: use --storage redb"
    )]
    InMemory,
    /// The id could not be written down, or is another one than is configured.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The empty log could not be made.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The node was told to stop.
    #[error("the node was told to stop before it was let into the cluster")]
    Stopped,
}

/// A ticket that has been read, and what it is to be used for.
#[derive(Clone, Debug)]
pub(super) struct ComeIn {
    ticket: JoinTicket,
    wants_vote: bool,
}

impl ComeIn {
    pub(super) fn new(ticket: &str, config: &Config) -> Result<Self, ComeInError> {
        let ticket: JoinTicket = ticket.parse()?;
        match config.storage {
            Storage::Redb => Ok(Self { ticket, wants_vote: !config.learner }),
            Storage::Memory => Err(ComeInError::InMemory),
        }
    }

    /// What the cluster's relays are shown, which do not know this node yet.
    pub(super) fn relay_pass(&self, identity: &Identity) -> RelayPass {
        RelayPass::of(&self.ticket, &identity.public_key())
    }

    fn request(&self, incarnation: u64) -> JoinRequest {
        let JoinTicket { cluster_id, secret, .. } = self.ticket.clone();
        JoinRequest { cluster_id, secret, incarnation, wants_vote: self.wants_vote, info: None }
    }

    /// Makes sure that the data directory has an id in the ticket's cluster. Where it has none yet, a member
    /// is asked for one.
    pub(super) async fn settle(
        &self,
        config: &Config,
        data_dir: &std::path::Path,
        identity: &Identity,
        reach: &Reach,
    ) -> Result<(), ComeInError> {
        let given = self.ticket.cluster_id;
        let metadata = Metadata::open_unnamed(data_dir, identity.public_key())?;
        match (metadata.is_named(), metadata.cluster_id()) {
            (true, Some(own)) if own == given => return Ok(()),
            (_, Some(own)) => return Err(ComeInError::OtherCluster { own, given }),
            (true, None) => return Err(ComeInError::HasId { node_id: metadata.node_id() }),
            (false, None) => {}
        }
        tracing::info!(cluster_id = %given, "this node takes its ticket to cluster {given}");
        let Welcomed { node_id, members } = self.redeem(identity, reach, metadata.incarnation()).await?;
        if let Some(wanted) = config.node_id.filter(|wanted| *wanted != node_id) {
            return Err(MetadataError::OtherNode { stored: node_id, given: wanted }.into());
        }
        // First, an empty log: once the directory belongs to a cluster, one that is missing was lost.
        let log = data_dir.join(LOG_FILE);
        drop(RedbLog::open(&log, limits::METADATA_CACHE_BYTES, Arc::default())?);
        metadata.name(node_id, given, &members)?;
        tracing::info!(cluster_id = %given, "this is node {node_id} of cluster {given} from now on");
        Ok(())
    }

    async fn redeem(
        &self,
        identity: &Identity,
        reach: &Reach,
        incarnation: u64,
    ) -> Result<Welcomed, ComeInError> {
        let (cluster_id, request) = (self.ticket.cluster_id, self.request(incarnation));
        let until = Instant::now() + Duration::from_millis(limits::JOIN_TIMEOUT_MS);
        let mut said = String::new();
        loop {
            let key = identity.secret_key().clone();
            match join::redeem(key, reach, &self.ticket, &request).await {
                Ok(welcomed) => return Ok(welcomed),
                Err(source @ JoinError::Refused { .. }) => {
                    return Err(ComeInError::Refused { cluster_id, source });
                }
                Err(source) if Instant::now() >= until => {
                    return Err(ComeInError::TimedOut { cluster_id, source });
                }
                Err(source) => say_once(&mut said, &source),
            }
            tokio::time::sleep(Duration::from_millis(limits::JOIN_RETRY_INTERVAL_MS)).await;
        }
    }

    /// Asks to be made a member until this node is one. A refusal is said and asked again: the node has its
    /// id, and whoever runs the cluster may yet let it in.
    pub(super) async fn become_member(self, transport: Transport, raft: RaftHandle, metadata: Metadata) {
        let mut said = String::new();
        while !observe::look(&raft, observe::is_initialized) {
            let mut members: Vec<Peer> = transport.book().all();
            let known: Vec<PublicKey> = members.iter().map(|peer| peer.info.public_key).collect();
            let named = self.ticket.members.iter().filter(|peer| !known.contains(&peer.info.public_key));
            members.extend(named.cloned());
            match transport.ask_to_join(&members, self.request(metadata.incarnation())).await {
                Ok(_) => return,
                Err(source) => say_once(&mut said, &source),
            }
            tokio::time::sleep(Duration::from_millis(limits::JOIN_RETRY_INTERVAL_MS)).await;
        }
    }
}

fn say_once(said: &mut String, error: &JoinError) {
    let reason = error.to_string();
    if *said != reason {
        tracing::warn!("not let into the cluster yet: {reason}");
        *said = reason;
    }
}
