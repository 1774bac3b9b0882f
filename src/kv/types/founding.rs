//! A cluster that several nodes found together, because their configurations name each other.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ClusterId, NodeId, PublicKey};

/// The nodes that are to found a cluster: one, and the peers that it was given. All of them must name the
/// same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founders(BTreeMap<NodeId, PublicKey>);

impl Founders {
    /// A node and its peers.
    pub fn new(own: (NodeId, PublicKey), peers: impl IntoIterator<Item = (NodeId, PublicKey)>) -> Self {
        Self(peers.into_iter().chain([own]).collect())
    }

    /// The one that founds, and no other: that of the lowest id.
    pub fn first(&self) -> NodeId {
        *self.0.keys().next().expect("a node is one of its own founders")
    }

    /// All of them, in order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.keys().copied()
    }

    /// Whether a node is one of them, under its key.
    pub fn has(&self, node_id: NodeId, public_key: &PublicKey) -> bool {
        self.0.get(&node_id) == Some(public_key)
    }
}

impl fmt::Display for Founders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (node_id, key)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{node_id} ({})", key.short())?;
        }
        Ok(())
    }
}

/// A founding that nodes have agreed to. It stands in their metadata: fields are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Who founds it.
    pub founders: Founders,
    /// The data directory of each founder, which is what its vote hangs on.
    pub incarnations: BTreeMap<NodeId, u64>,
}

impl Founding {
    /// The data directory that a founder had.
    pub fn incarnation_of(&self, node_id: NodeId, public_key: &PublicKey) -> Option<u64> {
        self.incarnations.get(&node_id).copied().filter(|_| self.founders.has(node_id, public_key))
    }
}
