//! A state whose data stands in pages, some of which are in the wrong place.

use std::ops::Bound;
use std::vec;

use super::*;
use crate::storage::head::Revisions;
use crate::storage::record::seal;
use crate::storage::tables::{MemTables, RowBounds};

/// Pages of the data.
pub(crate) const PAGES: usize = 6;
const ROWS_OF_A_PAGE: usize = 10;

type Pair = (Vec<u8>, Vec<u8>);
type Row<'a> = Result<(&'a [u8], &'a [u8]), StateError>;

/// The data is one level of pages. The search goes by the keys that each place should hold, as in a branch
/// page of which only the numbers of its children are damaged.
pub(crate) struct Misplaced {
    rest: MemTables,
    pages: Vec<Vec<Pair>>,
    /// The page in each place.
    places: Vec<usize>,
}

fn row(number: usize) -> Pair {
    let key = format!("key-{number:03}").into_bytes();
    let changed = Change { revision: Revision(1), sub: 0 };
    let live = Live { create_revision: Revision(1), changed, version: 1, lease: 0 };
    let sealed = seal(Table::Data, &key, &live, &[7; 40]);
    (key, sealed)
}

impl Misplaced {
    /// Each page in its place.
    pub(crate) fn none() -> Self {
        let revisions = Revisions { current: Revision(1), compacted: Revision(1) };
        let mut rest = MemTables::default();
        Head { revisions, ..Head::default() }.store(&mut rest).unwrap();
        let rows: Vec<Pair> = (0..PAGES * ROWS_OF_A_PAGE).map(row).collect();
        let pages = rows.chunks(ROWS_OF_A_PAGE).map(<[Pair]>::to_vec).collect();
        Self { rest, pages, places: (0..PAGES).collect() }
    }

    /// A page in the place of another.
    pub(crate) fn page(place: usize, page: usize) -> Self {
        let mut tables = Self::none();
        tables.places[place] = page;
        tables
    }

    /// A page as it was before its last row but one was written.
    pub(crate) fn older_page(place: usize) -> Self {
        let mut tables = Self::none();
        let mut older = tables.pages[place].clone();
        older.remove(ROWS_OF_A_PAGE - 2);
        tables.places[place] = tables.pages.len();
        tables.pages.push(older);
        tables
    }

    /// All rows as a scan meets them, and how many of them a search puts in front of those that are `before`.
    fn search(&self, is_before: impl Fn(&[u8]) -> bool) -> (Vec<&Pair>, usize) {
        let should = self.pages[..PAGES].iter().position(|page| !is_before(&page[ROWS_OF_A_PAGE - 1].0));
        let place = should.unwrap_or(PAGES - 1);
        let rows = |places: &[usize]| places.iter().flat_map(|page| &self.pages[*page]).collect::<Vec<_>>();
        let here = &self.pages[self.places[place]];
        let at = rows(&self.places[..place]).len() + here.partition_point(|(key, _)| is_before(key));
        (rows(&self.places), at)
    }
}

/// A scan from either end, each of which stops at the first key that is beyond the other.
pub(crate) struct Scan<'a> {
    forth: vec::IntoIter<Row<'a>>,
    back: vec::IntoIter<Row<'a>>,
}

impl<'a> Iterator for Scan<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        self.forth.next()
    }
}

impl DoubleEndedIterator for Scan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.back.next()
    }
}

fn scan<'a>(rows: impl Iterator<Item = &'a Pair>) -> vec::IntoIter<Row<'a>> {
    rows.map(|(key, value)| Ok((&key[..], &value[..]))).collect::<Vec<_>>().into_iter()
}

impl ReadTables for Misplaced {
    type Slice<'a> = &'a [u8];
    type Rows<'a> = Scan<'a>;

    fn get<'a>(&'a self, table: Table, key: &[u8]) -> Result<Option<&'a [u8]>, StateError> {
        if table != Table::Data {
            return self.rest.get(table, key);
        }
        let (rows, at) = self.search(|other| other < key);
        Ok(rows.get(at).filter(|(found, _)| found == key).map(|(_, value)| &value[..]))
    }

    fn rows<'a>(&'a self, table: Table, bounds: RowBounds<'_>) -> Result<Scan<'a>, StateError> {
        if table != Table::Data {
            let forth: Vec<Row<'a>> = self.rest.rows(table, bounds)?.collect();
            return Ok(Scan { forth: forth.into_iter(), back: Vec::new().into_iter() });
        }
        let is_below = |key: &[u8]| match bounds.0 {
            Bound::Included(from) => key < from,
            Bound::Excluded(from) => key <= from,
            Bound::Unbounded => false,
        };
        let is_above = |key: &[u8]| match bounds.1 {
            Bound::Included(to) => key > to,
            Bound::Excluded(to) => key >= to,
            Bound::Unbounded => false,
        };
        let (rows, start) = self.search(is_below);
        let end = match bounds.1 {
            Bound::Unbounded => rows.len(),
            _ => self.search(|key| !is_above(key)).1,
        };
        Ok(Scan {
            forth: scan(rows[start..].iter().copied().take_while(|(key, _)| !is_above(key))),
            back: scan(rows[..end].iter().rev().copied().take_while(|(key, _)| !is_below(key))),
        })
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        if table == Table::Data { Ok((PAGES * ROWS_OF_A_PAGE) as u64) } else { self.rest.count(table) }
    }
}
