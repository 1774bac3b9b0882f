//! How commands and stored values are encoded.
//!
//! A command is a version byte and postcard. A stored value is sealed: a checksum in front, over its
//! table, its key and its content, so that a value which is damaged or stands in the wrong place is an
//! error and never an answer. A sealed value is a postcard header and, behind it, raw bytes: values of
//! a megabyte are neither encoded byte by byte nor copied to be read.
//!
//! # Tiger Style
//! Everything here is on disk. Structures are never changed; a new form gets a new version.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tables::{StateError, Table};
use crate::kv::types::{Command, KvError, Revision};
use crate::limits;
use crate::raft::types::Proposal;

/// Version of the encoding of [`Command`]. It must stay stable; a form that version 1 cannot read gets
/// the next number.
const COMMAND_VERSION: u8 = 1;

/// A log entry that this node cannot apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeCommandError {
    /// A newer node wrote it.
    #[error(
        "a log entry holds a command of version {version}, but this node knows version {COMMAND_VERSION} only: it is older than the node that wrote the command. Upgrade this node; it continues where it stopped"
    )]
    Version {
        /// The version found.
        version: u8,
    },
    /// It does not decode.
    #[error(
        "a log entry of {bytes} bytes holds no command ({reason}): the entry is damaged, or a newer node wrote it. If other nodes run a newer version, upgrade this one; otherwise replace it"
    )]
    Damaged {
        /// The entry's length.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
}

/// Encodes a command for the log.
///
/// # Errors
/// [`KvError::CommandTooLarge`].
pub fn encode_command(command: &Command) -> Result<Proposal, KvError> {
    let encoded = postcard::to_extend(command, vec![COMMAND_VERSION])
        .expect("a command has only types that postcard can encode");
    if encoded.len() > limits::COMMAND_MAX_BYTES {
        return Err(KvError::CommandTooLarge { bytes: encoded.len(), max_bytes: limits::COMMAND_MAX_BYTES });
    }
    Ok(Proposal(encoded.into()))
}

/// Decodes a command from the log.
///
/// # Errors
/// Where this node cannot know for sure what the entry says.
pub fn decode_command(proposal: &Proposal) -> Result<Command, DecodeCommandError> {
    let damaged = |reason: String| DecodeCommandError::Damaged { bytes: proposal.0.len(), reason };
    let Some((&version, encoded)) = proposal.0.split_first() else {
        return Err(damaged("it is empty".to_owned()));
    };
    if version != COMMAND_VERSION {
        return Err(DecodeCommandError::Version { version });
    }
    match postcard::take_from_bytes(encoded) {
        Ok((command, [])) => Ok(command),
        Ok((_, rest)) => Err(damaged(format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// A change of one key: the revision, and the change's number inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) sub: u32,
}

impl Change {
    /// Length of a change's key.
    pub(crate) const KEY_BYTES: usize = 12;

    /// The change's key in [`Table::History`], ordered as changes are.
    pub(crate) fn to_key(self) -> [u8; Self::KEY_BYTES] {
        let mut key = [0; Self::KEY_BYTES];
        key[..8].copy_from_slice(&self.revision.0.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub(crate) fn from_key(key: &[u8]) -> Result<Self, StateError> {
        let malformed = || StateError::Malformed {
            table: Table::History,
            key: Bytes::copy_from_slice(key),
            reason: "the key has not 12 bytes".to_owned(),
        };
        let (revision, sub) = key.split_first_chunk().ok_or_else(malformed)?;
        let sub = sub.try_into().map_err(|_| malformed())?;
        Ok(Self { revision: Revision(u64::from_be_bytes(*revision)), sub: u32::from_be_bytes(sub) })
    }
}

/// Header of a live key's record, in front of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) create_revision: Revision,
    pub(crate) changed: Change,
    pub(crate) version: u64,
    pub(crate) lease: u64,
}

/// Header of an undo record. Behind it stands the record of a key that was live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undo {
    pub(crate) key: Bytes,
    pub(crate) previous: Previous,
}

/// What a key was before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Previous {
    /// Never written, or deleted by a change that is compacted.
    Absent,
    /// Written; its record follows.
    Live,
    /// Deleted by this change.
    Deleted(Change),
}

/// Encodes and seals a value of a header and raw bytes.
pub(crate) fn seal<H: Serialize>(table: Table, key: &[u8], header: &H, tail: &[u8]) -> Vec<u8> {
    const CHECKSUM_BYTES: usize = size_of::<u32>();
    const HEADER_GUESS_BYTES: usize = 32;
    let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + HEADER_GUESS_BYTES + tail.len());
    sealed.extend_from_slice(&[0; CHECKSUM_BYTES]);
    let mut sealed =
        postcard::to_extend(header, sealed).expect("a header has only types that postcard can encode");
    sealed.extend_from_slice(tail);
    let checksum = checksum(table, key, &sealed[CHECKSUM_BYTES..]);
    sealed[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    sealed
}

/// Seals a content that is encoded already.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn seal_content(table: Table, key: &[u8], content: &[u8]) -> Vec<u8> {
    [&checksum(table, key, content).to_le_bytes(), content].concat()
}

/// Checks a sealed value and returns its content: header and raw bytes.
pub(crate) fn unseal<'a>(table: Table, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StateError> {
    match sealed.split_first_chunk() {
        Some((stored, content)) if u32::from_le_bytes(*stored) == checksum(table, key, content) => {
            Ok(content)
        }
        _ => Err(StateError::Checksum { table, key: Bytes::copy_from_slice(key) }),
    }
}

