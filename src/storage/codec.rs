//! Sealed records: how one value stands on disk.
//!
//! A record is a version byte, a CRC32C (little endian) over the version and the payload, and the
//! payload in postcard. It must never give back bytes that fail their checksum: the database's own
//! checksums are looked at only when it repairs itself, so they do not protect a read.
//!
//! # Tiger Style
//! The header must stay stable: a change of the payload takes a new version byte, and the old one stays
//! readable.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Must stay stable.
const VERSION: u8 = 1;

/// Version and checksum.
const HEADER_BYTES: usize = 5;

/// A record that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored {what} {} {problem}", if problem.is_damage() { "is damaged:" } else { "cannot be read:" })]
pub struct CodecError {
    /// Which record it is.
    pub what: String,
    /// What is wrong with it.
    pub problem: CodecProblem,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecProblem {
    /// Not even the header is there.
    #[error("it has {0} bytes, fewer than its header")]
    TooShort(usize),
    /// Whole, and of a version that came later.
    #[error(
        "it was written by a newer Aspen, in version {0} of its form, and this program knows version {VERSION}. Start \
         the node with the Aspen that wrote it, or a newer one"
    )]
    Newer(u8),
    /// No record at all.
    #[error("its version is {0}, and this program knows version {VERSION}")]
    Version(u8),
    /// The bytes are not those that were written.
    #[error("its checksum is {actual:#010x}, and {expected:#010x} was stored")]
    Checksum {
        /// The checksum beside the payload.
        expected: u32,
        /// That of the payload as it was read.
        actual: u32,
    },
    /// The checksum is right, and the payload is something else.
    #[error("its payload does not decode: {0}")]
    Payload(String),
    /// The record is whole, and belongs elsewhere.
    #[error("it holds {0}")]
    Misplaced(String),
}

impl CodecProblem {
    /// Whether the bytes are not those that were written.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Newer(_))
    }
}

/// Encodes and seals a value.
pub fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let mut record = Vec::new();
    seal_into(&mut record, value);
    record
}

