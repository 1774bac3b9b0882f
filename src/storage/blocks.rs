//! Files of checksummed blocks: what snapshots and backups have in common.
//!
//! | part | content |
//! |---|---|
//! | start | magic (8 bytes), version (u32) |
//! | header | block |
//! | chunks | blocks of rows |
//! | trailer | empty block's length (u32 0), checksum (u32), rows (u64), chunks (u64), checksum of the chunks' checksums (u32) |
//!
//! A block is its length (u32), its CRC32C (u32) and its bytes; numbers are little-endian. The trailer
//! shows that nothing is missing at the end, and nothing may follow it. On disk and on the wire: all of
//! it must stay stable.
//!
//! # Tiger Style
//! A chunk has at most [`limits::SNAPSHOT_CHUNK_MAX_BYTES`], unless it is a single larger row, and none
//! that is read has more than [`limits::SNAPSHOT_CHUNK_READ_MAX_BYTES`].

use std::io::{self, Read, Write};

use crate::limits;

/// What such a file begins with.
pub(super) type Magic = [u8; 8];

const TRAILER_CONTENT_BYTES: usize = 20;

/// Length of the trailer.
pub(crate) const TRAILER_BYTES: usize = 2 * size_of::<u32>() + TRAILER_CONTENT_BYTES;

/// Length of the start: magic and version.
pub(super) const START_BYTES: usize = size_of::<Magic>() + size_of::<u32>();

/// Length and checksum in front of a block.
pub(super) const BLOCK_HEAD_BYTES: usize = 2 * size_of::<u32>();

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block in front.
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

/// Why a file cannot be read on.
#[derive(Debug)]
pub enum BlockError {
    /// It begins with something else.
    Foreign,
    /// Another version of Aspen made it.
    Version {
        /// The version of the file's format.
        found: u32,
        /// The one that is known here.
        known: u32,
    },
    /// It ends too early.
    Truncated,
    /// A checksum does not match.
    Checksum(Part),
    /// The checksums match, but the content makes no sense.
    Malformed(Part, String),
    /// The operating system refused.
    Io(io::Error),
}

impl BlockError {
    /// The error in a sentence about a file that is a `kind`.
    pub(super) fn of(&self, kind: &str) -> String {
        match self {
            Self::Foreign => format!("this is no {kind} of Aspen's"),
            Self::Version { found, known } => format!(
                "the {kind} has format {found}, and this program knows format {known} only: use the Aspen that made it, or a newer one"
            ),
            Self::Truncated => {
                format!("the {kind} ends in the middle: it was not written or transferred to its end")
            }
            Self::Checksum(part) => {
                format!("the {kind}'s {part} fails its checksum: it was altered, or is damaged")
            }
            Self::Malformed(part, reason) => format!("the {kind}'s {part} is malformed: {reason}"),
            Self::Io(error) => format!("reading the {kind} failed: {error}"),
        }
    }

    pub(super) fn malformed(part: Part, reason: impl Into<String>) -> Self {
        Self::Malformed(part, reason.into())
    }
}

/// Totals of what was written or read, which the trailer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) rows: u64,
    pub(super) chunks: u64,
    pub(super) checksum: u32,
}

impl Totals {
    pub(super) fn add_chunk(&mut self, checksum: u32) {
        self.chunks += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &checksum.to_le_bytes());
    }

    pub(super) fn encode(self) -> [u8; TRAILER_CONTENT_BYTES] {
        let mut content = [0; TRAILER_CONTENT_BYTES];
        content[..8].copy_from_slice(&self.rows.to_le_bytes());
        content[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        content[16..].copy_from_slice(&self.checksum.to_le_bytes());
        content
    }
}

/// Writes such a file row by row.
pub(super) struct ChunkWriter<'o, W> {
    out: &'o mut W,
    chunk: Vec<u8>,
    totals: Totals,
}

impl<'o, W: Write> ChunkWriter<'o, W> {
    /// Writes the start and the header.
    pub(super) fn begin(out: &'o mut W, magic: Magic, version: u32, header: &[u8]) -> io::Result<Self> {
        out.write_all(&magic)?;
        out.write_all(&version.to_le_bytes())?;
        write_block(out, header)?;
        let chunk = Vec::with_capacity(limits::SNAPSHOT_CHUNK_MAX_BYTES);
        Ok(Self { out, chunk, totals: Totals::default() })
    }

