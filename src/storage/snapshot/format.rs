//! The form of a snapshot: all rows of all tables, in order, in [blocks].
//!
//! The header is the snapshot's metadata in postcard. A row is its table (u8), key length (u32), key,
//! value length (u32) and value.
//!
//! # Tiger Style
//! Rows grow strictly by table and key, so a row cannot be there twice.

use std::io::{self, Read, Write};
use std::ops::Bound;

#[cfg(madsim)]
use crate::planted::{Bug, has};
use crate::raft::types::SnapshotMeta;
pub(crate) use crate::storage::blocks::TRAILER_BYTES;
use crate::storage::blocks::{self, BlockError, ChunkWriter, Magic, Part, Totals};
use crate::storage::state_check::RowOrder;
use crate::storage::tables::{ReadTables, StateError, Table};
use crate::storage::{head, record};

// On disk and on the wire: they must stay stable.
const MAGIC: Magic = *b"ASPENSNP";
const VERSION: u32 = 1;

/// Why bytes are no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They are no blocks of a snapshot, or not all of them.
    #[error("{}", .0.of("snapshot"))]
    Blocks(BlockError),
    /// The content is that of another state.
    #[error("the snapshot holds the state at {found}, but it was announced as that at {announced}")]
    OtherState {
        /// The state found.
        found: Box<SnapshotMeta>,
        /// The state announced.
        announced: Box<SnapshotMeta>,
    },
    /// Storing a row failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<BlockError> for SnapshotError {
    fn from(error: BlockError) -> Self {
        Self::Blocks(error)
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Blocks(BlockError::Io(error)) => error,
            SnapshotError::State(error) => error.into(),
            damaged => Self::new(io::ErrorKind::InvalidData, damaged),
        }
    }
}

/// Writes all rows of a state. Each one's checksum is looked at, and none is missing: damage must not spread to
/// the nodes that get the snapshot.
pub(crate) fn write(tables: &impl ReadTables, out: &mut impl Write) -> io::Result<SnapshotMeta> {
    let meta = head::snapshot_meta(tables)?;
    #[cfg(madsim)]
    let meta = match has(Bug::SnapshotWithoutMembership) {
        true => SnapshotMeta { last_membership: Default::default(), ..meta },
        false => meta,
    };
    let header = postcard::to_stdvec(&meta).expect("metadata has only types that postcard can encode");
    let mut chunks = ChunkWriter::begin(out, MAGIC, VERSION, &header)?;
    for table in Table::ALL {
        let mut order = RowOrder::begin(table);
        for row in tables.rows(table, (Bound::Unbounded, Bound::Unbounded))? {
            let (key, value) = row?;
            record::check_row(table, &key, &value)?;
            order.next(&key)?;
            #[cfg(madsim)]
            if has(Bug::SnapshotWithoutMembership) && *key == *head::MEMBERSHIP {
                continue;
            }
            chunks.push(1 + 2 * size_of::<u32>() + key.len() + value.len(), |chunk| {
                chunk.push(table.id());
                blocks::push_bytes(chunk, &key);
                blocks::push_bytes(chunk, &value);
            })?;
        }
        order.ensure_all(tables)?;
    }
    chunks.finish()?;
    Ok(meta)
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
        let Some((checksum, chunk)) = blocks::read_block(&mut self.input, part)? else {
            blocks::read_trailer(&mut self.input, self.totals)?;
            return Ok(None);
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
}

/// Reads the start of a snapshot alone.
pub(crate) fn read_meta(input: &mut impl Read) -> Result<SnapshotMeta, SnapshotError> {
    let header = blocks::read_header(input, MAGIC, VERSION)?;
    postcard::from_bytes(&header).map_err(|error| malformed(Part::Header, error.to_string()))
}

/// Refuses a snapshot of another state than was announced.
pub(crate) fn ensure_same(found: SnapshotMeta, announced: &SnapshotMeta) -> Result<(), SnapshotError> {
    if found == *announced {
        return Ok(());
    }
    Err(SnapshotError::OtherState { found: Box::new(found), announced: Box::new(announced.clone()) })
}

/// Checks that the last bytes of a snapshot are a trailer.
pub(crate) fn has_trailer(last: &[u8; TRAILER_BYTES]) -> Result<(), SnapshotError> {
    blocks::check_trailer(last)?;
    Ok(())
}

pub(crate) type Row<'c> = (Table, &'c [u8], &'c [u8]);

pub(crate) fn take_row<'c>(rest: &mut &'c [u8]) -> Result<Row<'c>, String> {
    let (&table, behind) = rest.split_first().ok_or("a row is cut off")?;
    *rest = behind;
    let table = Table::from_id(table).ok_or_else(|| format!("table {table} is not known here"))?;
    Ok((table, blocks::take_bytes(rest)?, blocks::take_bytes(rest)?))
}

fn malformed(part: Part, reason: impl Into<String>) -> SnapshotError {
    BlockError::malformed(part, reason).into()
}
