//! Room on the data directory's file system, and who may still take some of it.
//!
//! A database that meets a full disk cannot go on: what it holds is unknown from then on. So room is
//! kept in reserve, and writes are refused before it is needed. It must never refuse what makes room
//! before what takes room, and never have to be told that there is room again.
//!
//! # Tiger Style
//! - What was admitted is counted against what is free, by the most that it can take, until the state
//!   was saved after it: the database keeps changes in memory, where the file system does not see them.
//!   Nothing that is admitted passes the last reserve.
//! - Writes that add data keep off the reserve; deletes and compaction keep off the last part of it.
//! - Once refused, writes that add data stay refused until there is clearly more than the reserve.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::progress::Progress;
use crate::limits;

/// What a file system says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its size.
    pub total_bytes: u64,
    /// What this process may still take.
    pub free_bytes: u64,
}

/// Asks the file system. It must answer from memory, as `statvfs` does.
pub type Probe = Box<dyn Fn() -> io::Result<Room> + Send + Sync>;

/// What a change does to the disk in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It adds data.
    Adds,
    /// It makes room, or is of no size, although it takes a little at first.
    Frees,
}

/// There is too little room for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What is free.
    pub free_bytes: u64,
    /// What must stay free.
    pub kept_bytes: u64,
    /// What the change may take.
    pub needed_bytes: u64,
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// There is room for data.
    Roomy,
    /// The reserve is touched.
    Reserve,
    /// Only the last part of the reserve is left.
    LastReserve,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How full it is.
    pub fullness: Fullness,
    /// What is free.
    pub free_bytes: u64,
    /// What is kept free of data.
    pub reserve_bytes: u64,
}

/// The room of one data directory. Without a file system below it there is always enough.
pub struct Space(Option<Watched>);

struct Watched {
    probe: Probe,
    /// As configured; absent: in proportion to the disk.
    reserve_bytes: Option<u64>,
    /// Says when the state was saved.
    progress: Arc<Progress>,
    state: Mutex<State>,
    /// Whether the last look failed, which is said once.
    blind: AtomicBool,
    /// Told when the refusal begins or ends.
    turned: Notify,
}

#[derive(Debug)]
struct State {
    room: Room,
    /// What is admitted and not finished takes so much at the most.
    in_work: u64,
    /// The same of what is finished and may not be saved: since the last save that was noticed, and
    /// before. The save may have begun before some of the latter was finished.
    unsaved: [u64; 2],
    /// Saves noticed.
    saves: u64,
    /// What was let in since the last look, by the most that it can take.
    since_look: u64,
    /// Whether writes that add data are refused.
    refusing: bool,
}

impl Space {
    /// Room without end, for a state in memory.
    pub fn endless() -> Self {
        Self(None)
    }

