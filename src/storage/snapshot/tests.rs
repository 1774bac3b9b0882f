//! The form of a snapshot, its directory, and how it is received.

use futures::TryStreamExt;
use openraft::testing::log_id;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::kv::types::NodeId;
use crate::raft::types::TypeConfig;
use crate::storage::blocks::BlockError;
use crate::storage::disk::RealDisk;
use crate::storage::record;
use crate::storage::state_check::tests::Misplaced;
use crate::storage::tables::{MemTables, Table, WriteTables, dump};

/// Rows with checksums, as all that are stored have.
fn tables(rows: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>) -> MemTables {
    let mut tables = MemTables::default();
    for (table, key, value) in rows {
        // What is staged will be data, and is sealed as such.
        let sealed_as = if table == Table::Staging { Table::Data } else { table };
        tables.put(table, &key, &record::seal(sealed_as, &key, &(), &value)).unwrap();
    }
    tables
}

fn written(tables: &MemTables) -> Vec<u8> {
    let mut bytes = Vec::new();
    format::write(tables, &mut bytes).unwrap();
    bytes
}

fn read_back(bytes: &[u8]) -> Result<MemTables, SnapshotError> {
    let mut tables = MemTables::default();
    format::read(bytes, |table, key, value| tables.put(table, key, value))?;
    Ok(tables)
}

/// A snapshot of a few small rows.
fn small() -> Vec<u8> {
    let row = |number: u8| (Table::Data, vec![number], vec![number; 40]);
    written(&tables((0..10).map(row)))
}

