//! One file: what its readers see, and what the disk may hold of it instead.
//!
//! A write changes what readers see at once. Until a sync, each of its sectors is on disk as it was, or
//! as any write since has left it, whatever the others are. The length is journaled: after a power cut it
//! is one that the file had since the last sync, and with it all that a cut to that length implies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// What a file system allocates.
pub(super) const BLOCK_BYTES: usize = 4096;

type SectorBytes = [u8; SECTOR_BYTES];

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct FileImage {
    now: Vec<u8>,
    /// Sectors that the disk may hold otherwise than `now` does.
    doubtful: BTreeMap<usize, Sector>,
    /// The length on disk, and each since.
    lengths: Vec<Length>,
    /// Grows whenever the file gets shorter.
    era: u32,
    /// Sectors written so far.
    writes: u64,
    blocks: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Length {
    bytes: usize,
    era: u32,
}

#[derive(Clone, Debug)]
struct Sector {
    /// As on disk, then as each write since has left it, but for the last, which is in `now`.
    earlier: Vec<(Stamp, Box<SectorBytes>)>,
    last: Stamp,
    /// Which of the file's writes that was.
    number: u64,
    /// Whether the next sync writes it. It does not if a failed one should have.
    dirty: bool,
}

/// When a sector was written.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    era: u32,
    /// Whether it was cut off: once the disk knows of the shorter length, all before is gone.
    cut_off: bool,
}

/// The chance of what is not synced to be on disk after a power cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survival(pub(super) f64);

impl Survival {
    pub(super) fn keeps(self, rng: &mut Xoshiro256PlusPlus) -> bool {
        rng.random_bool(self.0)
    }
}

/// What became of the sectors that were not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// Written after all, by chance.
    pub kept: u64,
    /// As they were at the last sync.
    pub lost: u64,
}

