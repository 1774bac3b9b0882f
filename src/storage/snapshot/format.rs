//! The form of a snapshot: all rows of all tables, in order, under checksums.
//!
//! | part | content |
//! |---|---|
//! | start | magic, version (u32) |
//! | header | block: the snapshot's metadata in postcard |
//! | chunks | blocks: rows, each table (u8), key length (u32), key, value length (u32), value |
//! | trailer | empty block's length (u32 0), checksum (u32), rows (u64), chunks (u64), checksum of the chunks' checksums (u32) |
//!
//! A block is its length (u32), its CRC32C (u32) and its bytes; numbers are little-endian. The trailer
//! shows that nothing is missing at the end, and nothing may follow it.
//!
//! # Tiger Style
//! A chunk has at most [`limits::SNAPSHOT_CHUNK_MAX_BYTES`], unless it is a single larger row. Rows grow
//! strictly by table and key, so a row cannot be there twice.

use std::io::{self, Read, Write};
use std::ops::Bound;

use crate::limits;
#[cfg(madsim)]
use crate::planted::{Bug, has};
use crate::raft::types::SnapshotMeta;
use crate::storage::tables::{ReadTables, StateError, Table};
use crate::storage::{head, record};

// On disk and on the wire: they must stay stable.
const MAGIC: [u8; 8] = *b"ASPENSNP";
const VERSION: u32 = 1;
const TRAILER_CONTENT_BYTES: usize = 20;

/// Length of the trailer, at the end of every snapshot.
pub(crate) const TRAILER_BYTES: usize = 2 * size_of::<u32>() + TRAILER_CONTENT_BYTES;

/// Why bytes are no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They begin with something else.
    #[error("this is no snapshot of Aspen's")]
    Foreign,
    /// A newer node made it.
    #[error("the snapshot has format {found}, but this node knows format {VERSION} only: upgrade it")]
    Version {
        /// The version found.
        found: u32,
    },
    /// They end too early.
    #[error("the snapshot ends in the middle: it was not transferred or written to its end")]
    Truncated,
    /// A checksum does not match.
    #[error("the snapshot's {part} fails its checksum: it is damaged")]
    Checksum {
        /// Which part.
        part: Part,
    },
    /// The checksums match, but the content makes no sense.
    #[error("the snapshot's {part} is malformed: {reason}")]
    Malformed {
        /// Which part.
        part: Part,
        /// What is wrong.
        reason: String,
    },
    /// The content is that of another state.
    #[error("the snapshot holds the state at {found}, but it was announced as that at {announced}")]
    OtherState {
        /// The state found.
        found: Box<SnapshotMeta>,
        /// The state announced.
        announced: Box<SnapshotMeta>,
    },
    /// Reading failed.
    #[error("reading the snapshot failed: {0}")]
    Io(io::Error),
    /// Storing a row failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io(error) => error,
            SnapshotError::State(error) => error.into(),
            damaged => Self::new(io::ErrorKind::InvalidData, damaged),
        }
    }
}

/// A part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The metadata in front.
    Header,
    /// A chunk, counted from 0.
    Chunk(u64),
    /// The totals behind.
    Trailer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Chunk(number) => write!(f, "chunk {number}"),
            Self::Trailer => f.write_str("trailer"),
        }
    }
}

/// Totals of what was written or read, which the trailer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    rows: u64,
    chunks: u64,
    checksum: u32,
}

impl Totals {
    fn add_chunk(&mut self, checksum: u32) {
        self.chunks += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &checksum.to_le_bytes());
    }

    fn encode(self) -> [u8; TRAILER_CONTENT_BYTES] {
        let mut content = [0; TRAILER_CONTENT_BYTES];
        content[..8].copy_from_slice(&self.rows.to_le_bytes());
        content[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        content[16..].copy_from_slice(&self.checksum.to_le_bytes());
        content
    }
}

