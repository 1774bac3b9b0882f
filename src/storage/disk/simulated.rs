//! A disk in memory that follows the rules of ext4 and xfs, and whose power can be cut.
//!
//! What was not synced is on disk after a cut or not, each 512-byte sector for itself and by chance;
//! names go back to what the journal of their directory holds. The power fails for all files at the
//! same instant, and whoever has a file open, or the disk [mounted](SimulatedDisk::mount), has lost it.
//! Faults can be set on top: a cut or an error at the n-th operation, syncs that fail or hang, a disk
//! that is full.
//!
//! It must never act on anything but its seed and the calls: no clock, no other chance. What order the
//! calls come in is the caller's part.
//!
//! # Tiger Style
//! A read sees every write that came before it. A failed sync loses what it should have written, even
//! for later syncs that work, as on Linux. Disk space is counted in blocks of 4 KiB.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::Disk;

mod faults;
mod image;
mod mount;
mod names;
#[cfg(test)]
mod tests;

use self::faults::{Due, Faults};
pub use self::faults::{Lie, Operation};
pub use self::image::Sectors;
use self::image::{FileImage, Survival};
use self::mount::Mount;
use self::names::{FileId, Names};

/// The disk of one machine. A clone is the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when a sync begins to wait, and when it may go on.
    changed: Condvar,
}

#[derive(Clone)]
struct State {
    rng: Xoshiro256PlusPlus,
    is_on: bool,
    /// Grows when the power is cut or the process ends: who opened something before has lost it.
    life: u64,
    files: BTreeMap<FileId, OnDisk>,
    next_file: FileId,
    names: Names,
    faults: Faults,
    operations: u64,
    disorder: Disorder,
    cut: Option<PowerCut>,
}

/// What a disk that [delays](SimulatedDisk::delay_operations) has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disorder {
    /// Operations that gave way to others.
    pub delays: u64,
    /// Sectors that were on disk before others of their file that had been written earlier.
    pub inversions: u64,
}

/// A file with those who use it.
#[derive(Clone)]
struct OnDisk {
    image: FileImage,
    open: usize,
    is_locked: bool,
}

/// What a power cut met, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// The operation that was under way, if one was, and on which file or directory.
    pub during: Option<(Operation, PathBuf)>,
    /// Sectors that were not synced.
    pub sectors: Sectors,
    /// Changes of names that were lost.
    pub names_lost: u64,
}

impl SimulatedDisk {
    /// An empty disk with one directory. The same seed and the same calls give the same disk.
    pub fn new(root: impl Into<PathBuf>, seed: u64) -> Self {
        Self::from(State {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            is_on: true,
            life: 0,
            files: BTreeMap::new(),
            next_file: 0,
            names: Names::new(root.into()),
            faults: Faults::default(),
            operations: 0,
            disorder: Disorder::default(),
            cut: None,
        })
    }

    /// The disk as a process sees it, until the power is cut or the process is killed.
    pub fn mount(&self) -> Arc<dyn Disk> {
        let life = self.lock().life;
        Arc::new(Mount::new(self.clone(), life))
    }

    /// Cuts the power: each operation fails from now on, until it is restored.
    pub fn cut_power(&self) {
        self.lock().cut_power(None);
        self.shared.changed.notify_all();
    }

