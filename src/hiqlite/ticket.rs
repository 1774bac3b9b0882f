//! What names an embedded node to the cluster that it is to join: its id and its two addresses.
//!
//! It is no secret. The secrets of the cluster let a node in, and both sides have them already.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::kv::types::{NodeId, NodeInfo, Peer};

/// What a ticket begins with. It must stay stable.
const PREFIX: &str = "hiqlite:";

/// An embedded node: `hiqlite:ID@RAFT_ADDR@API_ADDR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its id.
    pub node_id: NodeId,
    /// Where it listens for the other nodes.
    pub raft_addr: SocketAddr,
    /// Where it listens for clients and management.
    pub api_addr: SocketAddr,
}

/// Text that is no ticket of an embedded node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ticket of the control backend 'hiqlite' reads {PREFIX}ID@RAFT_ADDR@API_ADDR, and stands in the file `endpoint` of a node's data directory"
)]
pub struct ParseTicketError;

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}@{}@{}", self.node_id, self.raft_addr, self.api_addr)
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let parts: Vec<&str> = text.trim().strip_prefix(PREFIX).ok_or(ParseTicketError)?.split('@').collect();
        let [node_id, raft_addr, api_addr] = parts[..] else { return Err(ParseTicketError) };
        Ok(Self {
            node_id: node_id.parse().map_err(|_| ParseTicketError)?,
            raft_addr: raft_addr.parse().map_err(|_| ParseTicketError)?,
            api_addr: api_addr.parse().map_err(|_| ParseTicketError)?,
        })
    }
}

impl From<Ticket> for Peer {
    fn from(Ticket { node_id, raft_addr, api_addr }: Ticket) -> Self {
        Self { node_id, info: NodeInfo { addresses: vec![raft_addr, api_addr], ..NodeInfo::default() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_is_written() {
        let ticket = Ticket {
            node_id: NodeId(7),
            raft_addr: "[::1]:1".parse().unwrap(),
            api_addr: "10.0.0.1:2".parse().unwrap(),
        };
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "aspennodeabc", "hiqlite:0@1.1.1.1:1@1.1.1.1:2", "hiqlite:1@host:1", "hiqlite:1@@"] {
            assert_eq!(text.parse::<Ticket>(), Err(ParseTicketError), "{text}");
        }
    }
}
