//! What a data directory knows about itself: whose it is, which cluster it belongs to, whom it knew.
//!
//! Node id and key belong to a directory for good, and the cluster id is adopted once. It must never
//! let a directory be opened as another node: its votes and its log would count for the wrong one.
//!
//! # Tiger Style
//! - Each change is on disk before its call returns. Calls block for one small transaction.
//! - At most [`limits::PEERS_MAX_COUNT`] peers are kept.
//! - The format's version stands here for the whole directory; a newer one is refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::damage::{Damage, Place, WHAT_TO_DO};
use super::database::{self, OpenDatabaseError, guarded};
use super::disk::{Disk, RealDisk};
use crate::kv::types::{ClusterId, Founding, NodeId, NodeInfo, Peer, PublicKey};
use crate::limits;

/// The file in a data directory. Must stay stable.
pub const METADATA_FILE: &str = "metadata.redb";

/// Version of everything in a data directory.
const FORMAT: u32 = 1;

/// One of the keys below to a sealed value, for good. Must stay stable.
const METADATA: TableDefinition<&str, &[u8]> = TableDefinition::new("metadata");
/// The id of a directory whose node has not joined its cluster yet. No node has it.
const UNNAMED: NodeId = NodeId(0);

/// A `u32`, see [`FORMAT`]. Must stay stable.
const FORMAT_KEY: &str = "format";
/// A `NodeId`. Must stay stable.
const NODE_ID: &str = "node_id";
/// A `PublicKey`. Must stay stable.
const PUBLIC_KEY: &str = "public_key";
/// A `u64`. Must stay stable.
const INCARNATION: &str = "incarnation";
/// A `ClusterId`, once adopted. Must stay stable.
const CLUSTER_ID: &str = "cluster_id";
/// A list of `(NodeId, NodeInfo)`. Must stay stable.
const PEERS: &str = "peers";
/// A list of `PublicKey`, once a membership was known; who was a member longest ago comes first. Must stay stable.
const ONCE_MEMBERS: &str = "once_members";
/// A `Founding`, once agreed to. Must stay stable.
const FOUNDING: &str = "founding";
/// `true`, where a cluster has allotted the node id. Must stay stable.
const CAME_IN: &str = "came_in";

/// A [`Recovery`], while one is under way. Must stay stable.
const RECOVERY: &str = "recovery";

/// A cluster that is being made of this node, out of one that lost its quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The lost cluster.
    pub from: Option<ClusterId>,
    /// The new one.
    pub to: ClusterId,
}

/// Why metadata was refused.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The file as such.
    #[error(transparent)]
    Database(#[from] OpenDatabaseError),
    /// A value that cannot be trusted.
    #[error(
        "{}: {source}{}", path.display(),
        if source.problem.is_damage() { format!(". {WHAT_TO_DO}") } else { String::new() }
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CodecError,
    },
    /// A value that every data directory has is not there.
    #[error("{} has no {key}: it is damaged, or no file of Aspen's. {WHAT_TO_DO}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The value's key.
        key: &'static str,
    },
    /// Written by a newer Aspen.
    #[error(
        "the data directory of {} has format {found}, and this program knows formats up to {FORMAT}. Start it \
         with the Aspen that wrote it, or a newer one", path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The directory's format.
        found: u32,
    },
    /// The directory is another node's.
    #[error(
        "the data directory belongs to node {stored}, and the configuration says node {given}. A node's id never \
         changes: set it to {stored}, or give node {given} an empty data directory"
    )]
    OtherNode {
        /// Whose it is.
        stored: NodeId,
        /// Who asked.
        given: NodeId,
    },
    /// The directory's node has no id yet.
    #[error(
        "the data directory is that of a node that was to join a cluster and has not: start it with its join ticket (--join), or on an empty data directory"
    )]
    Unnamed,
    /// The directory is another key's.
    #[error(
        "the data directory belongs to the key {stored}, and the node was started with the key {given}. A node's \
         key never changes: put the old secret key back, or give the new key an empty data directory and another \
         node id"
    )]
    OtherKey {
        /// Whose it is.
        stored: PublicKey,
        /// Who asked.
        given: PublicKey,
    },
    /// The directory is part of another cluster.
    #[error(
        "this node belongs to cluster {stored} and cannot join cluster {given}. To move it, give it an empty data \
         directory and another node id"
    )]
    OtherCluster {
        /// Where it belongs.
        stored: ClusterId,
        /// Where it was asked to.
        given: ClusterId,
    },
    /// More peers than are kept.
    #[error("{count} peers cannot be remembered: the limit is {}", limits::PEERS_MAX_COUNT)]
    TooManyPeers {
        /// How many there were.
        count: usize,
    },
}