    /// Adds a row of so many bytes, which `encode` appends.
    pub(super) fn push(&mut self, row_bytes: usize, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        if self.chunk.len() + row_bytes > limits::SNAPSHOT_CHUNK_MAX_BYTES {
            self.end_chunk()?;
        }
        let before = self.chunk.len();
        encode(&mut self.chunk);
        debug_assert_eq!(self.chunk.len() - before, row_bytes, "a row is as long as it was said to be");
        self.totals.rows += 1;
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.totals.add_chunk(write_block(self.out, &self.chunk)?);
            self.chunk.clear();
        }
        Ok(())
    }

    /// Writes what is left, and the trailer.
    pub(super) fn finish(mut self) -> io::Result<Totals> {
        self.end_chunk()?;
        let content = self.totals.encode();
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&content).to_le_bytes())?;
        self.out.write_all(&content)?;
        Ok(self.totals)
    }
}

pub(super) fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<u32> {
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

/// Appends bytes with their length in front.
pub(super) fn push_bytes(chunk: &mut Vec<u8>, bytes: &[u8]) {
    chunk.extend_from_slice(&length(bytes).to_le_bytes());
    chunk.extend_from_slice(bytes);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys, values and chunks are far below 4 GiB")
}

/// Takes bytes with their length in front.
pub(super) fn take_bytes<'c>(rest: &mut &'c [u8]) -> Result<&'c [u8], String> {
    let (length, behind) = rest.split_first_chunk().ok_or("a row is cut off")?;
    let (bytes, behind) =
        behind.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a row is cut off")?;
    *rest = behind;
    Ok(bytes)
}

/// Reads the start, which must be this one.
pub(super) fn read_start(input: &mut impl Read, magic: Magic, version: u32) -> Result<(), BlockError> {
    let mut found = Magic::default();
    read_exact(input, &mut found)?;
    if found != magic {
        return Err(BlockError::Foreign);
    }
    match read_u32(input)? {
        found if found == version => Ok(()),
        found => Err(BlockError::Version { found, known: version }),
    }
}

/// Reads the start and the header.
pub(super) fn read_header(input: &mut impl Read, magic: Magic, version: u32) -> Result<Vec<u8>, BlockError> {
    read_start(input, magic, version)?;
    let header = read_block(input, Part::Header)?;
    header.map(|(_, header)| header).ok_or_else(|| BlockError::malformed(Part::Header, "it is empty"))
}

/// A block with its checksum, which holds; none where the length is 0: the trailer is next.
pub(super) fn read_block(input: &mut impl Read, part: Part) -> Result<Option<(u32, Vec<u8>)>, BlockError> {
    let length = read_u32(input)? as usize;
    if length == 0 {
        return Ok(None);
    }
    if length > limits::SNAPSHOT_CHUNK_READ_MAX_BYTES {
        return Err(BlockError::malformed(part, format!("it claims to have {length} bytes")));
    }
    let checksum = read_u32(input)?;
    let mut block = vec![0; length];
    read_exact(input, &mut block)?;
    if crc32c::crc32c(&block) != checksum {
        return Err(BlockError::Checksum(part));
    }
    Ok(Some((checksum, block)))
}

/// Reads the rest of the trailer, whose first field was the length that ended the chunks. Its totals must
/// be those of what was read, and nothing may follow it.
pub(super) fn read_trailer(input: &mut impl Read, totals: Totals) -> Result<(), BlockError> {
    let mut trailer = [0; TRAILER_BYTES];
    read_exact(input, &mut trailer[size_of::<u32>()..])?;
    if check_trailer(&trailer)? != totals {
        return Err(BlockError::malformed(Part::Trailer, "its totals are not those of the chunks"));
    }
    match input.read(&mut [0]).map_err(BlockError::Io)? {
        0 => Ok(()),
        _ => Err(BlockError::malformed(Part::Trailer, "bytes follow it")),
    }
}

/// Checks that bytes are a trailer, and gives what it says.
pub(super) fn check_trailer(trailer: &[u8; TRAILER_BYTES]) -> Result<Totals, BlockError> {
    let field =
        |from: usize| -> [u8; 4] { trailer[from..from + 4].try_into().expect("the range has four bytes") };
    let wide =
        |from: usize| -> [u8; 8] { trailer[from..from + 8].try_into().expect("the range has eight bytes") };
    if field(0) != [0; 4] || u32::from_le_bytes(field(4)) != crc32c::crc32c(&trailer[8..]) {
        return Err(BlockError::Checksum(Part::Trailer));
    }
    Ok(Totals {
        rows: u64::from_le_bytes(wide(8)),
        chunks: u64::from_le_bytes(wide(16)),
        checksum: u32::from_le_bytes(field(24)),
    })
}

fn read_u32(input: &mut impl Read) -> Result<u32, BlockError> {
    let mut number = [0; 4];
    read_exact(input, &mut number)?;
    Ok(u32::from_le_bytes(number))
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), BlockError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BlockError::Truncated,
        _ => BlockError::Io(error),
    })
}
