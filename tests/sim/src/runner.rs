//! Runs a scenario under a seed: on a thread of its own, in a world of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use aspen::planted::{self, Bug};
use madsim::runtime::Runtime;

use crate::cluster::Cluster;
use crate::oracle::Oracle;
use crate::scenario::{Run, Scenario};
use crate::settings::Settings;
use crate::world::{Violation, World, lock};

/// Virtual time after which a run is taken to be stuck.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The seed.
    pub seed: u64,
    /// The settings; absent if the run did not get that far.
    pub settings: Option<Settings>,
    /// Hash of everything that happened.
    pub hash: u64,
    /// How much did.
    pub events: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Figures by name.
    pub figures: BTreeMap<String, u64>,
    /// Answers to clients that were held against what is known.
    pub checked: u64,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// What shaped the run.
    pub milestones: Vec<String>,
    /// The end of the trace.
    pub last_events: Vec<String>,
}

/// Runs a scenario under a seed, with a bug or none.
pub fn run(scenario: &'static Scenario, seed: u64, bug: Option<Bug>) -> Report {
    catch_panics();
    let world = World::default();
    let outcome: Arc<Mutex<Outcome>> = Arc::default();
    let thread = {
        let (world, outcome) = (world.clone(), outcome.clone());
        // A thread has one order of its hash maps, which the simulator seeds: so each run has its own.
        std::thread::Builder::new().name(format!("{}-{seed}", scenario.name)).spawn(move || {
            planted::plant(bug);
            let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
            runtime.set_time_limit(RUN_TIMEOUT);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(play(scenario, world.clone(), outcome.clone()));
            }));
            if done.is_err() {
                let message = LAST_PANIC.take();
                lock(&outcome).panic = Some(message);
                // What is left of it may panic again.
                std::mem::forget(runtime);
            }
        })
    };
    let joined = thread.expect("the system gives a thread").join();
    let outcome = std::mem::take(&mut *lock(&outcome));
    let panic =
        joined.is_err().then(|| "a panic while the run was cleared away".to_owned()).or(outcome.panic);
    let panicked = panic.map(|message| Violation::new("no panic", "a task panicked", "none does", message));
    let trace = world.trace();
    let (milestones, last_events) = trace.lines();
    Report {
        scenario: scenario.name,
        seed,
        settings: outcome.settings,
        hash: trace.hash(),
        events: trace.events(),
        virtual_time: outcome.virtual_time,
        figures: world.figures(),
        checked: outcome.checked,
        violation: world.violation().or(panicked),
        milestones,
        last_events,
    }
}

#[derive(Default)]
struct Outcome {
    settings: Option<Settings>,
    virtual_time: Duration,
    checked: u64,
    panic: Option<String>,
}

async fn play(scenario: &'static Scenario, world: World, outcome: Arc<Mutex<Outcome>>) {
    let settings = Arc::new((scenario.settings)());
    lock(&outcome).settings = Some((*settings).clone());
    let cluster = Cluster::new(world.clone(), settings);
    let run = Run { cluster: cluster.clone(), oracle: Arc::new(Mutex::new(Oracle::default())) };
    let played = tokio::select! {
        biased;
        () = world.violated() => Ok(()),
        played = (scenario.script)(run.clone()) => played,
    };
    if let Err(violation) = played {
        world.broken(violation);
    }
    {
        let mut outcome = lock(&outcome);
        outcome.virtual_time = madsim::time::TimeHandle::current().elapsed();
        outcome.checked = lock(&run.oracle).checks();
    }
    cluster.close();
    // The tasks of what was ended are dropped when their turn comes.
    madsim::time::sleep(Duration::from_millis(10)).await;
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics of runs, which are findings, off the terminal.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.contains('-')) {
                LAST_PANIC.with_borrow_mut(|last| {
                    if last.is_empty() {
                        *last = info.to_string();
                    }
                });
            } else {
                usual(info);
            }
        }));
    });
}
