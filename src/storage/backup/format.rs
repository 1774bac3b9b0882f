//! The form of a backup: a header that says what it is a backup of, and rows in [blocks].
//!
//! The header is a [`BackupHeader`] in postcard. A row is key length (u32), key, revision of creation
//! (u64), revision of the last change (u64), version (u64), lease (u64), value length (u32) and value;
//! numbers are little-endian.
//!
//! # Tiger Style
//! Keys grow strictly, so none is there twice. Of a file that is decoded no more than one block and one
//! piece of input are in memory.

use std::io::{self, Write};
use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::kv::types::{BackupOrigin, BackupTotals, Revision, ensure_reached};
use crate::limits;
use crate::storage::blocks::{self, BLOCK_HEAD_BYTES, BlockError, ChunkWriter, Magic, Part, Totals};
use crate::storage::head::Revisions;
use crate::storage::record::{self, Live};
use crate::storage::tables::{ReadTables, StateError, Table};

// On people's disks: they must stay stable.
const MAGIC: Magic = *b"ASPENBAK";
const VERSION: u32 = 1;

/// Bytes of the numbers in a row: two lengths, and four of the key's record.
const ROW_NUMBERS_BYTES: usize = 2 * size_of::<u32>() + 4 * size_of::<u64>();

const _: () = assert!(
    limits::KEY_MAX_BYTES + limits::VALUE_MAX_BYTES + ROW_NUMBERS_BYTES + limits::RESTORE_STEP_OVERHEAD_BYTES
        <= limits::COMMAND_MAX_BYTES
);

/// What a backup says about itself. It must stay stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Where and when it was made.
    pub origin: BackupOrigin,
    /// The revision that it holds.
    pub revision: Revision,
    /// The keys in it.
    pub keys: u64,
}

/// Why bytes are no backup that can be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.of("backup"))]
pub struct BackupError(BlockError);

impl From<BlockError> for BackupError {
    fn from(error: BlockError) -> Self {
        Self(error)
    }
}

/// Writes the live keys of a state.
pub(crate) fn write(tables: &impl ReadTables, origin: BackupOrigin, out: &mut impl Write) -> io::Result<()> {
    let revision = Revisions::load(tables)?.current;
    let header = BackupHeader { origin, revision, keys: tables.count(Table::Data)? };
    let encoded = postcard::to_stdvec(&header).expect("a header has only types that postcard can encode");
    let mut chunks = ChunkWriter::begin(out, MAGIC, VERSION, &encoded)?;
    for row in tables.rows(Table::Data, (Bound::Unbounded, Bound::Unbounded))? {
        let (key, sealed) = row?;
        let (live, value): (Live, _) = record::unseal_open(Table::Data, &key, &sealed)?;
        let row = BackupRow {
            key: &key,
            create_revision: live.create_revision,
            mod_revision: live.changed.revision,
            version: live.version,
            lease: live.lease,
            value,
        };
        chunks.push(row.bytes(), |chunk| row.encode(chunk))?;
    }
    let written = chunks.finish()?;
    if written.rows != header.keys {
        let (expected, found) = (header.keys, written.rows);
        return Err(StateError::Rows { table: Table::Data, expected, found }.into());
    }
    Ok(())
}

/// A key in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackupRow<'c> {
    pub(crate) key: &'c [u8],
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: u64,
    pub(crate) value: &'c [u8],
}

impl<'c> BackupRow<'c> {
    fn bytes(&self) -> usize {
        ROW_NUMBERS_BYTES + self.key.len() + self.value.len()
    }

    pub(crate) fn encode(&self, chunk: &mut Vec<u8>) {
        blocks::push_bytes(chunk, self.key);
        for number in [self.create_revision.0, self.mod_revision.0, self.version, self.lease] {
            chunk.extend_from_slice(&number.to_le_bytes());
        }
        blocks::push_bytes(chunk, self.value);
    }

    fn take(rest: &mut &'c [u8]) -> Result<Self, String> {
        let key = blocks::take_bytes(rest)?;
        let mut number = || -> Result<u64, String> {
            let (number, behind) = rest.split_first_chunk().ok_or("a row is cut off")?;
            *rest = behind;
            Ok(u64::from_le_bytes(*number))
        };
        let (create_revision, mod_revision) = (Revision(number()?), Revision(number()?));
        let (version, lease) = (number()?, number()?);
        let value = blocks::take_bytes(rest)?;
        Ok(Self { key, create_revision, mod_revision, version, lease, value })
    }

    /// Checks what must hold for a key of a store at `revision`, behind the key `last`.
    fn check(&self, last: &[u8], revision: Revision) -> Result<(), String> {
        let key = self.key.escape_ascii();
        if self.key.is_empty() || self.key.len() > limits::KEY_MAX_BYTES {
            return Err(format!("it holds a key of {} bytes", self.key.len()));
        }
        if self.key <= last {
            return Err(format!("the key {key} does not come after the one before it"));
        }
        if self.value.len() > limits::VALUE_MAX_BYTES {
            return Err(format!("the value of {key} has {} bytes", self.value.len()));
        }
        let (created, changed) = (self.create_revision, self.mod_revision);
        // Each further write adds one to it.
        let version = 1..=limits::BACKUP_REVISION_MAX;
        if !version.contains(&self.version) || created.0 == 0 || created > changed || changed > revision {
            return Err(format!(
                "version {} of {key}, created at revision {created} and changed at {changed}, cannot be in a store at revision {revision}",
                self.version
            ));
        }
        Ok(())
    }
}

