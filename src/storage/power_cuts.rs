//! Log, state and snapshots through thousands of power cuts.
//!
//! A seed draws what a node does and when the power fails: between operations, in the middle of a commit,
//! while a snapshot is installed, while the node recovers from the last cut. Both files and the snapshots
//! lose what they had not synced at the same instant. Then both stores are opened again, openraft's own
//! recovery runs on them, and everything is compared with a model.
//!
//! `STORAGE_POWER_CUTS=100000` makes the runs longer; `STORAGE_POWER_CUTS_SEED=7` runs one seed alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use openraft::StorageHelper;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use self::model::Model;
use self::store::Store;
use self::workload::{Stop, Workload};
use crate::kv::types::NodeId;
use crate::storage::disk::SimulatedDisk;
use crate::storage::disk::simulated::{Lie, Operation, PowerCut};

mod checks;
mod faults;
mod model;
mod planted;
mod store;
mod workload;

/// Cuts in the life of one store.
const CUTS_OF_A_SEED: u64 = 10;

/// Cuts of each of the tests below, and how many such tests there are.
const CUTS_OF_A_TEST: u64 = 800;
const TESTS: u64 = 5;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Append,
    Vote,
    Commit,
    Apply,
    Checkpoint,
    Truncate,
    Purge,
    Build,
    Install,
    Lag,
    Shrink,
}

/// Each step as often as it is drawn.
type Mix = &'static [(Step, u32)];

/// A bug that is there on purpose, to see that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// The disk does nothing when it is asked to sync a file.
    FilesAreNotSynced,
    /// The disk does nothing when it is asked to sync a directory.
    NamesAreNotSynced,
    /// Entries count as acknowledged when `append` returns.
    AcknowledgedBeforeTheSync,
    /// The state does not wait for the log.
    CheckpointPastTheLog,
    /// The log does not wait for the state.
    PurgePastTheState,
}

/// How often the power failed, by what it met.
type Tally = BTreeMap<&'static str, u64>;

/// One store through its cuts.
struct Life {
    rng: Xoshiro256PlusPlus,
    disk: SimulatedDisk,
    store: Option<Store>,
    model: Model,
    mix: Mix,
    planted: Option<Planted>,
    tally: Tally,
    /// Operations of the last copy of the state that came to its end.
    shrink_operations: u64,
    /// Whether the power failed while the state was copied.
    is_shrinking: bool,
}

/// What a copy of the state takes, until one was counted.
const SHRINK_OPERATIONS: u64 = 70;