#[test]
fn start_of_the_form_is_stable() {
    assert_eq!(&small()[..12], b"ASPENSNP\x01\0\0\0");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let whole = small();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read_back(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_every_addition_is_noticed() {
    let whole = small();
    for length in 0..whole.len() {
        let error = read_back(&whole[..length]).unwrap_err();
        assert!(matches!(error, SnapshotError::Blocks(BlockError::Truncated)), "{length}: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(read_back(&longer).is_err());
}

#[test]
fn chunk_that_is_missing_is_noticed_although_the_others_are_whole() {
    let megabyte = |key: u8| (Table::Data, vec![key], vec![key; 1_000_000]);
    let whole = written(&tables((0..3).map(megabyte)));
    let row_bytes = 1_000_000 + size_of::<u32>() + 1 + 1 + 8;
    let block_bytes = row_bytes + 8;
    let first_chunk = whole.len() - format::TRAILER_BYTES - 3 * block_bytes;
    let mut missing = whole[..first_chunk].to_vec();
    missing.extend_from_slice(&whole[first_chunk + block_bytes..]);
    let error = read_back(&missing).unwrap_err();
    assert!(matches!(error, SnapshotError::Blocks(BlockError::Malformed(Part::Trailer, _))), "{error}");
}

#[test]
fn newer_version_and_foreign_bytes_say_what_they_are() {
    let mut newer = small();
    newer[8] = 2;
    assert!(matches!(
        read_back(&newer).unwrap_err(),
        SnapshotError::Blocks(BlockError::Version { found: 2, known: 1 })
    ));
    let foreign = read_back(b"SQLite format 3\0").unwrap_err();
    assert!(matches!(foreign, SnapshotError::Blocks(BlockError::Foreign)), "{foreign}");
}

#[test]
fn row_larger_than_a_chunk_has_one_of_its_own() {
    let large = vec![7; limits::SNAPSHOT_CHUNK_MAX_BYTES + 100];
    let rows = [
        (Table::Data, b"a".to_vec(), b"small".to_vec()),
        (Table::Data, b"b".to_vec(), large),
        (Table::Meta, b"c".to_vec(), Vec::new()),
    ];
    let original = tables(rows);
    assert_eq!(dump(&read_back(&written(&original)).unwrap()), dump(&original));
}

#[tokio::test]
async fn pieces_are_the_whole_and_no_piece_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let inbox =
        SnapshotInbox::files(Arc::new(SnapshotDir::open(Arc::new(RealDisk), dir.path().join("s")).unwrap()));
    let sent: Bytes =
        (0..limits::WIRE_SNAPSHOT_PIECE_BYTES * 2 + 17).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for inbox in [inbox, SnapshotInbox::memory()] {
        let mut incoming = inbox.begin().unwrap();
        for piece in sent.chunks(100_000) {
            incoming.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let data = incoming.finish().await.unwrap();
        assert_eq!(data.len(), sent.len() as u64);
        let pieces: Vec<Bytes> = data.pieces().try_collect().await.unwrap();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.concat(), sent);
    }
}

#[tokio::test]
async fn incoming_snapshot_that_is_dropped_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let inbox =
        SnapshotInbox::files(Arc::new(SnapshotDir::open(Arc::new(RealDisk), dir.path().to_owned()).unwrap()));
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let mut incoming = inbox.begin().unwrap();
    incoming.write(Bytes::from_static(b"partial")).await.unwrap();
    assert_eq!(files(), 1);
    drop(incoming);
    assert_eq!(files(), 0);
    let finished = inbox.begin().unwrap().finish().await.unwrap();
    assert_eq!(files(), 1);
    drop(finished);
    assert_eq!(files(), 0, "it was received but never installed");
}

#[test]
fn directory_removes_leftovers_and_skips_a_damaged_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let older = dir.path().join("00000000000000000005.snapshot");
    std::fs::write(&older, small()).unwrap();
    let damaged = small();
    std::fs::write(dir.path().join("00000000000000000009.snapshot"), &damaged[..damaged.len() - 1]).unwrap();
    std::fs::write(dir.path().join("3.tmp"), b"half").unwrap();
    let opened = SnapshotDir::open(Arc::new(RealDisk), dir.path().to_owned()).unwrap();
    let (_, data) = opened.current().unwrap();
    assert_eq!(data.len(), small().len() as u64);
    assert!(!dir.path().join("3.tmp").exists());
}

#[test]
fn no_snapshot_is_made_of_tables_that_hide_or_repeat_rows() {
    let write =
        |tables: &Misplaced| format::write(tables, &mut Vec::new()).map_err(|error| error.to_string());
    write(&Misplaced::none()).unwrap();
    let error = write(&Misplaced::older_page(3)).unwrap_err();
    assert!(error.contains("table 'data' says that it has 60 rows and has 59"), "{error}");
    for (place, page) in [(1, 3), (3, 1), (5, 4)] {
        let error = write(&Misplaced::page(place, page)).unwrap_err();
        assert!(error.contains("is not above it"), "{page} at {place}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tables_are_read_back_as_written(
        rows in vec(btree_map(vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..50), 0..20), Table::ALL.len() - 1),
    ) {
        // All but the facts, which the header is made of.
        let rows = Table::ALL.into_iter().filter(|table| *table != Table::Meta).zip(rows);
        let original = tables(
            rows.flat_map(|(table, rows)| rows.into_iter().map(move |(key, value)| (table, key, value))),
        );
        prop_assert_eq!(dump(&read_back(&written(&original)).unwrap()), dump(&original));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, at in 0_usize..200) {
        let _ = read_back(&bytes);
        let mut spoilt = small();
        let at = at.min(spoilt.len());
        spoilt.splice(at.., bytes);
        let _ = read_back(&spoilt);
    }
}

#[tokio::test]
async fn damage_and_another_state_are_found_before_anything_is_made_of_a_snapshot() {
    let whole = small();
    let announced = format::read(&whole[..], |_, _, _| Ok(())).unwrap();
    SnapshotData::Memory(whole.clone().into()).verify(&announced).await.unwrap();

    let other =
        SnapshotMeta { last_log_id: Some(log_id::<TypeConfig>(7, NodeId(1), 7)), ..announced.clone() };
    let error = SnapshotData::Memory(whole.clone().into()).verify(&other).await.unwrap_err();
    assert!(matches!(error, SnapshotError::OtherState { .. }), "{error}");

    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    assert!(SnapshotData::Memory(damaged.into()).verify(&announced).await.is_err());
}