    /// Cuts the power in the n-th operation from now that changes something. 1 is the next one.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn cut_power_at(&self, n: u64) {
        self.lock().faults.set_due(n, Due::PowerCut);
    }

    /// Whether the power is on.
    pub fn is_on(&self) -> bool {
        self.lock().is_on
    }

    /// Restores the power, if it was cut, and says what the cut did. Faults that were set to come are
    /// over; the disk's capacity, its delays and its lies stay.
    pub fn restore_power(&self) -> Option<PowerCut> {
        let mut state = self.lock();
        state.is_on = true;
        state.faults.clear();
        state.cut.take()
    }

    /// Ends the process that uses the disk: its mounts and files fail, and nothing is lost.
    pub fn kill_process(&self) {
        self.lock().end_life();
        self.shared.changed.notify_all();
    }

    /// What the disk would hold if the power were cut now and nothing survived but what is synced.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let mut state = self.lock().clone();
        state.faults.waiting = 0;
        state.cut_with(None, Survival(0.0));
        let copy = Self::from(state);
        copy.restore_power();
        copy
    }

    /// Fails the n-th operation from now that changes something, once. A failed sync loses what it
    /// should have written.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn fail_at(&self, n: u64) {
        self.lock().faults.set_due(n, Due::Error);
    }

    /// Whether a cut or an error that was set has not come yet.
    pub fn is_fault_due(&self) -> bool {
        self.lock().faults.is_due()
    }

    /// Takes back a cut or an error that has not come yet.
    pub fn clear_due_fault(&self) {
        self.lock().faults.clear_due();
    }

    /// Makes syncs of the files with this name wait.
    pub fn hold_syncs(&self, file_name: &str) {
        self.lock().faults.held = Some(file_name.to_owned());
    }

    /// Returns once a sync waits, or the power is off. Says whether one does.
    ///
    /// # Panics
    /// If none does for half a minute: the caller waits for what will not come.
    pub fn wait_for_held_sync(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(30);
        let nobody_waits = |state: &mut State| state.faults.waiting == 0 && state.is_on;
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.lock(), PATIENCE, nobody_waits)
            .expect("no code panics while it holds this lock");
        assert!(!waited.timed_out(), "no sync began for {} s", PATIENCE.as_secs());
        state.is_on
    }

    /// Lets the syncs that wait go on, and those that come work.
    pub fn release_syncs(&self) {
        self.lock().faults.release_syncs();
        self.shared.changed.notify_all();
    }

    /// Fails the syncs of the files with this name, those that wait included.
    pub fn fail_syncs(&self, file_name: &str) {
        self.lock().faults.fail_syncs(file_name);
        self.shared.changed.notify_all();
    }

    /// Sets how much all files together may occupy.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().faults.capacity_bytes = bytes;
    }

    /// What all files together occupy.
    pub fn allocated_bytes(&self) -> u64 {
        self.lock().allocated_bytes()
    }

    /// Makes each operation give way to other threads for a while, at random, and puts what is not synced on
    /// disk meanwhile, in any order.
    pub fn delay_operations(&self) {
        self.lock().faults.delays = true;
    }

    /// What that came to.
    pub fn disorder(&self) -> Disorder {
        self.lock().disorder
    }

    /// Sets the bounds of the time that a sync takes, in the time of the simulation.
    #[cfg(madsim)]
    pub fn set_sync_time(&self, from: Duration, to: Duration) {
        self.lock().faults.sync_time = (from, to);
    }

    #[cfg(madsim)]
    fn draw_sync_time(&self) -> Duration {
        let mut state = self.lock();
        let (from, to) = state.faults.sync_time;
        from + to.saturating_sub(from).mul_f64(state.rng.random::<f64>())
    }

    /// Makes the disk break a promise, to see whether a test would notice.
    pub fn tell(&self, lie: Lie) {
        self.lock().faults.lie = Some(lie);
    }

    /// Operations so far that changed something, or should have.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// A file's bytes, as its readers see them.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let id = state.names.file(path)?;
        Ok(state.files[&id].image.bytes().to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no code panics while it holds this lock")
    }

    /// The disk, for one who began in a certain life of it.
    fn enter(&self, life: u64) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.faults.delays {
            let turns = state.rng.random_range(0..8);
            state.disorder.delays += u64::from(turns > 0);
            if turns > 4 {
                state.write_back();
            }
            drop(state);
            (0..turns).for_each(|_| std::thread::yield_now());
            state = self.lock();
        }
        state.check(life)?;
        Ok(state)
    }

    /// Changes something, unless a fault is due. What is under way when the power fails may take effect.
    fn change<T>(
        &self,
        life: u64,
        operation: Operation,
        path: impl FnOnce(&State) -> PathBuf,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.enter(life)?;
        state.operations += 1;
        match state.faults.next() {
            None => act(&mut state),
            Some(Due::Error) => Err(input_output_error()),
            Some(Due::PowerCut) => {
                let path = path(&state);
                act(&mut state).ok();
                state.cut_power(Some((operation, path)));
                drop(state);
                self.shared.changed.notify_all();
                Err(no_power())
            }
        }
    }

    /// Makes a file durable, or fails to.
    fn sync_file(&self, life: u64, id: FileId) -> io::Result<()> {
        let mut state = self.enter(life)?;
        state.operations += 1;
        while state.name_matches(id, state.faults.held.as_deref()) {
            state.faults.waiting += 1;
            self.shared.changed.notify_all();
            state = self.shared.changed.wait(state).expect("no code panics while it holds this lock");
            state.faults.waiting -= 1;
            state.check(life)?;
        }
        let fails = state.name_matches(id, state.faults.failing.as_deref());
        match state.faults.next() {
            Some(Due::PowerCut) => {
                let path = state.path_of(id);
                state.cut_power(Some((Operation::Sync, path)));
                drop(state);
                self.shared.changed.notify_all();
                Err(no_power())
            }
            Some(Due::Error) => state.fail_sync(id),
            None if fails => state.fail_sync(id),
            None => {
                if state.faults.lie != Some(Lie::FilesAreSynced) {
                    state.file(id).image.sync();
                }
                Ok(())
            }
        }
    }
}

