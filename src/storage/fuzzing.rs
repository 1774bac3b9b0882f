//! What must hold of the bytes that files and peers bring, whatever they are: the targets of `fuzz/` for the
//! storage, and a store in memory that targets of other layers run their requests on.
//!
//! Behind a checksum no fuzzer comes by itself. So each input is also taken with its checksums set right.

use std::fmt::Debug;
use std::ops::Bound;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::admissions::{FormerMember, IssuedTicket};
use super::apply::{Reply, Session};
use super::backup::{self, BackupDecoder, BackupRow, Decoded};
use super::batch::{self, Batch};
use super::blocks::{self, Magic, START_BYTES, TRAILER_BYTES, Totals};
use super::codec;
use super::head::{Head, Restored, Restoring, Revisions, SessionTotals};
use super::read;
use super::record::{self, Change, Live, Undo, decode_command, encode_command};
use super::snapshot::{SnapshotData, format};
use super::state_check;
use super::state_mem::MemState;
use super::tables::{MemTables, ReadTables, Table, WriteTables};
use crate::kv::types::{
    Admitted, BackupOrigin, BackupTotals, ClusterId, Command, Founding, Key, KeyRange, KvError, NodeId,
    NodeInfo, PublicKey, RangeReply, ReadRequest, RestoreId, RestoreStep, Revision, SessionId, SessionTag,
    TxnOp, Value, WriteOp, WriteReply,
};
use crate::raft::types::{Applied, Entry, LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig, Vote};

/// Inputs that must be taken, each with its name.
pub(crate) type Seeds = Vec<(&'static str, Vec<u8>)>;

const UNBOUNDED: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

/// Decodes what stands in a message or a record, whole. What is decoded must be the same again after another
/// way through the encoding.
pub(crate) fn decoded<T: Serialize + DeserializeOwned>(input: &[u8]) -> Option<T> {
    let value: T = postcard::from_bytes(input).ok()?;
    comes_back(&value);
    Some(value)
}

/// What was decoded is encoded to bytes that mean the same.
pub(crate) fn comes_back<T: Serialize + DeserializeOwned>(value: &T) {
    let bytes = postcard::to_stdvec(value).expect("what was decoded can be encoded");
    let again: T = postcard::from_bytes(&bytes).expect("what was encoded can be decoded");
    let bytes_again = postcard::to_stdvec(&again).expect("what was decoded can be encoded");
    assert_eq!(bytes, bytes_again, "a value changes on its way");
}

/// A state that is whatever commands make of it.
pub(crate) struct Store {
    tables: MemTables,
    index: u64,
}

impl Store {
    /// One with some keys, a deleted one, a session and some history.
    pub(crate) fn seeded() -> Self {
        let mut store = Self { tables: MemTables::default(), index: 0 };
        for (name, value) in [("a", "1"), ("app/a", "2"), ("app/b", "3"), ("a", "4"), ("\u{ff}", "")] {
            store.apply(put(name, value)).expect("there is room");
        }
        store.apply(Command::delete(KeyRange::Prefix("app/b".into()))).expect("there is room");
        let session = SessionTag { id: SessionId(Uuid::from_u128(7)), sequence: 1, since: Revision(3) };
        store.apply(Command { session: Some(session), ..put("s", "5") }).expect("there is room");
        store
    }

    /// Applies a command as a member does with an entry of its log.
    pub(crate) fn apply(&mut self, command: Command) -> Result<WriteReply, KvError> {
        let proposal = encode_command(&command)?;
        let decoded = decode_command(&proposal).expect("what was encoded can be decoded");
        assert_eq!(decoded, command, "a command changes on its way into the log");
        let entry = Entry::new(log_id(self.index), EntryPayload::Normal(proposal));
        self.index += 1;
        let batch = Batch::of(vec![entry]).expect("the command has just been decoded");
        let applied = batch::apply(&mut self.tables, &batch.entries);
        let (mut results, _) = applied.expect("a command can be refused, and nothing else");
        match results.pop() {
            Some(Applied::Command(reply)) => reply,
            other => panic!("a command was answered with {other:?}"),
        }
    }

    /// Answers a read.
    pub(crate) fn read(&self, request: &ReadRequest) -> Result<(Revision, RangeReply), KvError> {
        read::read(&self.tables, request).expect("the state is whole")
    }

    /// Checks every row, as the scrub does.
    pub(crate) fn check(&self) {
        check_rows(&self.tables).expect("commands leave the state whole");
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        format::write(&self.tables, &mut bytes).expect("the state is whole");
        bytes
    }

    fn backup(&self) -> Vec<u8> {
        let origin =
            BackupOrigin { cluster_id: Some(a_cluster()), node_id: NodeId(1), created_ms: 1_700_000_000_000 };
        let mut bytes = Vec::new();
        backup::write(&self.tables, origin, &mut bytes).expect("the state is whole");
        bytes
    }

    fn live(&self) -> Vec<(Bytes, Bytes)> {
        let (_, found) =
            self.read(&ReadRequest::range(KeyRange::Prefix(Bytes::new()))).expect("all may be read");
        found.kvs.into_iter().map(|kv| (kv.key.into_bytes(), kv.value.into_bytes())).collect()
    }
}

pub(crate) fn put(key: &str, value: &str) -> Command {
    let key = Key::new(key.to_owned()).expect("a short key");
    Command::put(key, Value::new(value.to_owned()).expect("a short value"))
}

pub(crate) fn log_id(index: u64) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new(1, NodeId(1)), index)
}

