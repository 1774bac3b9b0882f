//! Why a node did not start, or ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::data_dir::DataDirError;
use super::identity::IdentityError;
use super::join::ComeInError;
use crate::config::secret_file::SecretFileError;
use crate::kv::token::HttpTokenError;
use crate::kv::types::{ClusterError, NodeId};
use crate::raft::construct::RaftStartError;
use crate::storage::StorageError;
use crate::storage::damage::WHAT_TO_DO;
use crate::storage::log_redb::OpenLogError;
use crate::storage::metadata::MetadataError;
use crate::transport::BindError;
use crate::transport::peers::DeclareError;
use crate::transport::ticket::ParseTicketError;

/// Why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Coming into a cluster with a ticket.
    #[error(transparent)]
    ComeIn(#[from] ComeInError),
    /// What the data directory says about itself.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A ticket in the configuration.
    #[error("a peer in the configuration: {0}")]
    Ticket(#[from] ParseTicketError),
    /// A ticket that contradicts what is known.
    #[error("a peer in the configuration: {0}")]
    Declare(#[from] DeclareError),
    /// The file of the HTTP token or of the join ticket.
    #[error(transparent)]
    TokenFile(#[from] SecretFileError),
    /// The HTTP token.
    #[error("the HTTP token: {0}")]
    Token(#[from] HttpTokenError),
    /// The HTTP address.
    #[error(
        "the HTTP address {addr} cannot be used: {source}; give --http-addr another port, or stop what uses it"
    )]
    Http {
        /// The address.
        addr: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The address of the relay.
    #[error(
        "the address {addr} cannot be used to serve a relay: {source}; give --serve-relay another address or port, or stop what uses it"
    )]
    Relay {
        /// The address.
        addr: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The iroh address.
    #[error("{0}; give --iroh-addr another port, or stop what uses it")]
    Bind(#[from] BindError),
    /// What says whose the directory is, and of which cluster, is gone.
    #[error(
        "{} is missing, although this directory holds {holds}: nothing says any more whose log and votes these are. {WHAT_TO_DO}",
        path.display()
    )]
    MetadataMissing {
        /// The file.
        path: PathBuf,
        /// What is there.
        holds: &'static str,
    },
    /// A recovery was begun and not ended.
    #[error(
        "a recovery of this node was cut short, so it is a member of nothing whole. Run `aspen-node recover --data-dir {} --yes`, which completes it",
        dir.display()
    )]
    RecoveryUnfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// The log is gone, and with it the votes that this node gave.
    #[error(
        "{path} is missing, although this directory belongs to a cluster: without its log and votes the node must not vote again. Remove node {node_id} from the cluster, empty the directory, and add the node under another id"
    )]
    LogMissing {
        /// The file.
        path: PathBuf,
        /// The node.
        node_id: NodeId,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The state.
    #[error(transparent)]
    Storage(StorageError),
    /// The state is damaged, and may be made anew from what else is there.
    #[error(
        "{source}. `aspen-node verify --data-dir {}` says what is damaged",
        dir.display()
    )]
    StateDamaged {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        source: StorageError,
    },
    /// The log continues a state that is not there.
    #[error(
        "the state in {} {}, and the log continues it only behind entry {purged}: the state file is lost or was replaced. `aspen-node repair --data-dir {}` makes it anew where a snapshot reaches as far",
        dir.display(), applied.map_or("is empty".to_owned(), |applied| format!("ends at entry {applied}")), dir.display()
    )]
    StateBehindLog {
        /// The data directory.
        dir: PathBuf,
        /// Where the state ends.
        applied: Option<u64>,
        /// The last entry that the log does not have any more.
        purged: u64,
    },
    /// Raft.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    /// The supervision tree.
    #[error("the supervision tree could not be started: {0}")]
    Spawn(#[from] ractor::SpawnErr),
    /// The first cluster could not be made.
    #[error("the node could not make a cluster of its own: {0}")]
    Bootstrap(ClusterError),
    /// The directory is another backend's.
    #[error(
        "{} holds {holds} of the control backend {backend}, whose writes this one would not have: give this node a directory of its own, or start it with that backend",
        dir.display()
    )]
    OtherBackend {
        /// The data directory.
        dir: PathBuf,
        /// What is there.
        holds: &'static str,
        /// Whose it is.
        backend: &'static str,
    },
    /// Settings or a directory of the control backend `hiqlite`.
    #[error("{0}")]
    Hiqlite(String),
    /// A secret of it.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A part failed while the node ran.
    #[error("{0}")]
    PartFailed(String),
}

impl NodeError {
    pub(super) fn state(dir: &Path, source: StorageError) -> Self {
        match source.is_damage() {
            true => Self::StateDamaged { dir: dir.to_owned(), source },
            false => Self::Storage(source),
        }
    }
}
