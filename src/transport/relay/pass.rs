//! What a node that holds a join ticket shows a relay, which does not know its key yet.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::kv::types::{PublicKey, SecretHash};
use crate::transport::join_ticket::JoinTicket;

/// Begins what is hashed, so that nothing else comes to the same. It must stay stable.
const DOMAIN: &[u8] = b"aspen relay pass 1";

/// Proves that the owner of a key holds a join ticket. It may cross the network in the clear: with another
/// key it is worth nothing, and the ticket's secret cannot be told from it.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayPass(String);

impl RelayPass {
    /// The pass of the owner of a key.
    pub fn of(ticket: &JoinTicket, key: &PublicKey) -> Self {
        Self::new(&ticket.secret.hash(), key)
    }

    fn new(hash: &SecretHash, key: &PublicKey) -> Self {
        let digest = Sha256::new().chain_update(DOMAIN).chain_update(hash.0).chain_update(key.0).finalize();
        Self(HEXLOWER.encode(&digest))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what was shown is the pass of this key for one of these tickets.
    pub(super) fn is_good(shown: &str, key: &PublicKey, tickets: &[SecretHash]) -> bool {
        tickets.iter().any(|hash| bool::from(Self::new(hash, key).0.as_bytes().ct_eq(shown.as_bytes())))
    }
}

impl fmt::Debug for RelayPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayPass")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_with_its_key_and_its_ticket_alone() {
        let (ticket, other_ticket) = (SecretHash([1; 32]), SecretHash([2; 32]));
        let (key, other_key) = (PublicKey([3; 32]), PublicKey([4; 32]));
        let pass = RelayPass::new(&ticket, &key);
        assert!(RelayPass::is_good(pass.as_str(), &key, &[other_ticket, ticket]));
        assert!(!RelayPass::is_good(pass.as_str(), &other_key, &[other_ticket, ticket]));
        assert!(!RelayPass::is_good(pass.as_str(), &key, &[other_ticket]));
        assert!(!RelayPass::is_good(pass.as_str(), &key, &[]));
        assert!(!RelayPass::is_good("", &key, &[ticket]));
    }
}