pub(crate) fn a_cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(0xa5))
}

fn check_rows(tables: &impl ReadTables) -> Result<(), super::tables::StateError> {
    let head = Head::load(tables)?;
    for table in Table::ALL {
        for row in tables.rows(table, UNBOUNDED)? {
            let (key, value) = row?;
            state_check::check_row(tables, &head, table, &key, &value)?;
        }
    }
    Ok(())
}

/// A snapshot file, and one that a peer has sent.
///
/// It is taken or refused. What is taken is written again as the same, and installed as what its header says.
pub(crate) fn snapshot_file(input: &[u8]) -> bool {
    let is_taken = take_snapshot(input);
    take_snapshot(&mend(input, *b"ASPENSNP", mend_state_rows));
    is_taken
}

fn take_snapshot(input: &[u8]) -> bool {
    let mut tables = MemTables::default();
    let Ok(meta) = format::read(input, |table, key, value| tables.put(table, key, value)) else {
        return false;
    };
    comes_back(&meta);
    // Rows that make no sense are found, and harm nobody who looks.
    check_rows(&tables).ok();
    let mut written = Vec::new();
    if format::write(&tables, &mut written).is_ok() {
        let mut again = MemTables::default();
        format::read(&written[..], |table, key, value| again.put(table, key, value))
            .expect("what was written can be read");
        assert!(same_rows(&tables, &again), "a snapshot changes on its way");
    }
    let state = MemState::default();
    if state.install_snapshot(&meta, &SnapshotData::Memory(Bytes::copy_from_slice(input))).is_ok() {
        let position = state.position().expect("it was read to be installed");
        assert_eq!(position, (meta.last_log_id, meta.last_membership), "it is the state that was announced");
    }
    true
}

fn same_rows(one: &MemTables, other: &MemTables) -> bool {
    Table::ALL.into_iter().all(|table| {
        let rows = |tables: &MemTables| {
            let rows = tables.rows(table, UNBOUNDED).expect("tables in memory can be read");
            rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<Vec<_>, _>>()
                .expect("tables in memory can be read")
        };
        rows(one) == rows(other)
    })
}

pub(crate) fn snapshot_seeds() -> Seeds {
    let mut restoring = Store::seeded();
    let (id, rows) = (RestoreId(Uuid::from_u128(9)), a_row());
    for step in [
        RestoreStep::Begin { id, revision: Revision(5), replace: true },
        RestoreStep::Chunk { id, number: 0, checksum: crc32c::crc32c(&rows), rows: rows.into() },
    ] {
        restoring.apply(Command::new(WriteOp::Restore(step))).expect("the step comes at its time");
    }
    vec![("some", Store::seeded().snapshot()), ("restoring", restoring.snapshot())]
}

fn a_row() -> Vec<u8> {
    let mut row = Vec::new();
    let (create_revision, mod_revision) = (Revision(1), Revision(2));
    BackupRow { key: b"k", create_revision, mod_revision, version: 2, lease: 0, value: b"v" }
        .encode(&mut row);
    row
}