impl MetadataError {
    /// The damage of the metadata in `file` that this error tells of.
    pub(super) fn damage_in(self, file: &Path) -> Damage {
        match self {
            Self::Record { source, .. } => {
                let place = Place::row("metadata", source.what.as_bytes());
                Damage::of_record(file, place, &source.problem)
            }
            Self::Missing { key, .. } => {
                Damage::new(file, Place::row("metadata", key.as_bytes()), "it is missing")
            }
            Self::Database(error) => Damage::of_opening(file, Place::File, error),
            other => Damage::new(file, Place::File, other),
        }
    }
}

/// The metadata of one data directory. Clones share it.
#[derive(Clone, Debug)]
pub struct Metadata(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Absent in memory.
    file: Option<(PathBuf, Database)>,
    node_id: NodeId,
    public_key: PublicKey,
    incarnation: u64,
    /// Held while a change is written. Who asks what is known does not wait for that: the disk may hang.
    writing: Mutex<()>,
    changing: Mutex<Changing>,
}

/// What is known later than at the first start.
#[derive(Debug, Default)]
struct Changing {
    cluster_id: Option<ClusterId>,
    peers: Vec<Peer>,
    once_members: Vec<PublicKey>,
    recovery: Option<Recovery>,
    founding: Option<Founding>,
    came_in: bool,
}

