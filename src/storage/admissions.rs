//! Who may come into the cluster, in [`Table::Admissions`]: a row for each ticket, one for each node that was
//! let in, and one for each key that was a member's and is none.
//!
//! # Tiger Style
//! Everything here is on disk. Structures are never changed; a new form gets a new kind of row.

use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record;
use super::tables::{ReadTables, StateError, Table};
use crate::kv::types::{Admitted, NodeId, OutstandingTicket, PublicKey, SecretHash, TicketId};

// The first byte of a row's key. They must stay stable.
const TICKET: u8 = b't';
const NODE: u8 = b'n';
const FORMER: u8 = b'f';

/// A ticket that was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssuedTicket {
    pub(crate) expires_at_ms: u64,
    pub(crate) uses_left: u32,
}

/// A member that was removed. Its key stands in the row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerMember {
    /// The id that it had last.
    pub(crate) node_id: NodeId,
    /// The index of the entry that removed it.
    pub(crate) removed_at: u64,
}

/// The key of a ticket's row.
pub(crate) fn ticket_key(hash: &SecretHash) -> Vec<u8> {
    [&[TICKET][..], &hash.0].concat()
}

/// The key of a node's row.
pub(crate) fn node_key(node_id: NodeId) -> Vec<u8> {
    [&[NODE][..], &node_id.0.to_be_bytes()].concat()
}

/// The key of a former member's row.
pub(crate) fn former_key(public_key: &PublicKey) -> Vec<u8> {
    [&[FORMER][..], &public_key.0].concat()
}

/// A ticket, if it is known.
pub(crate) fn ticket(
    tables: &impl ReadTables,
    hash: &SecretHash,
) -> Result<Option<IssuedTicket>, StateError> {
    let key = ticket_key(hash);
    let Some(sealed) = tables.get(Table::Admissions, &key)? else { return Ok(None) };
    Ok(Some(record::unseal_open(Table::Admissions, &key, &sealed)?.0))
}

/// All tickets, by the keys of their rows.
pub(crate) fn tickets(tables: &impl ReadTables) -> Result<Vec<(Vec<u8>, IssuedTicket)>, StateError> {
    let mut tickets = Vec::new();
    for row in tables.rows(Table::Admissions, (Bound::Included(&[TICKET]), Bound::Excluded(&[TICKET + 1])))? {
        let (key, sealed) = row?;
        tickets.push((key.to_vec(), record::unseal_open(Table::Admissions, &key, &sealed)?.0));
    }
    Ok(tickets)
}

/// Those that nodes can still come in with, at a time in milliseconds of the Unix epoch.
pub(crate) fn outstanding(
    tables: &impl ReadTables,
    now_ms: u64,
) -> Result<Vec<OutstandingTicket>, StateError> {
    let open = open_tickets(tables, now_ms)?.into_iter();
    Ok(open
        .map(|(hash, IssuedTicket { expires_at_ms, uses_left })| OutstandingTicket {
            id: TicketId::of(&hash),
            expires_at_ms,
            uses_left,
        })
        .collect())
}

/// The id of the ticket in a row.
pub(crate) fn ticket_id(key: &[u8]) -> Result<TicketId, StateError> {
    ticket_hash(key).map(|hash| TicketId::of(&hash))
}

/// The hashes of their secrets.
pub(crate) fn open_secrets(tables: &impl ReadTables, now_ms: u64) -> Result<Vec<SecretHash>, StateError> {
    Ok(open_tickets(tables, now_ms)?.into_iter().map(|(hash, _)| hash).collect())
}

/// The tickets that can still be used, each with the hash of its secret.
fn open_tickets(
    tables: &impl ReadTables,
    now_ms: u64,
) -> Result<Vec<(SecretHash, IssuedTicket)>, StateError> {
    let is_open = |ticket: &IssuedTicket| ticket.uses_left > 0 && ticket.expires_at_ms > now_ms;
    let open = tickets(tables)?.into_iter().filter(|(_, ticket)| is_open(ticket));
    open.map(|(key, ticket)| Ok((ticket_hash(&key)?, ticket))).collect()
}

/// What is known of one node.
pub(crate) fn node(tables: &impl ReadTables, node_id: NodeId) -> Result<Option<Admitted>, StateError> {
    let key = node_key(node_id);
    let Some(sealed) = tables.get(Table::Admissions, &key)? else { return Ok(None) };
    Ok(Some(record::unseal_open(Table::Admissions, &key, &sealed)?.0))
}

/// All nodes that were let in.
pub(crate) fn nodes(tables: &impl ReadTables) -> Result<Vec<(NodeId, Admitted)>, StateError> {
    let mut nodes = Vec::new();
    for row in tables.rows(Table::Admissions, (Bound::Included(&[NODE]), Bound::Excluded(&[NODE + 1])))? {
        let (key, sealed) = row?;
        let (admitted, _) = record::unseal_open(Table::Admissions, &key, &sealed)?;
        nodes.push((node_id(&key)?, admitted));
    }
    Ok(nodes)
}

/// All who were members and are none, by their keys; who was removed first comes first.
pub(crate) fn former_members(tables: &impl ReadTables) -> Result<Vec<(PublicKey, FormerMember)>, StateError> {
    let mut former = Vec::new();
    for row in tables.rows(Table::Admissions, (Bound::Included(&[FORMER]), Bound::Excluded(&[FORMER + 1])))? {
        let (key, sealed) = row?;
        let (member, _) = record::unseal_open::<FormerMember>(Table::Admissions, &key, &sealed)?;
        former.push((public_key(&key)?, member));
    }
    former.sort_by_key(|(public_key, member)| (member.removed_at, *public_key));
    Ok(former)
}

fn public_key(key: &[u8]) -> Result<PublicKey, StateError> {
    let public_key = key.get(1..).and_then(|public_key| public_key.try_into().ok());
    public_key.map(PublicKey).ok_or_else(|| malformed(key, "the key holds no public key"))
}

fn node_id(key: &[u8]) -> Result<NodeId, StateError> {
    let id = key.get(1..).and_then(|id| id.try_into().ok());
    id.map(|id| NodeId(u64::from_be_bytes(id))).ok_or_else(|| malformed(key, "the key holds no node id"))
}

fn ticket_hash(key: &[u8]) -> Result<SecretHash, StateError> {
    let hash = key.get(1..).and_then(|hash| hash.try_into().ok());
    hash.map(SecretHash).ok_or_else(|| malformed(key, "the key holds no hash"))
}

fn malformed(key: &[u8], reason: &str) -> StateError {
    let key = Bytes::copy_from_slice(key);
    StateError::Malformed { table: Table::Admissions, key, reason: reason.to_owned() }
}

/// Checks that a row holds what its key says.
pub(crate) fn check(key: &[u8], sealed: &[u8]) -> Result<(), StateError> {
    match key.first() {
        Some(&TICKET) if key.len() == 1 + size_of::<SecretHash>() => {
            record::unseal_open::<IssuedTicket>(Table::Admissions, key, sealed).map(drop)
        }
        Some(&NODE) => {
            node_id(key)?;
            record::unseal_open::<Admitted>(Table::Admissions, key, sealed).map(drop)
        }
        Some(&FORMER) => {
            public_key(key)?;
            record::unseal_open::<FormerMember>(Table::Admissions, key, sealed).map(drop)
        }
        _ => Err(malformed(key, "the key is neither a ticket's nor a node's")),
    }
}