impl FileImage {
    pub(super) fn empty() -> Self {
        Self {
            now: Vec::new(),
            doubtful: BTreeMap::new(),
            lengths: vec![Length { bytes: 0, era: 0 }],
            era: 0,
            writes: 0,
            blocks: BTreeSet::new(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.now
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    pub(super) fn dirty_sectors(&self) -> usize {
        self.doubtful.values().filter(|sector| sector.dirty).count()
    }

    /// Writes block by block, until a new block exceeds `room`.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], room: Option<u64>) -> io::Result<()> {
        let room =
            room.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES);
        let (mut at, mut rest, mut taken) = (offset, bytes, 0);
        while !rest.is_empty() {
            let block = at / BLOCK_BYTES;
            if !self.blocks.contains(&block) {
                if taken == room {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                taken += 1;
                self.blocks.insert(block);
            }
            let (piece, behind) = rest.split_at(rest.len().min((block + 1) * BLOCK_BYTES - at));
            self.put(at, piece);
            at += piece.len();
            rest = behind;
        }
        Ok(())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.stamp(sector, Stamp { era: self.era, cut_off: false });
        }
        if end > self.now.len() {
            self.set_len(end);
        }
        self.now[at..end].copy_from_slice(bytes);
    }

    /// Keeps a sector as it is now, before it changes.
    fn stamp(&mut self, number: usize, stamp: Stamp) {
        let before = self.sector(number);
        self.writes += 1;
        match self.doubtful.get_mut(&number) {
            None => {
                let earlier = vec![(Stamp::default(), Box::new(before))];
                self.doubtful
                    .insert(number, Sector { earlier, last: stamp, number: self.writes, dirty: true });
            }
            Some(sector) => {
                if sector.dirty {
                    sector.earlier.push((sector.last, Box::new(before)));
                }
                sector.dirty = true;
                sector.last = stamp;
                sector.number = self.writes;
            }
        }
    }

    /// A sector as readers see it, with zeros behind the end.
    fn sector(&self, number: usize) -> SectorBytes {
        let mut sector = [0; SECTOR_BYTES];
        let from = (number * SECTOR_BYTES).min(self.now.len());
        let to = (from + SECTOR_BYTES).min(self.now.len());
        sector[..to - from].copy_from_slice(&self.now[from..to]);
        sector
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let before = self.now.len();
        if len == before {
            return;
        }
        if len < before {
            self.era += 1;
            let stamp = Stamp { era: self.era, cut_off: true };
            for number in len / SECTOR_BYTES..before.div_ceil(SECTOR_BYTES) {
                let is_zero = self.sector(number) == [0; SECTOR_BYTES];
                if !is_zero || self.doubtful.contains_key(&number) {
                    self.stamp(number, stamp);
                }
            }
            self.blocks.retain(|block| block * BLOCK_BYTES < len);
        }
        self.now.resize(len, 0);
        self.lengths.push(Length { bytes: len, era: self.era });
    }

    /// Puts a sector that waits for a sync on disk, whatever came before it. Returns whether an older one still
    /// waits; none if there was none to put. Where the file got shorter since the sync, it leaves that to the next.
    pub(super) fn write_back(&mut self, rng: &mut Xoshiro256PlusPlus) -> Option<bool> {
        let dirty = self.doubtful.iter().filter(|(_, sector)| sector.dirty);
        let dirty: Vec<(usize, u64)> = dirty.map(|(at, sector)| (*at, sector.number)).collect();
        if self.era > 0 || dirty.is_empty() {
            return None;
        }
        let (at, number) = dirty[rng.random_range(0..dirty.len())];
        self.doubtful.remove(&at);
        Some(dirty.iter().any(|(_, other)| *other < number))
    }

    /// Makes everything durable but what a failed sync gave up.
    pub(super) fn sync(&mut self) {
        self.doubtful.retain(|_, sector| !sector.dirty);
        self.lengths.drain(..self.lengths.len() - 1);
        self.lengths[0].era = 0;
        self.era = 0;
    }

    /// A sync that failed. Its sectors reached the disk or not, and no later sync writes them: readers
    /// see what is not on disk.
    pub(super) fn give_up(&mut self, survival: Survival, rng: &mut Xoshiro256PlusPlus) {
        let era = self.era;
        for sector in self.doubtful.values_mut().filter(|sector| sector.dirty) {
            sector.dirty = false;
            if let Some(version) = sector.choose(era, survival, rng) {
                let on_disk = sector.earlier.swap_remove(version).1;
                sector.earlier = vec![(Stamp::default(), on_disk)];
            } else {
                sector.earlier.clear();
            }
        }
        self.doubtful.retain(|_, sector| !sector.earlier.is_empty());
    }

    /// What the disk holds when the power fails.
    pub(super) fn cut(&mut self, survival: Survival, rng: &mut Xoshiro256PlusPlus) -> Sectors {
        let newest = self.lengths.len() - 1;
        let length = match newest {
            0 => self.lengths[0],
            _ if !survival.keeps(rng) => self.lengths[0],
            _ if survival.0 >= 1.0 => self.lengths[newest],
            _ => self.lengths[rng.random_range(1..=newest)],
        };
        let mut sectors = Sectors::default();
        for (number, sector) in std::mem::take(&mut self.doubtful) {
            let version = if sector.dirty { sector.choose(length.era, survival, rng) } else { Some(0) };
            match version {
                Some(0) => sectors.lost += 1,
                _ => sectors.kept += 1,
            }
            let Some(version) = version else { continue };
            let (from, to) = (number * SECTOR_BYTES, (number + 1) * SECTOR_BYTES);
            if to > self.now.len() {
                self.now.resize(to, 0);
            }
            self.now[from..to].copy_from_slice(&*sector.earlier[version].1);
        }
        self.now.resize(length.bytes, 0);
        self.blocks.retain(|block| block * BLOCK_BYTES < length.bytes);
        self.lengths = vec![Length { bytes: length.bytes, era: 0 }];
        self.era = 0;
        sectors
    }
}

impl Sector {
    /// Which version is on disk, if the length is one of `era`: one of the earlier ones, or the last.
    fn choose(&self, era: u32, survival: Survival, rng: &mut Xoshiro256PlusPlus) -> Option<usize> {
        let (mut start, mut end) = (0, 0);
        let stamps = self.earlier.iter().map(|(stamp, _)| *stamp).chain([self.last]);
        for (version, stamp) in stamps.enumerate().take_while(|(_, stamp)| stamp.era <= era) {
            end = version + 1;
            if stamp.cut_off {
                start = version;
            }
        }
        let last = self.earlier.len();
        let version = if !survival.keeps(rng) || start + 1 == end {
            start
        } else if survival.0 >= 1.0 {
            end - 1
        } else {
            rng.random_range(start + 1..end)
        };
        (version < last).then_some(version)
    }
}