/// A backup file, as the command line reads it and as a cluster restores it.
///
/// It says the same in whatever pieces it comes. What is taken whole can be restored, and holds the same keys
/// when it is backed up again.
pub(crate) fn backup_file(input: &[u8]) -> bool {
    let is_taken = take_backup(input);
    take_backup(&mend(input, *b"ASPENBAK", |rows| {
        let mut rest = &rows[..];
        let mut count = 0;
        while !rest.is_empty() && backup::take_row(&mut rest).is_ok() {
            count += 1;
        }
        count
    }));
    is_taken
}

fn take_backup(input: &[u8]) -> bool {
    let (parts, failure) = decode_backup(input, input.len().max(1));
    assert_eq!(
        decode_backup(input, 13),
        (parts.clone(), failure.clone()),
        "pieces change what a backup says"
    );
    match failure {
        None => {
            restore(&parts);
            true
        }
        Some(_) => false,
    }
}

/// The parts of a backup that comes in pieces of so many bytes, and what was wrong behind them.
fn decode_backup(input: &[u8], piece_bytes: usize) -> (Vec<Decoded>, Option<String>) {
    let mut decoder = BackupDecoder::default();
    let mut parts = Vec::new();
    for piece in input.chunks(piece_bytes) {
        decoder.feed(piece);
        loop {
            match decoder.next_part() {
                Ok(Some(part)) => parts.push(part),
                Ok(None) => break,
                Err(error) => return (parts, Some(error.to_string())),
            }
        }
    }
    let failure = decoder.finish().err().map(|error| error.to_string());
    (parts, failure)
}

fn restore(parts: &[Decoded]) {
    let (mut store, id) = (Store::seeded(), RestoreId(Uuid::from_u128(11)));
    let mut step = |step| store.apply(Command::new(WriteOp::Restore(step)));
    let mut expected: Vec<(Bytes, Bytes)> = Vec::new();
    for part in parts {
        let taken = match part.clone() {
            Decoded::Header(header) => {
                step(RestoreStep::Begin { id, revision: header.revision, replace: true })
            }
            Decoded::Chunk { number, checksum, rows, .. } => {
                let mut rest = &rows[..];
                while let Ok(row) = backup::take_row(&mut rest) {
                    expected.push((Bytes::copy_from_slice(row.key), Bytes::copy_from_slice(row.value)));
                }
                step(RestoreStep::Chunk { id, number, checksum, rows: rows.clone() })
            }
            Decoded::End(totals) => step(RestoreStep::Commit { id, totals }),
        };
        match taken {
            Ok(_) => {}
            // No revision is left beyond that of the backup.
            Err(KvError::BadRestore { .. }) if matches!(part, Decoded::Header(_)) => return,
            Err(error) => panic!("a backup that is whole cannot be restored: {error}"),
        }
    }
    store.check();
    expected.truncate(crate::limits::RANGE_MAX_KEYS);
    assert!(expected.starts_with(&store.live()), "other keys are restored than the backup has");
    let (_, failure) = decode_backup(&store.backup(), usize::MAX);
    assert_eq!(failure, None, "what was restored can be backed up");
}

pub(crate) fn backup_seeds() -> Seeds {
    let empty = Store { tables: MemTables::default(), index: 0 };
    vec![("some", Store::seeded().backup()), ("empty", empty.backup())]
}

/// A file of blocks with every length, checksum and total set right, as far as there are bytes. `mend_rows`
/// counts the rows of a chunk, and may set right what they hold.
fn mend(input: &[u8], magic: Magic, mend_rows: impl Fn(&mut Vec<u8>) -> u64) -> Vec<u8> {
    let mut file = [&magic[..], &1_u32.to_le_bytes()].concat();
    let mut rest = input.get(START_BYTES..).unwrap_or_default();
    let (mut totals, mut is_header) = (Totals::default(), true);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let behind = behind.get(size_of::<u32>()..).unwrap_or_default();
        let (block, behind) = behind.split_at(length.min(behind.len()));
        if block.is_empty() {
            break;
        }
        let mut block = block.to_vec();
        let rows = if is_header { 0 } else { mend_rows(&mut block) };
        let checksum = blocks::write_block(&mut file, &block).expect("memory can be written");
        if !is_header {
            totals.rows += rows;
            totals.add_chunk(checksum);
        }
        (is_header, rest) = (false, behind);
    }
    let mut trailer = [0; TRAILER_BYTES];
    trailer[8..].copy_from_slice(&totals.encode());
    let checksum = crc32c::crc32c(&trailer[8..]);
    trailer[4..8].copy_from_slice(&checksum.to_le_bytes());
    file.extend_from_slice(&trailer);
    file
}