/// Writes all rows of a state, each of whose checksums is looked at.
pub(crate) fn write(tables: &impl ReadTables, out: &mut impl Write) -> io::Result<SnapshotMeta> {
    let meta = head::snapshot_meta(tables)?;
    #[cfg(madsim)]
    let meta = match has(Bug::SnapshotWithoutMembership) {
        true => SnapshotMeta { last_membership: Default::default(), ..meta },
        false => meta,
    };
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    let header = postcard::to_stdvec(&meta).expect("metadata has only types that postcard can encode");
    write_block(out, &header)?;

    let mut totals = Totals::default();
    let mut chunk = Vec::with_capacity(limits::SNAPSHOT_CHUNK_MAX_BYTES);
    for table in Table::ALL {
        for row in tables.rows(table, (Bound::Unbounded, Bound::Unbounded))? {
            let (key, value) = row?;
            // Damage must not spread to the nodes that get the snapshot.
            record::check_row(table, &key, &value)?;
            #[cfg(madsim)]
            if has(Bug::SnapshotWithoutMembership) && *key == *head::MEMBERSHIP {
                continue;
            }
            let row_bytes = 1 + 2 * size_of::<u32>() + key.len() + value.len();
            if !chunk.is_empty() && chunk.len() + row_bytes > limits::SNAPSHOT_CHUNK_MAX_BYTES {
                totals.add_chunk(write_block(out, &chunk)?);
                chunk.clear();
            }
            chunk.push(table.id());
            push_bytes(&mut chunk, &key);
            push_bytes(&mut chunk, &value);
            totals.rows += 1;
        }
    }
    if !chunk.is_empty() {
        totals.add_chunk(write_block(out, &chunk)?);
    }
    let content = totals.encode();
    out.write_all(&0_u32.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(&content).to_le_bytes())?;
    out.write_all(&content)?;
    Ok(meta)
}

fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<u32> {
    assert!(
        !block.is_empty() && block.len() <= limits::SNAPSHOT_CHUNK_READ_MAX_BYTES,
        "a block of {} bytes could not be read back",
        block.len()
    );
    let checksum = crc32c::crc32c(block);
    out.write_all(&length(block).to_le_bytes())?;
    out.write_all(&checksum.to_le_bytes())?;
    out.write_all(block)?;
    Ok(checksum)
}

fn push_bytes(chunk: &mut Vec<u8>, bytes: &[u8]) {
    chunk.extend_from_slice(&length(bytes).to_le_bytes());
    chunk.extend_from_slice(bytes);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys, values and chunks are far below 4 GiB")
}

/// Reads a snapshot to its end, every checksum of it, and shows each row to `visit`.
pub(crate) fn read(
    input: impl Read,
    mut visit: impl FnMut(Table, &[u8], &[u8]) -> Result<(), StateError>,
) -> Result<SnapshotMeta, SnapshotError> {
    let mut check = SnapshotCheck::begin(input)?;
    while check.next_chunk(&mut visit)?.is_some() {}
    Ok(check.meta)
}

/// A snapshot that is read and checked chunk by chunk. It is whole only if all of it was read.
pub(crate) struct SnapshotCheck<R> {
    input: R,
    meta: SnapshotMeta,
    totals: Totals,
    last: Option<(Table, Vec<u8>)>,
}

impl<R: Read> SnapshotCheck<R> {
    /// Reads the start.
    pub(crate) fn begin(mut input: R) -> Result<Self, SnapshotError> {
        let meta = read_meta(&mut input)?;
        Ok(Self { input, meta, totals: Totals::default(), last: None })
    }

    /// What it is a snapshot of.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Rows read so far.
    pub(crate) fn rows(&self) -> u64 {
        self.totals.rows
    }

