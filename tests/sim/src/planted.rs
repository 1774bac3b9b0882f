//! Whether the simulation finds the bugs that are put in on purpose.

use std::sync::Mutex;

use aspen::planted::Bug;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::many::{self, Plan};
use crate::scenario::Scenario;
use crate::world::lock;

/// Seeds in which each bug must be found.
pub const SEEDS_MAX: u64 = 500;

/// The scenario that looks for a bug: the mixed one, unless that is too unlikely to meet it.
fn scenario_for(bug: Bug) -> &'static str {
    match bug {
        Bug::VoteNotSynced | Bug::LeaderRestored => "elections",
        Bug::OldSessionAdmitted => "churn",
        Bug::PurgePastCheckpoint => "purges",
        _ => "mixed",
    }
}

/// What became of one bug.
pub struct Caught {
    /// The bug.
    pub bug: Bug,
    /// The scenario.
    pub scenario: &'static str,
    /// Seeds until it was found, with the invariant; absent if it was not.
    pub found: Option<(u64, String, String)>,
}

/// Looks for each bug.
pub fn hunt(from: u64, jobs: usize, begins: impl Fn(Bug)) -> Vec<Caught> {
    let caught = |bug: Bug| {
        begins(bug);
        let scenario = Scenario::named(scenario_for(bug)).expect("bugs are looked for in known scenarios");
        let end = from + SEEDS_MAX;
        let (mut next, mut found) = (from, None);
        while next < end && found.is_none() {
            let plan = Plan { from: next, seeds: end - next, until: None, jobs, stops_at_failure: true };
            let Some(first) = first_failure(scenario, plan, Some(bug)) else { break };
            next = first.0 + 1;
            // A seed that fails without the bug as well says nothing about it.
            let without = Plan { from: first.0, seeds: 1, ..plan };
            found = first_failure(scenario, without, None).is_none().then_some(first);
        }
        Caught { bug, scenario: scenario.name, found }
    };
    Bug::ALL.into_iter().map(caught).collect()
}

/// The lowest seed that fails, with the invariant and what was seen.
fn first_failure(scenario: &'static Scenario, plan: Plan, bug: Option<Bug>) -> Option<(u64, String, String)> {
    let first: Mutex<Option<(u64, String, String)>> = Mutex::new(None);
    many::run(scenario, plan, bug, |report| {
        let Some(violation) = &report.violation else { return };
        let mut first = lock(&first);
        // Threads may find it in several seeds.
        if first.as_ref().is_none_or(|(seed, ..)| report.seed < *seed) {
            *first = Some((report.seed, violation.invariant.clone(), violation.what.clone()));
        }
    });
    first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The hunt as a table.
pub fn table(from: u64, all: &[Caught]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["planted bug", "scenario", "seeds until caught", "invariant", "what was seen"]);
    for caught in all {
        let (seeds, invariant, what) = match &caught.found {
            Some((seed, invariant, what)) => ((seed - from + 1).to_string(), &**invariant, &**what),
            None => (format!("NOT in {SEEDS_MAX}"), "", ""),
        };
        let what: String = what.chars().take(70).collect();
        table.add_row([caught.bug.name(), caught.scenario, &seeds, invariant, &what]);
    }
    table
}