/// Seals the rows of a chunk of a snapshot, and counts them.
fn mend_state_rows(chunk: &mut Vec<u8>) -> u64 {
    let (mut count, mut mended) = (0, Vec::new());
    let mut rest = &chunk[..];
    while !rest.is_empty() {
        let cut_off = rest;
        let Ok((table, key, value)) = format::take_row(&mut rest) else {
            mended.extend_from_slice(cut_off);
            break;
        };
        let sealed_as = if table == Table::Staging { Table::Data } else { table };
        let sealed = match value.split_first_chunk::<4>() {
            Some((_, content)) if table != Table::SessionOrder => {
                record::seal_content(sealed_as, key, content)
            }
            _ => value.to_vec(),
        };
        mended.push(table.id());
        blocks::push_bytes(&mut mended, key);
        blocks::push_bytes(&mut mended, &sealed);
        count += 1;
    }
    *chunk = mended;
    count
}

/// A record of the log, the metadata or the state, each as its first byte says.
///
/// It is taken or refused, also where its checksum is right, and means the same when it is written again.
pub(crate) fn records(input: &[u8]) -> bool {
    let Some((&kind, record)) = input.split_first() else { return false };
    match kind {
        0 => sealed::<Entry>(record),
        1 => sealed::<Vote>(record),
        2 => sealed::<LogId>(record),
        3 => sealed::<NodeId>(record),
        4 => sealed::<PublicKey>(record),
        5 => sealed::<ClusterId>(record),
        6 => sealed::<Vec<(NodeId, NodeInfo)>>(record),
        7 => sealed::<Founding>(record),
        8 => in_state::<Live>(Table::Data, record),
        9 => in_state::<Change>(Table::Tombstones, record),
        10 => in_state::<Undo>(Table::History, record),
        11 => in_state::<Session>(Table::Sessions, record),
        12 => in_state::<Reply>(Table::Sessions, record),
        13 => in_state::<IssuedTicket>(Table::Admissions, record),
        14 => in_state::<Admitted>(Table::Admissions, record),
        15 => in_state::<Option<Restoring>>(Table::Meta, record),
        16 => in_state::<Option<Restored>>(Table::Meta, record),
        17 => in_state::<Revisions>(Table::Meta, record),
        18 => in_state::<SessionTotals>(Table::Meta, record),
        19 => in_state::<StoredMembership>(Table::Meta, record),
        20 => in_state::<SnapshotMeta>(Table::Meta, record),
        21 => command(&Proposal(Bytes::copy_from_slice(record))),
        22 => in_state::<FormerMember>(Table::Admissions, record),
        _ => false,
    }
}

/// A command as the log holds it. What decodes is what was encoded.
pub(crate) fn command(proposal: &Proposal) -> bool {
    let Ok(command) = decode_command(proposal) else { return false };
    match encode_command(&command) {
        Ok(again) => assert_eq!(decode_command(&again).expect("it was encoded"), command),
        // One that is too long never came into a log.
        Err(KvError::CommandTooLarge { .. }) => {}
        Err(error) => panic!("a command that was decoded cannot be encoded: {error}"),
    }
    // Whatever a log holds is applied, or refused the same way by every member.
    if command.validate().is_ok() {
        Store::seeded().apply(command).ok();
    }
    true
}

fn sealed<T: Serialize + DeserializeOwned>(record: &[u8]) -> bool {
    const HEADER_BYTES: usize = 5;
    let taken = codec::unseal::<T>("record", record);
    if let Ok(value) = &taken {
        codec::unseal::<T>("record", &codec::seal(value)).expect("what was sealed can be opened");
        comes_back(value);
    }
    if let Some(payload) = record.get(HEADER_BYTES..) {
        decoded::<T>(payload);
    }
    taken.is_ok()
}

