//! Tickets with which new nodes come into a cluster.

use std::fmt;
use std::str::FromStr;

use iroh_tickets::{ParseError, Ticket};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kv::types::{ClusterId, Peer, SecretHash};
use crate::limits;

/// A secret that lets nodes in. It is never printed but in its ticket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// Draws one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What the cluster keeps of it. It is drawn at random, so nobody can guess it from its hash.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// A secret, and where those are who know its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTicket {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Some of its members.
    pub members: Vec<Peer>,
    /// What lets a node in.
    pub secret: JoinSecret,
}

/// A string that is no join ticket. It says nothing of the string, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no join ticket ({reason}): a ticket starts with '{kind}', and `aspen ticket new` on a member prints one", kind = JoinTicket::KIND)]
pub struct ParseJoinTicketError {
    reason: String,
}

impl Ticket for JoinTicket {
    // Must stay stable: tickets are copied from one version to another.
    const KIND: &'static str = "aspenjoin";

    fn encode_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a ticket has nothing that cannot be encoded")
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

impl fmt::Display for JoinTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode_string())
    }
}

impl FromStr for JoinTicket {
    type Err = ParseJoinTicketError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = |reason: &str| ParseJoinTicketError { reason: reason.to_owned() };
        let ticket = Self::decode_string(s.trim()).map_err(|error| refuse(&error.to_string()))?;
        let members = &ticket.members;
        if members.is_empty() || members.len() > limits::JOIN_TICKET_MEMBERS_MAX_COUNT {
            return Err(refuse("it names no members, or too many"));
        }
        if members.iter().any(|peer| peer.info.addresses.len() > limits::PEER_ADDRESSES_MAX_COUNT) {
            return Err(refuse("it names too many addresses"));
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::types::{NodeId, NodeInfo};

    #[test]
    fn a_ticket_survives_being_copied_and_shows_its_secret_nowhere_else() {
        let members = vec![Peer { node_id: NodeId(1), info: NodeInfo::default() }];
        let ticket = JoinTicket { cluster_id: ClusterId::random(), members, secret: JoinSecret::random() };
        assert_eq!(format!(" {ticket}\n").parse(), Ok(ticket.clone()));
        assert!(format!("{ticket:?}").contains("secret: JoinSecret }"), "{ticket:?}");
        assert_ne!(ticket.secret.hash(), JoinSecret::random().hash());
    }

    #[test]
    fn nonsense_is_refused_without_being_repeated() {
        for nonsense in ["", "hello", "aspenjoin", "aspenjoinaaaa", "aspennodeaaaa"] {
            let error = nonsense.parse::<JoinTicket>().unwrap_err().to_string();
            assert!(error.contains("no join ticket") && error.contains("aspen ticket new"), "{error}");
        }
    }
}