impl Life {
    fn new(seed: u64, mix: Mix, planted: Option<Planted>) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let disk = SimulatedDisk::new(store::dir(), rng.random());
        Self {
            rng,
            disk,
            store: None,
            model: Model::new(),
            mix,
            planted,
            tally: Tally::new(),
            shrink_operations: SHRINK_OPERATIONS,
            is_shrinking: false,
        }
    }

    async fn run(&mut self) -> Result<(), String> {
        self.recover().await?;
        match self.planted {
            Some(Planted::FilesAreNotSynced) => self.disk.tell(Lie::FilesAreSynced),
            Some(Planted::NamesAreNotSynced) => self.disk.tell(Lie::NamesAreSynced),
            _ => {}
        }
        for _ in 0..CUTS_OF_A_SEED {
            match self.work().await {
                Ok(()) => self.disk.cut_power(),
                Err((Stop::PowerCut, _)) => {}
                Err((Stop::Broken(sentence), step)) => return Err(format!("{step:?}: {sentence}")),
            }
            self.recover().await?;
        }
        Ok(())
    }

    /// Takes steps until the power fails or there are enough of them.
    async fn work(&mut self) -> Result<(), (Stop, Step)> {
        let steps = self.rng.random_range(3..16);
        let last = self.rng.random_range(0..steps);
        for n in 0..steps {
            let step = self.draw_step();
            if n == last && self.rng.random_bool(0.8) {
                let at = self.draw_cut(step);
                self.disk.cut_power_at(at);
            }
            let before = self.disk.operations();
            let mut workload = Workload {
                rng: &mut self.rng,
                disk: &self.disk,
                model: &mut self.model,
                planted: self.planted,
            };
            let done = workload.take(step, &mut self.store).await;
            if self.disk.is_on() && done.is_ok() {
                if step == Shrink {
                    self.shrink_operations = self.disk.operations() - before;
                }
                continue;
            }
            if !self.disk.is_on() {
                match step {
                    Install => self.count("in an install"),
                    Build => self.count("in a snapshot build"),
                    Shrink => self.count("in a shrink"),
                    _ => {}
                }
                self.is_shrinking = step == Shrink;
            }
            return Err((done.err().unwrap_or(Stop::PowerCut), step));
        }
        Ok(())
    }

    /// In which operation of a step the power fails, if the step has as many.
    fn draw_cut(&mut self, step: Step) -> u64 {
        let operations = match step {
            Install | Build => 70,
            // A copy is mostly writes. Half of the cuts come where the files are exchanged, at its end.
            Shrink if self.rng.random_bool(0.5) => {
                let all = self.shrink_operations;
                return self.rng.random_range(all.saturating_sub(4).max(1)..=all);
            }
            Shrink => self.shrink_operations.max(2),
            _ => 20,
        };
        self.rng.random_range(1..operations)
    }

    fn draw_step(&mut self) -> Step {
        let mut at = self.rng.random_range(0..self.mix.iter().map(|(_, weight)| weight).sum());
        for (step, weight) in self.mix {
            if at < *weight {
                return *step;
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }

    /// Opens the store again, through further cuts if need be, and checks it.
    async fn recover(&mut self) -> Result<(), String> {
        loop {
            drop(self.store.take());
            if let Some(cut) = self.disk.restore_power() {
                self.tally_cut(&cut);
            }
            if self.rng.random_bool(0.25) {
                // A first start does more.
                let operations = if self.model.next() == 0 { 70 } else { 25 };
                self.disk.cut_power_at(self.rng.random_range(1..operations));
            }
            match self.open_and_check().await {
                Ok(()) => {
                    self.disk.clear_due_fault();
                    return Ok(());
                }
                Err(_) if !self.disk.is_on() => self.count("in a recovery"),
                Err(broken) => return Err(broken),
            }
        }
    }

    async fn open_and_check(&mut self) -> Result<(), String> {
        let mut store = Store::open(&self.disk)?;
        let found = checks::opened(&self.model, &mut store, &self.disk).await?;
        let recovered =
            StorageHelper::new(&mut store.log, &mut store.state).with_id(NodeId(1)).get_initial_state().await;
        recovered.map_err(|error| format!("openraft's recovery failed: {error}"))?;
        let after = checks::find(&mut store).await?;
        let expected = found.applied.max(found.committed);
        if after.applied < expected {
            return Err(format!("{} entries are applied after the recovery, not {expected}", after.applied));
        }
        checks::state_is_the_one_at(&self.model, &store, after.applied)?;
        if !self.disk.is_on() {
            return Err("the power failed".to_owned());
        }
        self.adopt(found, after);
        self.store = Some(store);
        Ok(())
    }

    /// What was found on disk after the power failed is durable, and the rest is gone.
    fn adopt(&mut self, found: checks::Found, after: checks::Found) {
        let model = &mut self.model;
        model.log_len = after.log_len;
        model.acknowledged = after.log_len;
        model.truncating = None;
        model.truncate(after.log_len.max(model.committed));
        model.term += 1;
        model.purged = after.purged;
        model.purge_asked = after.purged;
        model.saved_committed = after.committed;
        model.vote = after.vote;
        model.vote_under_way = None;
        model.applied = after.applied;
        model.durable = found.applied;
        model.snapshot = after.snapshot.unwrap_or(0);
        model.forget_old_states();
    }

    fn tally_cut(&mut self, cut: &PowerCut) {
        self.count("in all");
        let is_shrinking = std::mem::take(&mut self.is_shrinking);
        let Some((operation, path)) = &cut.during else {
            self.count("between operations");
            return;
        };
        let is_database = path.to_string_lossy().contains(".redb");
        match operation {
            Operation::Sync => self.count("in a sync"),
            Operation::Write | Operation::SetLen if is_database => self.count("in a commit"),
            Operation::Rename | Operation::SyncDir => self.count("in a rename"),
            _ => {}
        }
        match operation {
            Operation::Rename if is_shrinking => self.count("in the rename of a shrink"),
            Operation::SyncDir if is_shrinking => self.count("in the sync of a shrink's rename"),
            _ if is_shrinking => self.count("before the rename of a shrink"),
            _ => {}
        }
        if cut.sectors.kept > 0 && cut.sectors.lost > 0 {
            self.count("with torn writes");
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }
}

/// Runs a seed. A panic is a failure like any other.
fn run(seed: u64, mix: Mix, planted: Option<Planted>) -> Result<Tally, String> {
    let mut life = Life::new(seed, mix, planted);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
    let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(life.run())));
    // Or what still waits for the disk would wait for ever.
    life.disk.cut_power();
    ran.unwrap_or_else(|panic| Err(crate::storage::database::panic_message(&*panic)))?;
    Ok(life.tally)
}