/// The next row of a chunk.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn take_row<'c>(rows: &mut &'c [u8]) -> Result<BackupRow<'c>, String> {
    BackupRow::take(rows)
}

/// The rows of a chunk, which come behind the key `last` in a backup of `revision`. It takes all or says
/// what is wrong with them.
pub(crate) fn take_rows<'c>(
    mut rows: &'c [u8],
    last: &[u8],
    revision: Revision,
) -> Result<Vec<BackupRow<'c>>, String> {
    let mut taken: Vec<BackupRow<'c>> = Vec::new();
    while !rows.is_empty() {
        let row = BackupRow::take(&mut rows)?;
        row.check(taken.last().map_or(last, |row| row.key), revision)?;
        taken.push(row);
    }
    if taken.is_empty() { Err("it has no rows".to_owned()) } else { Ok(taken) }
}

/// A part of a backup whose checksum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// What it is a backup of.
    Header(BackupHeader),
    /// Some of its keys.
    Chunk {
        /// Counted from 0.
        number: u64,
        /// CRC32C of the rows.
        checksum: u32,
        /// How many there are.
        keys: u64,
        /// The rows.
        rows: Bytes,
    },
    /// All of it was there.
    End(BackupTotals),
}

/// Takes a backup in, piece by piece as it comes, and checks all of it.
#[derive(Debug, Default)]
pub struct BackupDecoder {
    input: BytesMut,
    header: Option<BackupHeader>,
    totals: Totals,
    last_key: Vec<u8>,
    has_ended: bool,
}

impl BackupDecoder {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next part; none where more bytes are needed.
    ///
    /// # Errors
    /// [`BackupError`], if the bytes so far are not those of a backup.
    pub fn next_part(&mut self) -> Result<Option<Decoded>, BackupError> {
        if self.has_ended {
            return self.finish().map(|()| None);
        }
        let Some(length) = self.next_length()? else { return Ok(None) };
        let part = self.input.split_to(length);
        let Some(header) = self.header else {
            let header = read_header(&part)?;
            self.header = Some(header);
            return Ok(Some(Decoded::Header(header)));
        };
        self.decode_block(header, &part).map(Some)
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`BackupError`], unless all of it was there; and where more than that was.
    pub fn finish(&self) -> Result<(), BackupError> {
        if self.header.is_none() && !MAGIC.starts_with(&self.input[..self.input.len().min(MAGIC.len())]) {
            return Err(BlockError::Foreign.into());
        }
        match (self.has_ended, self.input.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(BlockError::malformed(Part::Trailer, "bytes follow it").into()),
            (false, _) => Err(BlockError::Truncated.into()),
        }
    }

    /// Length of the next part, once it is there as a whole.
    fn next_length(&self) -> Result<Option<usize>, BackupError> {
        let (part, before) = match self.header {
            None => (Part::Header, blocks::START_BYTES),
            Some(_) => (Part::Chunk(self.totals.chunks), 0),
        };
        if self.input.len() < before + size_of::<u32>() {
            return Ok(None);
        }
        if before > 0 {
            blocks::read_start(&mut &self.input[..], MAGIC, VERSION)?;
        }
        let length = *self.input[before..].first_chunk().expect("its length was looked at");
        let length = match u32::from_le_bytes(length) as usize {
            0 => before + blocks::TRAILER_BYTES,
            length if length > limits::SNAPSHOT_CHUNK_READ_MAX_BYTES => {
                return Err(BlockError::malformed(part, format!("it claims to have {length} bytes")).into());
            }
            length => before + BLOCK_HEAD_BYTES + length,
        };
        Ok((self.input.len() >= length).then_some(length))
    }

    fn decode_block(&mut self, header: BackupHeader, mut block: &[u8]) -> Result<Decoded, BackupError> {
        let number = self.totals.chunks;
        let part = Part::Chunk(number);
        let Some((checksum, rows)) = blocks::read_block(&mut block, part)? else {
            blocks::read_trailer(&mut block, self.totals)?;
            let Totals { rows: keys, chunks, checksum } = self.totals;
            if keys != header.keys {
                let reason = format!("the header counts {} keys, and there are {keys}", header.keys);
                return Err(BlockError::malformed(Part::Trailer, reason).into());
            }
            self.has_ended = true;
            return Ok(Decoded::End(BackupTotals { keys, chunks, checksum }));
        };
        let taken = take_rows(&rows, &self.last_key, header.revision);
        let taken = taken.map_err(|reason| BlockError::malformed(part, reason))?;
        let keys = taken.len() as u64;
        let last = taken.last().map(|row| row.key.to_vec());
        self.last_key = last.expect("a chunk has rows");
        self.totals.add_chunk(checksum);
        self.totals.rows += keys;
        Ok(Decoded::Chunk { number, checksum, keys, rows: rows.into() })
    }
}

fn read_header(mut part: &[u8]) -> Result<BackupHeader, BackupError> {
    let encoded = blocks::read_header(&mut part, MAGIC, VERSION)?;
    match postcard::take_from_bytes::<BackupHeader>(&encoded) {
        Ok((header, [])) => match ensure_reached(header.revision) {
            Ok(()) => Ok(header),
            Err(reason) => Err(BlockError::malformed(Part::Header, reason).into()),
        },
        Ok(_) => Err(BlockError::malformed(Part::Header, "bytes are left over").into()),
        Err(error) => Err(BlockError::malformed(Part::Header, error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests;