    /// Watches a file system.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub fn watch(probe: Probe, reserve_bytes: Option<u64>, progress: Arc<Progress>) -> io::Result<Self> {
        let room = probe()?;
        let state = State {
            room,
            in_work: 0,
            unsaved: [0; 2],
            saves: progress.saves(),
            since_look: 0,
            refusing: false,
        };
        let (state, blind) = (Mutex::new(state), AtomicBool::new(false));
        let watched = Watched { probe, reserve_bytes, progress, state, blind, turned: Notify::new() };
        watched.look(&mut watched.lock());
        Ok(Self(Some(watched)))
    }

    /// Looks at the disk, to be done every so often. Nothing where there is no file system.
    pub fn look(&self) -> Option<Found> {
        let watched = self.0.as_ref()?;
        let mut state = watched.lock();
        watched.look(&mut state);
        Some(watched.found(&state))
    }

    /// Whether the log may take entries from a leader, which will take `needed_bytes` at the most. They
    /// are counted if it may.
    pub fn take_entries(&self, needed_bytes: u64) -> bool {
        let Some(watched) = &self.0 else { return true };
        let mut state = watched.lock();
        if watched.let_in(&mut state, Growth::Frees, needed_bytes).is_err() {
            return false;
        }
        state.unsaved[0] = state.unsaved[0].saturating_add(needed_bytes);
        true
    }

    /// Whether a refusal may be due to what is counted and not saved yet, so that it is worth a save.
    pub fn would_a_save_help(&self, growth: Growth) -> bool {
        self.0.as_ref().is_some_and(|watched| {
            let state = watched.lock();
            let is_final = growth == Growth::Adds && state.refusing;
            !is_final && state.unsaved != [0; 2]
        })
    }

    /// Waits until a look finds that the refusal has begun or ended.
    pub async fn turned(&self) {
        match &self.0 {
            Some(watched) => watched.turned.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What is known without another look.
    pub fn found(&self) -> Option<Found> {
        let watched = self.0.as_ref()?;
        Some(watched.found(&watched.lock()))
    }

    /// Whether every command fits, whatever it does.
    pub fn fits_any_command(&self) -> bool {
        let Some(watched) = &self.0 else { return true };
        let state = watched.lock();
        let (reserve, last) = watched.marks(&state);
        let free = state.free();
        !state.refusing && free >= reserve && free >= last.saturating_add(limits::COMMAND_GROWTH_MAX_BYTES)
    }

    /// Lets a change in, which takes `needed_bytes` at the most. The room is held for it until the
    /// answer is dropped.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn admit(self: &Arc<Self>, growth: Growth, needed_bytes: u64) -> Result<Admitted, NoRoom> {
        if let Some(watched) = &self.0 {
            let mut state = watched.lock();
            watched.let_in(&mut state, growth, needed_bytes)?;
            state.in_work = state.in_work.saturating_add(needed_bytes);
        }
        Ok(Admitted { space: Arc::clone(self), bytes: needed_bytes })
    }

    /// Whether something of this size fits beside the last reserve, by a new look.
    ///
    /// # Errors
    /// [`NoRoom`], with what is free and what is kept.
    pub fn fits_now(&self, needed_bytes: u64) -> Result<(), NoRoom> {
        let Some(watched) = &self.0 else { return Ok(()) };
        let mut state = watched.lock();
        watched.look(&mut state);
        watched.fits(&state, Growth::Frees, needed_bytes)
    }
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Space").field(&self.found()).finish()
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Whether a change fits, by what is known if that is recent.
    fn let_in(&self, state: &mut State, growth: Growth, needed_bytes: u64) -> Result<(), NoRoom> {
        state.since_look = state.since_look.saturating_add(needed_bytes);
        // Others fill the disk, too.
        if state.since_look >= limits::DISK_LOOK_EVERY_BYTES {
            self.look(state);
        }
        self.fits(state, growth, needed_bytes).or_else(|_| {
            // Some of what was counted may be saved by now.
            self.look(state);
            self.fits(state, growth, needed_bytes)
        })
    }

    fn look(&self, state: &mut State) {
        state.since_look = 0;
        // Before the disk is asked, so that what is not counted any more is seen there.
        let saves = self.progress.saves();
        let asked = (self.probe)();
        match asked {
            Ok(room) => {
                state.room = room;
                state.unsaved = match saves - state.saves {
                    0 => state.unsaved,
                    1 => [0, state.unsaved[0]],
                    _ => [0; 2],
                };
                state.saves = saves;
                self.blind.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                // What is admitted is counted on, so this errs on the safe side.
                if !self.blind.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the data directory's file system does not say how full it is: {error}");
                }
            }
        }
        let (reserve, _) = self.marks(state);
        let recovered = reserve.saturating_add(reserve / limits::DISK_RECOVERED_DIVISOR);
        let refusing = state.room.free_bytes < if state.refusing { recovered } else { reserve };
        if refusing != state.refusing {
            state.refusing = refusing;
            self.turned.notify_one();
        }
    }

    fn fits(&self, state: &State, growth: Growth, needed_bytes: u64) -> Result<(), NoRoom> {
        let (reserve, last) = self.marks(state);
        let free = state.free();
        let beside_last = free >= last.saturating_add(needed_bytes);
        let (fits, kept_bytes) = match growth {
            Growth::Adds => (!state.refusing && free >= reserve && beside_last, reserve),
            Growth::Frees => (beside_last, last),
        };
        if fits { Ok(()) } else { Err(NoRoom { free_bytes: free, kept_bytes, needed_bytes }) }
    }

    fn found(&self, state: &State) -> Found {
        let (reserve_bytes, last) = self.marks(state);
        let fullness = match state.room.free_bytes {
            free if free < last => Fullness::LastReserve,
            _ if state.refusing => Fullness::Reserve,
            _ => Fullness::Roomy,
        };
        Found { fullness, free_bytes: state.room.free_bytes, reserve_bytes }
    }

    /// What writes that add data keep off, and what everything does.
    fn marks(&self, state: &State) -> (u64, u64) {
        let reserve = self.reserve_bytes.unwrap_or_else(|| default_reserve(state.room.total_bytes));
        (reserve, reserve / limits::DISK_LAST_RESERVE_DIVISOR)
    }
}