impl Metadata {
    /// Opens the metadata of a data directory, or makes it: as node 1, unless told otherwise.
    ///
    /// # Errors
    /// The directory is another node's, another key's, of a newer format, or damaged.
    pub fn open(dir: &Path, node_id: Option<NodeId>, public_key: PublicKey) -> Result<Self, MetadataError> {
        Self::open_on(&RealDisk, dir, node_id, public_key)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// The same.
    pub fn open_on(
        disk: &dyn Disk,
        dir: &Path,
        node_id: Option<NodeId>,
        public_key: PublicKey,
    ) -> Result<Self, MetadataError> {
        let path = dir.join(METADATA_FILE);
        let fresh = node_id.unwrap_or(NodeId(1));
        let database = database::open_or_create(disk, &path, limits::METADATA_CACHE_BYTES, |transaction| {
            initialize(transaction, fresh, public_key)
        })?;
        let inner = load(path, database)?;
        if inner.node_id == UNNAMED {
            return Err(MetadataError::Unnamed);
        }
        if let Some(given) = node_id.filter(|given| *given != inner.node_id) {
            return Err(MetadataError::OtherNode { stored: inner.node_id, given });
        }
        if inner.public_key != public_key {
            return Err(MetadataError::OtherKey { stored: inner.public_key, given: public_key });
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Opens metadata that must be there, whoever's it is.
    pub(super) fn open_existing(dir: &Path) -> Result<Self, MetadataError> {
        let path = dir.join(METADATA_FILE);
        if !path.exists() {
            return Err(MetadataError::Missing { path, key: FORMAT_KEY });
        }
        let database = database::open_or_create(&RealDisk, &path, limits::METADATA_CACHE_BYTES, |_| Ok(()))?;
        Self::inspect(&path, database)
    }

    /// Opens the metadata of a data directory, or makes it without an id: a cluster is to allot one.
    ///
    /// # Errors
    /// The directory is another key's, of a newer format, or damaged.
    pub fn open_unnamed(dir: &Path, public_key: PublicKey) -> Result<Self, MetadataError> {
        let path = dir.join(METADATA_FILE);
        let database =
            database::open_or_create(&RealDisk, &path, limits::METADATA_CACHE_BYTES, |transaction| {
                initialize(transaction, UNNAMED, public_key)
            })?;
        let inner = load(path, database)?;
        if inner.public_key != public_key {
            return Err(MetadataError::OtherKey { stored: inner.public_key, given: public_key });
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Whether the directory has an id.
    pub fn is_named(&self) -> bool {
        self.0.node_id != UNNAMED
    }

    /// Gives a directory without an id the one that a cluster has allotted it, for good, with the members
    /// to turn to. All of it is on disk when the call returns. The metadata must then be opened anew.
    ///
    /// # Errors
    /// The write failed.
    pub fn name(self, node_id: NodeId, cluster_id: ClusterId, members: &[Peer]) -> Result<(), MetadataError> {
        assert!(!self.is_named(), "an id is allotted to a directory that has none");
        let pairs: Vec<(NodeId, &NodeInfo)> = members.iter().map(|peer| (peer.node_id, &peer.info)).collect();
        self.change(|table| {
            put(table, NODE_ID, &node_id)?;
            put(table, CLUSTER_ID, &cluster_id)?;
            put(table, PEERS, &pairs)?;
            put(table, CAME_IN, &true)
        })
    }

    /// The metadata in a database that is open, whoever's it is.
    pub(super) fn inspect(path: &Path, database: Database) -> Result<Self, MetadataError> {
        Ok(Self(Arc::new(load(path.to_owned(), database)?)))
    }

    /// Values that stand on disk.
    pub(super) fn record_count(&self) -> u64 {
        const ALWAYS_THERE: u64 = 4;
        let sometimes = [
            self.cluster_id().is_some(),
            !self.peers().is_empty(),
            !self.once_members().is_empty(),
            self.recovery().is_some(),
            self.founding().is_some(),
            self.came_in(),
        ];
        ALWAYS_THERE + sometimes.into_iter().map(u64::from).sum::<u64>()
    }

    /// Metadata that ends with the process, for `--storage memory`.
    pub fn in_memory(node_id: NodeId, public_key: PublicKey) -> Self {
        let (incarnation, writing, changing) = (rand::random(), Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { file: None, node_id, public_key, incarnation, writing, changing }))
    }

    /// The node whose directory it is.
    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// The key of that node.
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key
    }

    /// A number drawn when the directory was made. Another number under the same node id is a node
    /// that lost its disk.
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// The cluster, once the node belongs to one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.lock().cluster_id
    }

    /// Binds the directory to a cluster for good. It is on disk when the call returns; to adopt the
    /// same id again changes nothing.
    ///
    /// # Errors
    /// The node belongs to another cluster already, or the write failed.
    pub fn adopt_cluster_id(&self, given: ClusterId) -> Result<(), MetadataError> {
        let _writing = self.lock_writing();
        match self.cluster_id() {
            Some(stored) if stored == given => return Ok(()),
            Some(stored) => return Err(MetadataError::OtherCluster { stored, given }),
            None => {}
        }
        self.save(CLUSTER_ID, &given)?;
        self.lock().cluster_id = Some(given);
        Ok(())
    }

    /// The recovery that was begun and not ended.
    pub fn recovery(&self) -> Option<Recovery> {
        self.lock().recovery
    }

    /// Moves the directory to another cluster, of which it knows nobody. Until the recovery is ended the
    /// node does not start.
    pub(super) fn begin_recovery(&self, recovery: Recovery) -> Result<(), MetadataError> {
        let _writing = self.lock_writing();
        let nobody: Vec<(NodeId, NodeInfo)> = Vec::new();
        self.change(|table| {
            put(table, RECOVERY, &recovery)?;
            put(table, CLUSTER_ID, &recovery.to)?;
            put(table, PEERS, &nobody)?;
            table.remove(ONCE_MEMBERS)?;
            // How the node came to the lost one says nothing about the new one.
            table.remove(FOUNDING)?;
            table.remove(CAME_IN)?;
            Ok(())
        })?;
        let (cluster_id, recovery) = (Some(recovery.to), Some(recovery));
        *self.lock() = Changing { cluster_id, recovery, ..Changing::default() };
        Ok(())
    }

    /// Lets the node start in its new cluster.
    pub(super) fn end_recovery(&self) -> Result<(), MetadataError> {
        let _writing = self.lock_writing();
        self.change(|table| {
            table.remove(RECOVERY)?;
            Ok(())
        })?;
        self.lock().recovery = None;
        Ok(())
    }

    /// Whether a cluster has allotted the node its id: it must never make one of its own.
    pub fn came_in(&self) -> bool {
        self.lock().came_in
    }

    /// The founding of a cluster that this node has agreed to last.
    pub fn founding(&self) -> Option<Founding> {
        self.lock().founding.clone()
    }

    /// Agrees to a founding, instead of an earlier one that came to nothing. It is on disk when the call
    /// returns.
    ///
    /// # Errors
    /// The write failed.
    pub fn agree_to(&self, founding: &Founding) -> Result<(), MetadataError> {
        let _writing = self.lock_writing();
        if self.founding().as_ref() != Some(founding) {
            self.save(FOUNDING, founding)?;
            self.lock().founding = Some(founding.clone());
        }
        Ok(())
    }

    /// The peers that were saved last.
    pub fn peers(&self) -> Vec<Peer> {
        self.lock().peers.clone()
    }

    /// The keys of all who were members of the cluster at some time, as saved last.
    pub fn once_members(&self) -> Vec<PublicKey> {
        self.lock().once_members.clone()
    }

    /// Remembers peers, and who was a member at some time, across restarts, instead of those remembered
    /// so far.
    ///
    /// # Errors
    /// There are too many, or the write failed.
    pub fn save_peers(&self, peers: &[Peer], once_members: &[PublicKey]) -> Result<(), MetadataError> {
        let count = peers.len().max(once_members.len());
        if count > limits::PEERS_MAX_COUNT {
            return Err(MetadataError::TooManyPeers { count });
        }
        let _writing = self.lock_writing();
        if self.peers() == peers && self.once_members() == once_members {
            return Ok(());
        }
        // As pairs: the flattened form of a peer exists in JSON only.
        let pairs: Vec<(NodeId, &NodeInfo)> = peers.iter().map(|peer| (peer.node_id, &peer.info)).collect();
        self.change(|table| {
            put(table, PEERS, &pairs)?;
            if once_members.is_empty() {
                table.remove(ONCE_MEMBERS)?;
                return Ok(());
            }
            put(table, ONCE_MEMBERS, &once_members)
        })?;
        let mut changing = self.lock();
        changing.peers = peers.to_vec();
        changing.once_members = once_members.to_vec();
        Ok(())
    }

    fn save<T: Serialize>(&self, key: &'static str, value: &T) -> Result<(), MetadataError> {
        self.change(|table| put(table, key, value))
    }

    /// Makes changes in one transaction.
    fn change(
        &self,
        change: impl FnOnce(&mut Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::Error>,
    ) -> Result<(), MetadataError> {
        let Some((path, database)) = &self.0.file else { return Ok(()) };
        guarded(path, || {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_two_phase_commit(true);
            change(&mut transaction.open_table(METADATA)?)?;
            Ok(transaction.commit()?)
        })?;
        Ok(())
    }

    fn lock_writing(&self) -> MutexGuard<'_, ()> {
        // A change that panicked changed nothing that is known.
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.0.changing.lock().expect("no code panics while it holds this lock")
    }
}

fn initialize(
    transaction: &WriteTransaction,
    node_id: NodeId,
    public_key: PublicKey,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(METADATA)?;
    put(&mut table, FORMAT_KEY, &FORMAT)?;
    put(&mut table, NODE_ID, &node_id)?;
    put(&mut table, PUBLIC_KEY, &public_key)?;
    put(&mut table, INCARNATION, &rand::random::<u64>())
}

fn put<T: Serialize>(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    key: &'static str,
    value: &T,
) -> Result<(), redb::Error> {
    table.insert(key, codec::seal(value).as_slice())?;
    Ok(())
}

fn load(path: PathBuf, database: Database) -> Result<Inner, MetadataError> {
    let stored =
        Stored { table: guarded(&path, || Ok(database.begin_read()?.open_table(METADATA)?))?, path: &path };
    // First: of a newer format nothing else is known.
    let found = stored.required(FORMAT_KEY)?;
    if found > FORMAT {
        return Err(MetadataError::NewerFormat { path, found });
    }
    let node_id = stored.required(NODE_ID)?;
    let public_key = stored.required(PUBLIC_KEY)?;
    let incarnation = stored.required(INCARNATION)?;
    let cluster_id = stored.optional(CLUSTER_ID)?;
    let peers: Vec<(NodeId, NodeInfo)> = stored.optional(PEERS)?.unwrap_or_default();
    let peers = peers.into_iter().map(|(node_id, info)| Peer { node_id, info }).collect();
    let (recovery, founding) = (stored.optional(RECOVERY)?, stored.optional(FOUNDING)?);
    let came_in = stored.optional(CAME_IN)?.unwrap_or_default();
    let once_members = stored.optional(ONCE_MEMBERS)?.unwrap_or_default();
    let changing = Mutex::new(Changing { cluster_id, peers, once_members, recovery, founding, came_in });
    let (file, writing) = (Some((path, database)), Mutex::default());
    Ok(Inner { file, node_id, public_key, incarnation, writing, changing })
}

/// The values as they stand on disk.
struct Stored<'a> {
    path: &'a Path,
    table: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl Stored<'_> {
    fn optional<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, MetadataError> {
        let Some(record) = guarded(self.path, || Ok(self.table.get(key)?))? else { return Ok(None) };
        codec::unseal(key, record.value())
            .map(Some)
            .map_err(|source| MetadataError::Record { path: self.path.to_owned(), source })
    }

    fn required<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, MetadataError> {
        self.optional(key)?.ok_or_else(|| MetadataError::Missing { path: self.path.to_owned(), key })
    }
}

#[cfg(test)]
mod tests;