/// What every run of many cuts must have met, or it does not test what it says.
const MET: [&str; 6] =
    ["between operations", "in a commit", "in a sync", "in an install", "in a recovery", "with torn writes"];

/// Runs seeds until the power was cut often enough, and checks each time.
fn survive(test: &str, mix: Mix, met: &[&str]) {
    if let Some(seed) = number("STORAGE_POWER_CUTS_SEED") {
        let tally = run(seed, mix, None).unwrap_or_else(|broken| panic!("{broken}"));
        println!("{test}, seed {seed}: {tally:?}");
        return;
    }
    let wanted = number("STORAGE_POWER_CUTS").map_or(CUTS_OF_A_TEST, |all| all / TESTS);
    let mut total = Tally::new();
    for seed in 0.. {
        match run(seed, mix, None) {
            Ok(tally) => tally.into_iter().for_each(|(what, count)| *total.entry(what).or_default() += count),
            Err(broken) => panic!(
                "seed {seed}: {broken}\nagain: STORAGE_POWER_CUTS_SEED={seed} cargo test --lib power_cuts::{test}"
            ),
        }
        if total["in all"] >= wanted {
            break;
        }
    }
    println!("{test}: {total:?}");
    for what in MET.iter().chain(met) {
        assert!(total.get(what).is_some_and(|count| *count > 0), "no cut came {what}: {total:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

use Step::{Append, Apply, Build, Checkpoint, Commit, Install, Lag, Purge, Shrink, Truncate, Vote};

#[test]
fn acknowledged_entries_survive_power_cuts() {
    let mix = &[
        (Append, 10),
        (Lag, 3),
        (Truncate, 3),
        (Commit, 3),
        (Apply, 2),
        (Checkpoint, 1),
        (Purge, 2),
        (Vote, 1),
        (Install, 1),
    ];
    survive("acknowledged_entries_survive_power_cuts", mix, &[]);
}

#[test]
fn votes_survive_power_cuts() {
    let mix = &[(Vote, 10), (Append, 4), (Lag, 3), (Commit, 2), (Apply, 1), (Truncate, 1), (Install, 1)];
    survive("votes_survive_power_cuts", mix, &[]);
}

#[test]
fn applied_never_passes_the_log_after_a_power_cut() {
    let mix = &[
        (Lag, 8),
        (Append, 5),
        (Commit, 5),
        (Apply, 8),
        (Checkpoint, 6),
        (Purge, 3),
        (Truncate, 1),
        (Install, 1),
    ];
    survive("applied_never_passes_the_log_after_a_power_cut", mix, &[]);
}

#[test]
fn revision_never_goes_backwards() {
    let mix = &[
        (Append, 8),
        (Commit, 8),
        (Apply, 8),
        (Checkpoint, 8),
        (Lag, 2),
        (Purge, 2),
        (Build, 1),
        (Install, 1),
        (Shrink, 3),
    ];
    let met =
        ["before the rename of a shrink", "in the rename of a shrink", "in the sync of a shrink's rename"];
    survive("revision_never_goes_backwards", mix, &met);
}

#[test]
fn snapshots_are_whole_or_absent_after_power_cuts() {
    let mix = &[
        (Install, 6),
        (Build, 6),
        (Append, 6),
        (Commit, 6),
        (Apply, 6),
        (Purge, 4),
        (Checkpoint, 1),
        (Lag, 1),
        (Truncate, 1),
        (Vote, 1),
    ];
    survive("snapshots_are_whole_or_absent_after_power_cuts", mix, &["in a rename", "in a snapshot build"]);
}

const _: () = assert!(TESTS * CUTS_OF_A_TEST >= 2_000);