/// Checks a row as far as it carries a checksum: all but the order of sessions, which holds ids alone.
pub(crate) fn check_row(table: Table, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    match table {
        Table::SessionOrder => Ok(()),
        // They become the data as they are.
        Table::Staging => unseal(Table::Data, key, value).map(drop),
        _ => unseal(table, key, value).map(drop),
    }
}

/// Splits the content of a value into header and raw bytes.
pub(crate) fn open<'a, H: DeserializeOwned>(
    table: Table,
    key: &[u8],
    content: &'a [u8],
) -> Result<(H, &'a [u8]), StateError> {
    postcard::take_from_bytes(content).map_err(|error| StateError::Malformed {
        table,
        key: Bytes::copy_from_slice(key),
        reason: error.to_string(),
    })
}

/// Checks a sealed value and splits it.
pub(crate) fn unseal_open<'a, H: DeserializeOwned>(
    table: Table,
    key: &[u8],
    sealed: &'a [u8],
) -> Result<(H, &'a [u8]), StateError> {
    open(table, key, unseal(table, key, sealed)?)
}

fn checksum(table: Table, key: &[u8], content: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[table.id()]), key);
    crc32c::crc32c_append(checksum, content)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::kv::types::{
        Admitted, BackupTotals, Key, KeyRange, NodeId, OpResult, PublicKey, RestoreId, SecretHash, TxnOp,
        Value, WriteReply,
    };
    use crate::storage::admissions::{self, FormerMember, IssuedTicket};
    use crate::storage::apply::tests::commands;
    use crate::storage::apply::{Reply, Session};
    use crate::storage::head::{Restored, Restoring, SessionTotals};

    fn put(key: &'static [u8], value: Vec<u8>) -> Command {
        Command::put(Key::new(key).unwrap(), Value::new(value).unwrap())
    }

    #[test]
    fn command_round_trips_and_its_form_is_stable() {
        let command = put(b"k", b"v".to_vec());
        let encoded = encode_command(&command).unwrap();
        assert_eq!(&encoded.0[..], [1, 0, 0, 0, 1, 0, 1, b'k', 1, b'v', 0, 0]);
        assert_eq!(decode_command(&encoded).unwrap(), command);
    }

    #[test]
    fn command_over_the_limit_is_refused() {
        let key = Key::new(&b"k"[..]).unwrap();
        let value = Value::new(vec![0; limits::VALUE_MAX_BYTES / 2]).unwrap();
        let op = TxnOp::Put { key, value, lease: 0 };
        assert!(encode_command(&Command::ops(vec![op.clone(), op.clone()])).is_ok());
        let error = encode_command(&Command::ops(vec![op.clone(), op.clone(), op])).unwrap_err();
        assert!(matches!(error, KvError::CommandTooLarge { bytes, .. } if bytes > limits::COMMAND_MAX_BYTES));
    }

    #[test]
    fn unknown_version_and_garbage_are_errors_that_say_so() {
        let newer = decode_command(&Proposal(Bytes::from_static(&[2, 0]))).unwrap_err();
        assert_eq!(newer, DecodeCommandError::Version { version: 2 });
        assert!(newer.to_string().contains("older"));
        for garbage in [&[][..], &[1], &[1, 9, 9, 9], &[1, 0, 0, 0, 0, 0, 7]] {
            let error = decode_command(&Proposal(Bytes::copy_from_slice(garbage))).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{garbage:?}: {error}");
        }
    }

    #[test]
    fn changes_sort_as_their_keys() {
        let low = Change { revision: Revision(1), sub: u32::MAX };
        let high = Change { revision: Revision(2), sub: 0 };
        assert!(low.to_key() < high.to_key());
        assert_eq!(Change::from_key(&high.to_key()).unwrap(), high);
        assert!(Change::from_key(b"short").is_err());
    }

    /// Whether a header comes back as it was sealed, with what stands behind it.
    fn comes_back<H>(table: Table, key: &[u8], header: &H, tail: &[u8]) -> Result<(), TestCaseError>
    where
        H: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let sealed = seal(table, key, header, tail);
        let (opened, rest): (H, _) = unseal_open(table, key, &sealed).unwrap();
        prop_assert_eq!(&opened, header);
        prop_assert_eq!(rest, tail);
        Ok(())
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let result = prop_oneof![
            Just(OpResult::Put),
            any::<(u64, bool)>().prop_map(|(deleted, more)| OpResult::Delete { deleted, more }),
        ];
        let done = (any::<(u64, bool, bool)>(), prop::collection::vec(result, 0..4)).prop_map(
            |((revision, succeeded, replayed), results)| {
                Ok(WriteReply { revision: Revision(revision), succeeded, results, replayed })
            },
        );
        let refused = any::<(usize, usize)>()
            .prop_map(|(bytes, max_bytes)| Err(KvError::KeyTooLarge { bytes, max_bytes }));
        let forgotten =
            any::<u64>().prop_map(|revision| Err(KvError::SessionExpired { forgotten: Revision(revision) }));
        prop_oneof![done, refused, forgotten, Just(Err(KvError::EmptyKey))]
    }

    proptest! {
        #[test]
        fn delete_commands_round_trip(start: Vec<u8>, end: Option<Vec<u8>>) {
            let range = KeyRange::Span { start: start.into(), end: end.map(Bytes::from) };
            let command = Command::delete(range);
            prop_assert_eq!(decode_command(&encode_command(&command).unwrap()).unwrap(), command);
        }

        #[test]
        fn any_command_round_trips(commands in commands()) {
            for command in commands {
                prop_assert_eq!(decode_command(&encode_command(&command).unwrap()).unwrap(), command);
            }
        }

        #[test]
        fn headers_of_records_round_trip(
            created: u64, changed: (u64, u32), version: u64, lease: u64, key: Vec<u8>, value: Vec<u8>, kind in 0..3_usize,
        ) {
            let changed = Change { revision: Revision(changed.0), sub: changed.1 };
            prop_assert_eq!(Change::from_key(&changed.to_key()).unwrap(), changed);
            let live = Live { create_revision: Revision(created), changed, version, lease };
            comes_back(Table::Data, &key, &live, &value)?;
            comes_back(Table::Tombstones, &key, &changed, &[])?;
            let previous = [Previous::Absent, Previous::Live, Previous::Deleted(changed)][kind];
            let undo = Undo { key: Bytes::from(key), previous };
            comes_back(Table::History, &changed.to_key(), &undo, &value)?;
        }

        #[test]
        fn sessions_and_their_replies_round_trip(
            id: u128, sequence: u64, stamp: u64, before: u64, reply in any_reply(), totals: (u64, u64, u64, u64),
        ) {
            let session = Session { sequence, stamp, revision_before: Revision(before) };
            let key = id.to_be_bytes();
            let encoded = postcard::to_stdvec(&reply).unwrap();
            comes_back(Table::Sessions, &key, &session, &encoded)?;
            prop_assert_eq!(open::<Reply>(Table::Sessions, &key, &encoded).unwrap(), (reply, &[][..]));
            let (count, reply_bytes, forgotten, next_stamp) = totals;
            let totals = SessionTotals { count, reply_bytes, forgotten: Revision(forgotten), next_stamp };
            comes_back(Table::Meta, b"sessions", &totals, &[])?;
        }

        #[test]
        fn facts_of_restores_round_trip(
            id: u128, revisions: (u64, u64), replace: bool, staged: (u64, u32, u32), last_key: Vec<u8>,
        ) {
            let id = RestoreId(uuid::Uuid::from_u128(id));
            let (keys, chunks, checksum) = staged;
            let restoring = Restoring {
                id,
                backup_revision: Revision(revisions.0),
                revision: Revision(revisions.1),
                replace,
                staged: BackupTotals { keys, chunks: chunks.into(), checksum },
                last_key: last_key.into(),
            };
            comes_back(Table::Meta, b"restoring", &Some(restoring), &[])?;
            comes_back(Table::Meta, b"restored", &Some(Restored { id, revision: Revision(revisions.1) }), &[])?;
        }

        #[test]
        fn rows_of_admissions_round_trip(
            hash: [u8; 32], key: [u8; 32], numbers: (u64, u32, u64, u64), wants_vote: bool, is_member: bool,
            has_ticket: bool,
        ) {
            let (hash, public_key) = (SecretHash(hash), PublicKey(key));
            let (at_ms, uses_left, node_id, incarnation) = numbers;
            let ticket = IssuedTicket { expires_at_ms: at_ms, uses_left };
            comes_back(Table::Admissions, &admissions::ticket_key(&hash), &ticket, &[])?;
            let ticket = has_ticket.then_some(hash);
            let node = Admitted { public_key, incarnation, wants_vote, is_member, ticket, since_ms: at_ms };
            comes_back(Table::Admissions, &admissions::node_key(NodeId(node_id)), &node, &[])?;
            let former = FormerMember { node_id: NodeId(node_id), removed_at: at_ms };
            comes_back(Table::Admissions, &admissions::former_key(&public_key), &former, &[])?;
        }

        #[test]
        fn sealed_values_round_trip_and_refuse_every_bit_flip(
            key: Vec<u8>, tail: Vec<u8>, revision: u64, bit: prop::sample::Index,
        ) {
            let header = Change { revision: Revision(revision), sub: 7 };
            let mut sealed = seal(Table::Data, &key, &header, &tail);
            let (opened, rest): (Change, _) = unseal_open(Table::Data, &key, &sealed).unwrap();
            prop_assert_eq!(opened, header);
            prop_assert_eq!(rest, &tail[..]);
            prop_assert!(unseal(Table::History, &key, &sealed).is_err(), "another table");
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unseal(Table::Data, &key, &sealed).is_err());
        }
    }
}