impl State {
    fn free(&self) -> u64 {
        let counted = self.unsaved.iter().fold(self.in_work, |sum, bytes| sum.saturating_add(*bytes));
        self.room.free_bytes.saturating_sub(counted)
    }
}

/// The reserve in proportion to the disk.
fn default_reserve(total_bytes: u64) -> u64 {
    let least = limits::DISK_RESERVE_DEFAULT_MIN_BYTES.min(total_bytes / 4);
    (total_bytes / limits::DISK_RESERVE_DIVISOR).clamp(least, limits::DISK_RESERVE_DEFAULT_MAX_BYTES)
}

/// Room that is held for a change until this is dropped.
#[derive(Debug)]
#[must_use = "the room is held only as long as this lives"]
pub struct Admitted {
    space: Arc<Space>,
    bytes: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(watched) = &self.space.0 {
            let mut state = watched.lock();
            state.in_work = state.in_work.checked_sub(self.bytes).expect("it was counted when it came in");
            state.unsaved[0] = state.unsaved[0].saturating_add(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TOTAL: u64 = 64 * MIB;

    /// A disk of 64 MiB, of which 16 are the reserve and 4 the last part of it.
    fn disk(free_bytes: u64) -> (Arc<Space>, Arc<AtomicU64>) {
        let (space, free, _) = disk_and_progress(free_bytes);
        (space, free)
    }

    fn disk_and_progress(free_bytes: u64) -> (Arc<Space>, Arc<AtomicU64>, Arc<Progress>) {
        let (free, progress) = (Arc::new(AtomicU64::new(free_bytes)), Arc::new(Progress::default()));
        let asked = free.clone();
        let probe = move || {
            let free_bytes = asked.load(Ordering::Relaxed);
            if free_bytes > TOTAL {
                return Err(io::Error::other("no answer"));
            }
            Ok(Room { total_bytes: TOTAL, free_bytes })
        };
        (Arc::new(Space::watch(Box::new(probe), None, progress.clone()).unwrap()), free, progress)
    }

    fn set(space: &Space, free: &AtomicU64, bytes: u64) -> Fullness {
        free.store(bytes, Ordering::Relaxed);
        space.look().unwrap().fullness
    }

    #[test]
    fn data_keeps_off_the_reserve_and_deletes_off_the_last_part_of_it() {
        let (space, free) = disk(40 * MIB);
        drop(space.admit(Growth::Adds, 0).unwrap());
        assert_eq!(set(&space, &free, 16 * MIB - 1), Fullness::Reserve);
        let refused = space.admit(Growth::Adds, 1).unwrap_err();
        assert_eq!(refused, NoRoom { free_bytes: 16 * MIB - 1, kept_bytes: 16 * MIB, needed_bytes: 1 });
        assert_eq!(space.admit(Growth::Frees, 12 * MIB).unwrap_err().kept_bytes, 4 * MIB);
        drop(space.admit(Growth::Frees, 11 * MIB).unwrap());
        assert_eq!(set(&space, &free, 4 * MIB - 1), Fullness::LastReserve);
        assert!(space.admit(Growth::Frees, 0).is_err());
    }

    #[test]
    fn refusal_ends_by_itself_but_not_at_the_mark_where_it_began() {
        let (space, free) = disk(40 * MIB);
        for (bytes, expected) in [
            (16 * MIB, Fullness::Roomy),
            (15 * MIB, Fullness::Reserve),
            (17 * MIB, Fullness::Reserve),
            (20 * MIB - 1, Fullness::Reserve),
            (20 * MIB, Fullness::Roomy),
            (16 * MIB, Fullness::Roomy),
        ] {
            assert_eq!(set(&space, &free, bytes), expected, "{bytes} bytes free");
            assert_eq!(space.admit(Growth::Adds, 0).is_ok(), expected == Fullness::Roomy);
        }
    }

    #[test]
    fn writers_that_are_faster_than_the_looks_do_not_pass_the_reserve() {
        let (space, free, progress) = disk_and_progress(26 * MIB);
        let mut held = Vec::new();
        while let Ok(admitted) = space.admit(Growth::Adds, MIB) {
            held.push(admitted);
        }
        assert_eq!(held.len(), 11, "ten down to the mark, and the one that reaches it");
        assert!(!space.would_a_save_help(Growth::Adds), "they are still at it");
        // They have finished and took a tenth of what they might have, as far as the disk knows.
        held.clear();
        free.fetch_sub(MIB, Ordering::Relaxed);
        assert!(space.admit(Growth::Adds, MIB).is_err(), "the rest may wait in memory");
        assert!(space.would_a_save_help(Growth::Adds));
        progress.count_save();
        assert!(space.admit(Growth::Adds, MIB).is_err(), "it may have begun before they finished");
        progress.count_save();
        assert!(space.admit(Growth::Adds, MIB).is_ok());
    }

    #[test]
    fn entries_from_a_leader_stop_at_the_last_reserve_however_fast_they_come() {
        let (space, free, progress) = disk_and_progress(10 * MIB);
        let mut taken = 0;
        while space.take_entries(MIB) {
            taken += 1;
        }
        assert_eq!(taken, 6, "down to four");
        free.fetch_sub(2 * MIB, Ordering::Relaxed);
        assert!(!space.take_entries(MIB));
        progress.count_save();
        progress.count_save();
        assert!(space.take_entries(MIB), "they took a third of what they might have");
    }

    #[test]
    fn one_change_never_reaches_into_the_last_reserve() {
        let (space, _) = disk(20 * MIB);
        assert!(space.admit(Growth::Adds, 16 * MIB + 1).is_err());
        assert!(space.admit(Growth::Adds, 16 * MIB).is_ok());
        assert!(!space.fits_any_command(), "the largest is larger than this disk");
    }

    #[test]
    fn disk_that_gives_no_answer_counts_as_it_was_less_what_was_admitted() {
        let (space, free, progress) = disk_and_progress(24 * MIB);
        assert_eq!(set(&space, &free, u64::MAX), Fullness::Roomy);
        for _ in 0..9 {
            drop(space.admit(Growth::Adds, MIB).unwrap());
        }
        progress.count_save();
        progress.count_save();
        assert!(space.admit(Growth::Adds, MIB).is_err(), "nobody saw what they took");
        assert_eq!(set(&space, &free, 24 * MIB), Fullness::Roomy);
        assert!(space.admit(Growth::Adds, MIB).is_ok());
    }

    #[test]
    fn reserve_is_in_proportion_and_leaves_most_of_a_small_disk() {
        for (total, reserve) in
            [(12 * MIB, 3 * MIB), (64 * MIB, 16 * MIB), (1024 * MIB, 128 * MIB), (1 << 40, 1024 * MIB)]
        {
            assert_eq!(default_reserve(total), reserve, "of {total}");
        }
        let endless = Arc::new(Space::endless());
        assert!(endless.admit(Growth::Adds, u64::MAX).is_ok() && endless.found().is_none());
    }
}
