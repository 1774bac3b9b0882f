//! Tickets, and the step between Aspen's names for nodes and iroh's.

use std::fmt;
use std::str::FromStr;

use iroh::{EndpointAddr, EndpointId, RelayUrl};
use iroh_tickets::{ParseError, Ticket};

use crate::kv::types::{NodeInfo, Peer, PublicKey};
use crate::limits;

/// A node's id, key and addresses in one word that can be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTicket(pub Peer);

/// A string that is no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{start}…' is no node ticket ({reason}): a ticket starts with '{kind}' and stands in the file `endpoint` of a node's data directory", kind = NodeTicket::KIND)]
pub struct ParseTicketError {
    start: String,
    reason: String,
}

impl Ticket for NodeTicket {
    // Must stay stable: tickets stand in people's configurations.
    const KIND: &'static str = "aspennode";

    fn encode_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.0).expect("a peer has nothing that cannot be encoded")
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        Ok(Self(postcard::from_bytes(bytes)?))
    }
}

impl fmt::Display for NodeTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode_string())
    }
}

impl FromStr for NodeTicket {
    type Err = ParseTicketError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = |reason: &str| ParseTicketError {
            start: s.chars().take(16).collect(),
            reason: reason.to_owned(),
        };
        let ticket = Self::decode_string(s.trim()).map_err(|error| refuse(&error.to_string()))?;
        let peer = &ticket.0;
        if peer.node_id.0 == 0 {
            return Err(refuse("it names node 0"));
        }
        if endpoint_id(&peer.info.public_key).is_none() {
            return Err(refuse("its public key is not valid"));
        }
        if peer.info.addresses.len() > limits::PEER_ADDRESSES_MAX_COUNT {
            return Err(refuse("it names too many addresses"));
        }
        Ok(ticket)
    }
}

impl From<NodeTicket> for Peer {
    fn from(ticket: NodeTicket) -> Self {
        ticket.0
    }
}

/// iroh's form of a public key; none if the bytes are no point on the curve.
pub fn endpoint_id(key: &PublicKey) -> Option<EndpointId> {
    EndpointId::from_bytes(&key.0).ok()
}

/// Aspen's form of iroh's id.
pub fn public_key(id: &EndpointId) -> PublicKey {
    PublicKey(*id.as_bytes())
}

/// iroh's form of a node's key and addresses.
pub(super) fn endpoint_addr(info: &NodeInfo) -> Option<EndpointAddr> {
    let mut addr = EndpointAddr::new(endpoint_id(&info.public_key)?);
    for ip in &info.addresses {
        addr = addr.with_ip_addr(*ip);
    }
    let relay = info.relay_url.as_ref().and_then(|url| url.parse::<RelayUrl>().ok());
    Some(match relay {
        Some(relay) => addr.with_relay_url(relay),
        None => addr,
    })
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::kv::types::NodeId;

    #[test]
    fn a_ticket_survives_being_copied() {
        let key = public_key(&SecretKey::generate().public());
        let info = NodeInfo {
            public_key: key,
            addresses: vec!["10.0.0.1:4601".parse().unwrap()],
            relay_url: Some("https://relay.example/".to_owned()),
            http_addr: Some("127.0.0.1:4600".parse().unwrap()),
        };
        let ticket = NodeTicket(Peer { node_id: NodeId(7), info });
        assert_eq!(format!(" {ticket}\n").parse(), Ok(ticket));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for nonsense in ["", "hello", "aspennode", "aspennodeaaaa", "aspennode!!", "10.0.0.1:4601"] {
            let error = nonsense.parse::<NodeTicket>().unwrap_err().to_string();
            assert!(error.contains("is no node ticket"), "{error}");
        }
    }
}
