//! What stands in a backup comes back, and nothing else is taken for one.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::kv::types::{ClusterId, NodeId};
use crate::storage::apply::tests::{apply, put};
use crate::storage::tables::MemTables;

const ORIGIN: BackupOrigin =
    BackupOrigin { cluster_id: Some(ClusterId(uuid::Uuid::from_u128(7))), node_id: NodeId(3), created_ms: 9 };

fn written(tables: &MemTables) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(tables, ORIGIN, &mut bytes).unwrap();
    bytes
}

/// A backup of a few small keys.
fn small() -> Vec<u8> {
    let mut tables = MemTables::default();
    for number in 0..10 {
        apply(&mut tables, &put(&format!("key-{number}"), &"v".repeat(number))).unwrap();
    }
    written(&tables)
}

/// All parts of a backup that comes in pieces.
fn decode<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Result<Vec<Decoded>, BackupError> {
    let (mut decoder, mut parts) = (BackupDecoder::default(), Vec::new());
    for piece in pieces {
        decoder.feed(piece);
        while let Some(part) = decoder.next_part()? {
            parts.push(part);
        }
    }
    decoder.finish()?;
    Ok(parts)
}

fn error(bytes: &[u8]) -> BackupError {
    decode([bytes]).unwrap_err()
}

#[test]
fn start_and_rows_of_the_form_are_stable() {
    let whole = small();
    assert_eq!(&whole[..12], b"ASPENBAK\x01\0\0\0");
    let parts = decode([&whole[..]]).unwrap();
    let header = BackupHeader { origin: ORIGIN, revision: Revision(10), keys: 10 };
    assert_eq!(parts[0], Decoded::Header(header));
    let Decoded::Chunk { rows, .. } = &parts[1] else { panic!("{parts:?}") };
    let first =
        b"\x05\0\0\0key-0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(&rows[..first.len()], first);
    assert!(matches!(parts[2], Decoded::End(BackupTotals { keys: 10, chunks: 1, .. })), "{parts:?}");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let whole = small();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode([&flipped[..]]).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_every_addition_is_noticed() {
    let whole = small();
    for length in 0..whole.len() {
        let error = error(&whole[..length]);
        assert!(matches!(error, BackupError(BlockError::Truncated)), "{length}: {error}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(error(&longer).to_string().contains("bytes follow"), "in one piece");
    assert!(decode([&whole[..], &[0]]).is_err(), "in a piece of its own");
}

#[test]
fn newer_version_and_foreign_bytes_say_what_they_are() {
    let mut newer = small();
    newer[8] = 2;
    let newer = error(&newer);
    assert!(matches!(newer, BackupError(BlockError::Version { found: 2, known: 1 })), "{newer}");
    for foreign in [&b"ASPENSNP\x01\0\0\0and more"[..], b"hi", b"SQLite format 3\0"] {
        let error = error(foreign);
        assert!(matches!(error, BackupError(BlockError::Foreign)), "{error}");
    }
}

#[test]
fn chunk_that_is_missing_is_noticed_although_the_others_are_whole() {
    let mut tables = MemTables::default();
    let large = "v".repeat(limits::SNAPSHOT_CHUNK_MAX_BYTES);
    for key in ["a", "b", "c"] {
        apply(&mut tables, &put(key, &large)).unwrap();
    }
    let whole = written(&tables);
    let block_bytes = BLOCK_HEAD_BYTES + ROW_NUMBERS_BYTES + 1 + large.len();
    let first = whole.len() - blocks::TRAILER_BYTES - 3 * block_bytes;
    assert!(decode([&whole[..first], &whole[first..]]).is_ok());
    let error = decode([&whole[..first], &whole[first + block_bytes..]]).unwrap_err();
    assert!(matches!(error, BackupError(BlockError::Malformed(Part::Trailer, _))), "{error}");
}

#[test]
fn keys_that_no_store_can_have_are_refused() {
    let row = |key: &'static [u8]| BackupRow {
        key,
        create_revision: Revision(2),
        mod_revision: Revision(3),
        version: 2,
        lease: 0,
        value: b"v",
    };
    let refused = |rows: &[BackupRow<'_>]| {
        let mut chunk = Vec::new();
        rows.iter().for_each(|row| row.encode(&mut chunk));
        take_rows(&chunk, b"a", Revision(5)).err()
    };
    assert_eq!(refused(&[row(b"b"), row(b"c")]), None);
    let large = vec![b'z'; limits::KEY_MAX_BYTES + 1];
    for rows in [
        vec![],
        vec![row(b"")],
        vec![row(b"a")],
        vec![row(b"c"), row(b"b")],
        vec![row(b"b"), row(b"b")],
        vec![BackupRow { key: &large, ..row(b"") }],
        vec![BackupRow { version: 0, ..row(b"b") }],
        vec![BackupRow { version: u64::MAX, ..row(b"b") }],
        vec![BackupRow { version: limits::BACKUP_REVISION_MAX + 1, ..row(b"b") }],
        vec![BackupRow { create_revision: Revision(0), ..row(b"b") }],
        vec![BackupRow { create_revision: Revision(4), ..row(b"b") }],
        vec![BackupRow { mod_revision: Revision(6), ..row(b"b") }],
    ] {
        assert!(refused(&rows).is_some(), "{rows:?}");
    }
    assert!(take_rows(b"\xff\xff\xff\xff", b"", Revision(5)).is_err());
}

#[test]
fn header_of_a_revision_that_no_store_comes_to_is_refused() {
    let of_revision = |revision| {
        let header = BackupHeader { origin: ORIGIN, revision: Revision(revision), keys: 0 };
        let (mut bytes, encoded) = (Vec::new(), postcard::to_stdvec(&header).unwrap());
        ChunkWriter::begin(&mut bytes, MAGIC, VERSION, &encoded).unwrap().finish().unwrap();
        decode([&bytes[..]])
    };
    assert!(of_revision(limits::BACKUP_REVISION_MAX).is_ok());
    for revision in [limits::BACKUP_REVISION_MAX + 1, u64::MAX] {
        let error = of_revision(revision).unwrap_err();
        assert!(error.to_string().contains(&format!("of revision {revision}")), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn keys_come_back_in_pieces_of_any_size(
        keys in btree_map("[a-z]{1,5}", "[a-z]{0,50}", 0..30), cuts in vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let mut tables = MemTables::default();
        for (key, value) in &keys {
            apply(&mut tables, &put(key, value)).unwrap();
        }
        let whole = written(&tables);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len())).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let parts = decode(cuts.windows(2).map(|cut| &whole[cut[0]..cut[1]])).unwrap();
        let mut found = Vec::new();
        for part in &parts {
            if let Decoded::Chunk { rows, .. } = part {
                for row in take_rows(rows, b"", Revision(u64::MAX)).unwrap() {
                    found.push((row.key.to_vec(), row.value.to_vec()));
                }
            }
        }
        let expected = keys.into_iter().map(|(key, value)| (key.into_bytes(), value.into_bytes()));
        prop_assert!(found.into_iter().eq(expected));
    }
}