    /// Reads a chunk, shows its rows, and returns its length; at the end it reads the trailer and
    /// returns none.
    pub(crate) fn next_chunk(
        &mut self,
        mut visit: impl FnMut(Table, &[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<Option<usize>, SnapshotError> {
        let part = Part::Chunk(self.totals.chunks);
        let Some((checksum, chunk)) = read_block(&mut self.input, part)? else {
            return self.read_trailer().map(|()| None);
        };
        self.totals.add_chunk(checksum);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let (table, key, value) = take_row(&mut rest).map_err(|reason| malformed(part, reason))?;
            let grows = self.last.as_ref().is_none_or(|(last, bytes)| (*last, &bytes[..]) < (table, key));
            if !grows {
                return Err(malformed(part, "its rows are not in order"));
            }
            self.last = Some((table, key.to_vec()));
            visit(table, key, value)?;
            self.totals.rows += 1;
        }
        Ok(Some(chunk.len()))
    }

    fn read_trailer(&mut self) -> Result<(), SnapshotError> {
        // The length that stood for the end of the chunks is the trailer's first field.
        let mut trailer = [0; TRAILER_BYTES];
        read_exact(&mut self.input, &mut trailer[size_of::<u32>()..])?;
        if check_trailer(&trailer)? != self.totals {
            return Err(malformed(Part::Trailer, "its totals are not those of the chunks"));
        }
        match self.input.read(&mut [0]).map_err(SnapshotError::Io)? {
            0 => Ok(()),
            _ => Err(malformed(Part::Trailer, "bytes follow it")),
        }
    }
}

/// Reads the start of a snapshot alone.
pub(crate) fn read_meta(input: &mut impl Read) -> Result<SnapshotMeta, SnapshotError> {
    let mut magic = [0; MAGIC.len()];
    read_exact(input, &mut magic)?;
    if magic != MAGIC {
        return Err(SnapshotError::Foreign);
    }
    let version = read_u32(input)?;
    if version != VERSION {
        return Err(SnapshotError::Version { found: version });
    }
    let Some((_, header)) = read_block(input, Part::Header)? else {
        return Err(malformed(Part::Header, "it is empty"));
    };
    postcard::from_bytes(&header).map_err(|error| malformed(Part::Header, error.to_string()))
}

/// Checks that the last bytes of a snapshot are a trailer.
pub(crate) fn has_trailer(last: &[u8; TRAILER_BYTES]) -> Result<(), SnapshotError> {
    check_trailer(last).map(drop)
}

fn check_trailer(trailer: &[u8; TRAILER_BYTES]) -> Result<Totals, SnapshotError> {
    let field =
        |from: usize| -> [u8; 4] { trailer[from..from + 4].try_into().expect("the range has four bytes") };
    let wide =
        |from: usize| -> [u8; 8] { trailer[from..from + 8].try_into().expect("the range has eight bytes") };
    if field(0) != [0; 4] || u32::from_le_bytes(field(4)) != crc32c::crc32c(&trailer[8..]) {
        return Err(SnapshotError::Checksum { part: Part::Trailer });
    }
    Ok(Totals {
        rows: u64::from_le_bytes(wide(8)),
        chunks: u64::from_le_bytes(wide(16)),
        checksum: u32::from_le_bytes(field(24)),
    })
}

/// A block with its checksum, which holds; none where the length is 0.
fn read_block(input: &mut impl Read, part: Part) -> Result<Option<(u32, Vec<u8>)>, SnapshotError> {
    let length = read_u32(input)? as usize;
    if length == 0 {
        return Ok(None);
    }
    if length > limits::SNAPSHOT_CHUNK_READ_MAX_BYTES {
        return Err(malformed(part, format!("it claims to have {length} bytes")));
    }
    let checksum = read_u32(input)?;
    let mut block = vec![0; length];
    read_exact(input, &mut block)?;
    if crc32c::crc32c(&block) != checksum {
        return Err(SnapshotError::Checksum { part });
    }
    Ok(Some((checksum, block)))
}

type Row<'c> = (Table, &'c [u8], &'c [u8]);

fn take_row<'c>(rest: &mut &'c [u8]) -> Result<Row<'c>, String> {
    let (&table, behind) = rest.split_first().ok_or("a row is cut off")?;
    *rest = behind;
    let table = Table::from_id(table).ok_or_else(|| format!("table {table} is not known here"))?;
    Ok((table, take_bytes(rest)?, take_bytes(rest)?))
}

fn take_bytes<'c>(rest: &mut &'c [u8]) -> Result<&'c [u8], String> {
    let (length, behind) = rest.split_first_chunk().ok_or("a row is cut off")?;
    let (bytes, behind) =
        behind.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a row is cut off")?;
    *rest = behind;
    Ok(bytes)
}

fn read_u32(input: &mut impl Read) -> Result<u32, SnapshotError> {
    let mut number = [0; 4];
    read_exact(input, &mut number)?;
    Ok(u32::from_le_bytes(number))
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => SnapshotError::Io(error),
    })
}

fn malformed(part: Part, reason: impl Into<String>) -> SnapshotError {
    SnapshotError::Malformed { part, reason: reason.into() }
}