/// Encodes and seals a value into a buffer, which is cleared first. One buffer serves many records.
pub fn seal_into<T: Serialize>(buffer: &mut Vec<u8>, value: &T) {
    let mut record = std::mem::take(buffer);
    record.clear();
    record.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    let mut record =
        postcard::to_extend(value, record).expect("values that are stored always encode into memory");
    let checksum = checksum(VERSION, &record[HEADER_BYTES..]);
    record[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    *buffer = record;
}

/// Checks a record and decodes it. `what` names it in the error.
///
/// # Errors
/// The record is not, byte for byte, one that [`seal`] made for a `T`.
pub fn unseal<T: DeserializeOwned>(what: impl fmt::Display, record: &[u8]) -> Result<T, CodecError> {
    open(record).map_err(|problem| CodecError { what: what.to_string(), problem })
}

fn open<T: DeserializeOwned>(record: &[u8]) -> Result<T, CodecProblem> {
    let Some((header, payload)) = record.split_first_chunk::<HEADER_BYTES>() else {
        return Err(CodecProblem::TooShort(record.len()));
    };
    let [version, expected @ ..] = *header;
    let expected = u32::from_le_bytes(expected);
    let actual = checksum(version, payload);
    if version != VERSION {
        // A flipped bit makes a version, too, but not its checksum.
        let is_newer = version > VERSION && actual == expected;
        return Err(if is_newer { CodecProblem::Newer(version) } else { CodecProblem::Version(version) });
    }
    if actual != expected {
        return Err(CodecProblem::Checksum { expected, actual });
    }
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(CodecProblem::Payload(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(CodecProblem::Payload(error.to_string())),
    }
}

/// A record as an Aspen of the next version may write it.
#[cfg(test)]
pub(super) fn seal_newer<T: Serialize>(value: &T) -> Vec<u8> {
    let mut record = seal(value);
    record[0] = VERSION + 1;
    let checksum = checksum(record[0], &record[HEADER_BYTES..]);
    record[1..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    record
}

fn checksum(version: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[version]), payload)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use openraft::testing::log_id;
    use openraft::{EntryPayload, Membership};
    use proptest::prelude::*;

    use super::*;
    use crate::kv::types::{NodeId, NodeInfo, PublicKey};
    use crate::raft::types::{Entry, LogId, Proposal, TypeConfig, Vote};

    fn any_log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(term, node, index)| log_id::<TypeConfig>(term, NodeId(node), index))
    }

    fn any_node() -> impl Strategy<Value = NodeInfo> {
        (any::<[u8; 32]>(), prop::collection::vec(any::<std::net::SocketAddrV4>(), 0..3), any::<bool>())
            .prop_map(|(key, addresses, relay)| NodeInfo {
                public_key: PublicKey(key),
                http_addr: addresses.first().copied().map(Into::into),
                addresses: addresses.into_iter().map(Into::into).collect(),
                relay_url: relay.then(|| "https://relay.example".to_owned()),
            })
    }

    fn any_payload() -> impl Strategy<Value = EntryPayload<Proposal, NodeId, NodeInfo>> {
        prop_oneof![
            Just(EntryPayload::Blank),
            prop::collection::vec(any::<u8>(), 0..300)
                .prop_map(|bytes| EntryPayload::Normal(Proposal(Bytes::from(bytes)))),
            prop::collection::btree_map(any::<u64>().prop_map(NodeId), any_node(), 1..4).prop_map(|nodes| {
                let voters: BTreeSet<NodeId> = nodes.keys().copied().take(2).collect();
                let nodes: BTreeMap<NodeId, NodeInfo> = nodes;
                EntryPayload::Membership(
                    Membership::new(vec![voters], nodes).expect("every voter has a node"),
                )
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was_sealed(log_id in any_log_id(), payload in any_payload()) {
            let entry = Entry { log_id, payload };
            let back: Entry = unseal("log entry", &seal(&entry)).unwrap();
            prop_assert_eq!(back, entry);
        }

        #[test]
        fn votes_and_log_ids_come_back(log_id in any_log_id(), committed in any::<bool>()) {
            prop_assert_eq!(unseal::<LogId>("committed id", &seal(&log_id)).unwrap(), log_id);
            let vote = Vote { committed, ..Vote::new(log_id.index, NodeId(7)) };
            prop_assert_eq!(unseal::<Vote>("vote", &seal(&vote)).unwrap(), vote);
        }

        #[test]
        fn any_flipped_bit_is_noticed(payload in any_payload(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let entry = Entry { log_id: log_id::<TypeConfig>(3, NodeId(1), 7), payload };
            let mut record = seal(&entry);
            let at = at.index(record.len());
            record[at] ^= 1 << bit;
            prop_assert!(unseal::<Entry>("log entry 7", &record).is_err());
        }
    }

    #[test]
    fn the_error_names_what_was_read_and_what_is_wrong() {
        let mut record = seal(&7_u64);
        *record.last_mut().unwrap() ^= 1;
        let text = unseal::<u64>("log entry 7", &record).unwrap_err().to_string();
        assert!(
            text.contains("log entry 7") && text.contains("is damaged") && text.contains("checksum"),
            "{text}"
        );
    }

    #[test]
    fn a_record_of_a_newer_version_is_told_from_a_damaged_one() {
        let mut record = seal(&7_u64);
        record[0] = VERSION + 1;
        assert_eq!(unseal::<u64>("x", &record).unwrap_err().problem, CodecProblem::Version(VERSION + 1));
        let text = unseal::<u64>("vote", &seal_newer(&7_u64)).unwrap_err().to_string();
        assert!(text.contains("vote cannot be read: it was written by a newer Aspen"), "{text}");
        assert!(!text.contains("damaged"), "{text}");
    }

    #[test]
    fn short_long_and_foreign_records_are_refused() {
        assert_eq!(unseal::<u64>("x", &[1, 2]).unwrap_err().problem, CodecProblem::TooShort(2));
        assert_eq!(unseal::<u64>("x", &[9; 20]).unwrap_err().problem, CodecProblem::Version(9));
        let too_long = seal(&(1_u64, 2_u64));
        assert!(matches!(unseal::<u64>("x", &too_long).unwrap_err().problem, CodecProblem::Payload(_)));
    }
}