impl From<State> for SimulatedDisk {
    fn from(state: State) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").finish_non_exhaustive()
    }
}

impl State {
    fn check(&self, life: u64) -> io::Result<()> {
        if !self.is_on {
            return Err(no_power());
        }
        if self.life != life {
            return Err(io::Error::other("the simulated disk was opened by a process that has ended"));
        }
        Ok(())
    }

    fn file(&mut self, id: FileId) -> &mut OnDisk {
        self.files.get_mut(&id).expect("a file stays while it is open")
    }

    fn path_of(&self, id: FileId) -> PathBuf {
        self.names.name_of(id).map_or_else(|| PathBuf::from("(removed)"), Path::to_owned)
    }

    fn name_matches(&self, id: FileId, file_name: Option<&str>) -> bool {
        file_name.is_some_and(|name| {
            self.names.name_of(id).is_some_and(|path| path.file_name().is_some_and(|own| own == name))
        })
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        let id = self.next_file;
        self.names.link(path, id)?;
        self.next_file += 1;
        self.files.insert(id, OnDisk { image: FileImage::empty(), open: 0, is_locked: false });
        Ok(id)
    }

    fn write(&mut self, id: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = self.faults.capacity_bytes.map(|bytes| bytes.saturating_sub(self.allocated_bytes()));
        self.file(id).image.write(in_memory(offset), bytes, room)
    }

    /// Puts one sector of each file on disk.
    fn write_back(&mut self) {
        for file in self.files.values_mut() {
            let is_inversion = file.image.write_back(&mut self.rng) == Some(true);
            self.disorder.inversions += u64::from(is_inversion);
        }
    }

    fn fail_sync(&mut self, id: FileId) -> io::Result<()> {
        let survival = self.draw_survival();
        let file = self.files.get_mut(&id).expect("a file stays while it is open");
        file.image.give_up(survival, &mut self.rng);
        Err(input_output_error())
    }

    fn allocated_bytes(&self) -> u64 {
        self.files.values().map(|file| file.image.allocated_bytes()).sum()
    }

    fn cut_power(&mut self, during: Option<(Operation, PathBuf)>) {
        let survival = self.draw_survival();
        self.cut_with(during, survival);
    }

    fn cut_with(&mut self, during: Option<(Operation, PathBuf)>, survival: Survival) {
        if !self.is_on {
            return;
        }
        self.is_on = false;
        let mut sectors = Sectors::default();
        for file in self.files.values_mut() {
            let of_file = file.image.cut(survival, &mut self.rng);
            sectors.kept += of_file.kept;
            sectors.lost += of_file.lost;
        }
        let names_lost = self.names.cut(survival, &mut self.rng);
        self.end_life();
        self.cut = Some(PowerCut { during, sectors, names_lost });
    }

    /// None, all, half, and what finds the rarer faults: all but about one, and about one alone.
    fn draw_survival(&mut self) -> Survival {
        let dirty: usize = self.files.values().map(|file| file.image.dirty_sectors()).sum();
        let one = 1.0 / (dirty.max(2) as f64);
        Survival([0.0, 1.0, 0.5, 1.0 - one, one][self.rng.random_range(0..5)])
    }

    fn end_life(&mut self) {
        self.life += 1;
        for file in self.files.values_mut() {
            file.open = 0;
            file.is_locked = false;
        }
        let Self { files, names, .. } = self;
        files.retain(|id, _| names.mentions(*id));
    }

    /// Someone has let go of a file.
    fn close(&mut self, id: FileId, life: u64) {
        if self.life != life {
            return;
        }
        let file = self.file(id);
        file.open -= 1;
        self.forget_if_unused(id);
    }

    fn forget_if_unused(&mut self, id: FileId) {
        if self.files.get(&id).is_some_and(|file| file.open == 0) && !self.names.mentions(id) {
            self.files.remove(&id);
        }
    }

    /// Forgets the files whose last name a change has taken.
    fn forget_unused(&mut self) {
        let Self { files, names, .. } = self;
        files.retain(|id, file| file.open > 0 || names.mentions(*id));
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the simulated disk is in memory")
}

fn no_power() -> io::Error {
    io::Error::other("the simulated disk has no power")
}

fn input_output_error() -> io::Error {
    io::Error::other("the simulated disk failed: input/output error")
}
