//! Another node, as the settings name it: by its ticket, or by what stands in one.
//!
//! The second form is for those who know a node's key and addresses before it has ever run, and describe
//! all nodes in one place. It is written in files only.

use std::fmt;
use std::net::SocketAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::kv::types::{NodeId, NodeInfo, Peer, PublicKey};

/// A peer in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerSetting {
    /// Its ticket, checked by whoever loaded the settings.
    Ticket(String),
    /// What a ticket would say.
    Node(Peer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    node_id: NodeId,
    public_key: PublicKey,
    #[serde(default)]
    addresses: Vec<SocketAddr>,
    #[serde(default)]
    relay_url: Option<String>,
}

impl From<Table> for Peer {
    fn from(table: Table) -> Self {
        let Table { node_id, public_key, addresses, relay_url } = table;
        // The node tells its HTTP address itself, when it is met.
        Self { node_id, info: NodeInfo { public_key, addresses, relay_url, http_addr: None } }
    }
}

impl<'de> Deserialize<'de> for PeerSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PeerSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a ticket, or a table of node_id, public_key, addresses and relay_url")
            }

            fn visit_str<E: serde::de::Error>(self, ticket: &str) -> Result<PeerSetting, E> {
                Ok(PeerSetting::Ticket(ticket.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PeerSetting, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(PeerSetting::Node(table.into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
