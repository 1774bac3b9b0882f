//! The command line: run seeds, run one again, look for planted bugs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aspen_sim::artifact::ArtifactBuilder;
use aspen_sim::many::{self, Plan};
use aspen_sim::runner::{self, Report};
use aspen_sim::scenario::Scenario;
use aspen_sim::{planted, scenarios};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs simulated clusters of Aspen.
#[derive(Parser)]
#[command(name = "simulate.sh")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Stop after this many hours, whatever is left; without --seeds, run until then.
    #[arg(long)]
    hours: Option<f64>,
    /// Runs at a time; one for each core if absent.
    #[arg(long)]
    jobs: Option<usize>,
    /// The scenario; all of them, the mixed one most, if absent.
    #[arg(long)]
    scenario: Option<String>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone, and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Look for the bugs that are planted on purpose.
    #[arg(long)]
    planted: bool,
    /// Keep the run of --seed as an artifact, although it passed.
    #[arg(long)]
    keep: bool,
    /// Where artifacts go.
    #[arg(long, default_value = "docs/simulations")]
    artifacts: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Says whether all is well.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let jobs = match arguments.jobs {
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(2, usize::from),
    };
    if arguments.planted {
        return Ok(hunt(arguments.from, jobs));
    }
    let scenario = arguments.scenario.as_deref().map(named).transpose()?;
    if let Some(seed) = arguments.seed {
        return replay(arguments, scenario.unwrap_or(&scenarios::ALL[0]), seed);
    }
    let mut all_well = true;
    for scenario in scenarios::ALL.iter().filter(|each| scenario.is_none_or(|only| only.name == each.name)) {
        // Others are narrower: a few seeds of each show that they hold.
        let is_main = scenario.name == scenarios::ALL[0].name || arguments.scenario.is_some();
        let seeds = if is_main { arguments.seeds } else { arguments.seeds.div_ceil(10) };
        all_well &= run_scenario(arguments, scenario, seeds, jobs)?;
    }
    Ok(all_well)
}

fn named(name: &str) -> anyhow::Result<&'static Scenario> {
    let names: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
    Scenario::named(name)
        .with_context(|| format!("no scenario is called '{name}'. Scenarios: {}", names.join(", ")))
}

fn run_scenario(
    arguments: &Arguments,
    scenario: &'static Scenario,
    seeds: u64,
    jobs: usize,
) -> anyhow::Result<bool> {
    for seed in (arguments.from..).take(SEEDS_RUN_TWICE.min(usize::try_from(seeds)?)) {
        ensure_deterministic(scenario, seed)?;
    }
    let began = Instant::now();
    let until = match arguments.hours {
        Some(hours) => Some(began + Duration::try_from_secs_f64(hours * 3_600.0)?),
        None => None,
    };
    let bar = ProgressBar::new(seeds);
    let style = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {eta} {msg}")?;
    bar.set_style(style);
    bar.set_prefix(scenario.name);
    let plan = Plan { from: arguments.from, seeds, until, jobs, stops_at_failure: false };
    let summary = many::run(scenario, plan, None, |report| {
        bar.inc(1);
        if report.violation.is_some() {
            bar.suspend(|| tell_failure(arguments, report));
        }
    });
    bar.finish_and_clear();
    println!("{}: {}\n{}", scenario.name, scenario.purpose, summary.table(began.elapsed()));
    Ok(summary.failures.is_empty())
}

/// Seeds of each scenario that are run a second time. One is too few: what differs may need a fault that a
/// seed has and another has not.
const SEEDS_RUN_TWICE: usize = 10;

/// The same seed twice: whatever differs would make every failure impossible to repeat.
fn ensure_deterministic(scenario: &'static Scenario, seed: u64) -> anyhow::Result<()> {
    let (first, second) = (runner::run(scenario, seed, None), runner::run(scenario, seed, None));
    if first.hash != second.hash {
        bail!(
            "seed {seed} of {} is not deterministic: its trace has the hash {:016x} and then {:016x}, {} and {} events",
            scenario.name,
            first.hash,
            second.hash,
            first.events,
            second.events
        );
    }
    println!("{}: seed {seed} twice gives the trace {:016x}", scenario.name, first.hash);
    Ok(())
}

fn tell_failure(arguments: &Arguments, report: &Report) {
    let Some(violation) = &report.violation else { return };
    let artifact = ArtifactBuilder::new(report).build();
    eprintln!("FAILED {} seed {}: {}: {}", report.scenario, report.seed, violation.invariant, violation.what);
    eprintln!("  expected: {}\n  found:    {}", violation.expected, violation.found);
    match artifact.write(&arguments.artifacts) {
        Ok(path) => eprintln!("  kept in {}; run it again: {}", path.display(), artifact.replay),
        Err(error) => eprintln!("  could not be kept: {error}; run it again: {}", artifact.replay),
    }
}

fn replay(arguments: &Arguments, scenario: &'static Scenario, seed: u64) -> anyhow::Result<bool> {
    ensure_deterministic(scenario, seed)?;
    let report = runner::run(scenario, seed, None);
    println!("milestones:");
    report.milestones.iter().for_each(|line| println!("{line}"));
    println!("the last events:");
    report.last_events.iter().for_each(|line| println!("{line}"));
    println!("{} events, {:?} of virtual time", report.events, report.virtual_time);
    if report.violation.is_some() {
        tell_failure(arguments, &report);
        return Ok(false);
    }
    if arguments.keep {
        let path = ArtifactBuilder::new(&report).without_detail().build().write(&arguments.artifacts)?;
        println!("kept in {}", path.display());
    }
    println!("passed");
    Ok(true)
}

fn hunt(from: u64, jobs: usize) -> bool {
    let all = planted::hunt(from, jobs, |bug| println!("looking for: {}", bug.name()));
    println!("{}", planted::table(from, &all));
    all.iter().all(|caught| caught.found.is_some())
}