fn in_state<H: Serialize + DeserializeOwned>(table: Table, record: &[u8]) -> bool {
    const KEY: &[u8] = b"key";
    let mended = record::seal_content(table, KEY, record.get(4..).unwrap_or_default());
    for sealed in [record, &mended] {
        if let Ok((header, tail)) = record::unseal_open::<H>(table, KEY, sealed) {
            let again = record::seal(table, KEY, &header, tail);
            let (_, tail_again) = record::unseal_open::<H>(table, KEY, &again).expect("it was sealed");
            assert_eq!(tail, tail_again, "a record changes on its way");
            comes_back(&header);
        }
    }
    record::unseal_open::<H>(table, KEY, record).is_ok()
}

pub(crate) fn record_seeds() -> Seeds {
    fn sealed(kind: u8, value: &impl Serialize) -> Vec<u8> {
        [&[kind][..], &codec::seal(value)].concat()
    }
    fn in_state(kind: u8, table: Table, header: &(impl Serialize + Debug), tail: &[u8]) -> Vec<u8> {
        [&[kind][..], &record::seal(table, b"key", header, tail)].concat()
    }
    let session = SessionTag { id: SessionId(Uuid::from_u128(7)), sequence: 3, since: Revision(2) };
    let change = Change { revision: Revision(5), sub: 1 };
    let live = Live { create_revision: Revision(2), changed: change, version: 3, lease: 0 };
    let info = NodeInfo {
        public_key: PublicKey([3; 32]),
        addresses: vec!["192.0.2.1:4601".parse().expect("an address")],
        relay_url: Some("https://relay.example/".to_owned()),
        http_addr: None,
    };
    let membership = openraft::Membership::new(
        vec![[NodeId(1)].into()],
        std::collections::BTreeMap::from([(NodeId(1), info.clone())]),
    )
    .expect("the voter has a node");
    let command = Command {
        session: Some(session),
        ..Command::ops(vec![TxnOp::Delete { range: KeyRange::Prefix("a".into()) }])
    };
    let proposal = encode_command(&command).expect("a short command");
    let restoring = Restoring {
        id: RestoreId(Uuid::from_u128(9)),
        backup_revision: Revision(5),
        revision: Revision(1_000),
        replace: false,
        staged: BackupTotals { keys: 1, chunks: 1, checksum: 7 },
        last_key: "k".into(),
    };
    let admitted = Admitted {
        public_key: PublicKey([3; 32]),
        incarnation: 9,
        wants_vote: true,
        is_member: true,
        ticket: None,
        since_ms: 7,
    };
    let undo = Undo { key: "key".into(), previous: record::Previous::Live };
    vec![
        ("entry", sealed(0, &Entry::new(log_id(7), EntryPayload::Normal(proposal.clone())))),
        ("entry-membership", sealed(0, &Entry::new(log_id(8), EntryPayload::Membership(membership.clone())))),
        ("vote", sealed(1, &Vote::new_committed(3, NodeId(2)))),
        ("log-id", sealed(2, &log_id(9))),
        ("node-id", sealed(3, &NodeId(5))),
        ("public-key", sealed(4, &PublicKey([3; 32]))),
        ("cluster-id", sealed(5, &a_cluster())),
        ("peers", sealed(6, &vec![(NodeId(2), info)])),
        ("live", in_state(8, Table::Data, &live, b"value")),
        ("tombstone", in_state(9, Table::Tombstones, &change, b"")),
        ("undo", in_state(10, Table::History, &undo, b"")),
        ("ticket", in_state(13, Table::Admissions, &IssuedTicket { expires_at_ms: 9, uses_left: 2 }, b"")),
        ("admitted", in_state(14, Table::Admissions, &admitted, b"")),
        (
            "former-member",
            in_state(22, Table::Admissions, &FormerMember { node_id: NodeId(3), removed_at: 9 }, b""),
        ),
        ("restoring", in_state(15, Table::Meta, &Some(restoring), b"")),
        (
            "revisions",
            in_state(17, Table::Meta, &Revisions { current: Revision(9), compacted: Revision(2) }, b""),
        ),
        ("membership", in_state(19, Table::Meta, &StoredMembership::new(Some(log_id(8)), membership), b"")),
        ("command", [&[21][..], &proposal.0].concat()),
    ]
}
