//! The clients at work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::plan::{Kind, Operation, Plan};
use super::{OperationError, Session, Target};
use crate::limits;

/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// What was measured of one kind of operation.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Latencies in microseconds, those of failed operations left out.
    pub latency_us: Histogram<u64>,
    /// Failed operations.
    pub errors: u64,
}

impl Default for Measured {
    fn default() -> Self {
        // Whatever takes longer was given up.
        let longest_us = limits::BENCH_OPERATION_TIMEOUT_MS * 2_000;
        let latency_us = Histogram::new_with_bounds(1, longest_us, DIGITS).expect("the bounds are valid");
        Self { latency_us, errors: 0 }
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By kind.
    pub kinds: BTreeMap<Kind, Measured>,
    /// Time that was measured.
    pub measured: Duration,
    /// The first error, for the reader of the report.
    pub first_error: Option<OperationError>,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        for (kind, measured) in other.kinds {
            let own = self.kinds.entry(kind).or_default();
            own.latency_us.add(&measured.latency_us).expect("histograms of one kind have one range");
            own.errors += measured.errors;
        }
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Progress that somebody may look at.
#[derive(Debug, Default)]
pub struct Done(AtomicU64);

impl Done {
    /// Operations so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets each key once, so that reads find something. Returns how many could not be set.
///
/// # Errors
/// If no client can connect.
pub async fn preload<T: Target>(target: Arc<T>, plan: &Plan, done: Arc<Done>) -> Result<u64, OperationError> {
    let clients = plan.clients.clamp(1, 64);
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let mut session = target.connect(client).await?;
        let (plan, done) = (plan.clone(), done.clone());
        tasks.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(plan.seed ^ client as u64);
            let mut failed = 0;
            for number in (client as u64..plan.keys).step_by(clients) {
                let operation =
                    Operation { kind: Kind::Put, key: plan.key(number), value: plan.value(&mut rng) };
                if run_bounded(&mut session, &operation).await.is_err() {
                    failed += 1;
                }
                done.0.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
    }
    Ok(tasks.join_all().await.into_iter().sum())
}

/// Runs the load and returns what was measured after the warm-up. `at_start` runs when measuring
/// begins, `at_end` when it ends.
///
/// # Errors
/// If a client cannot connect.
pub async fn run<T: Target>(
    target: Arc<T>,
    plan: &Plan,
    done: Arc<Done>,
    at_start: impl AsyncFnOnce(),
    at_end: impl AsyncFnOnce(),
) -> Result<Outcome, OperationError> {
    let mut sessions = Vec::new();
    for client in 0..plan.clients {
        sessions.push(target.connect(client).await?);
    }
    let measured_from = Instant::now() + plan.warmup;
    let until = measured_from + plan.duration;
    let mut tasks = JoinSet::new();
    for (client, session) in sessions.into_iter().enumerate() {
        let load = Client { plan: plan.clone(), client, measured_from, until, done: done.clone() };
        tasks.spawn(load.run(session));
    }
    tokio::time::sleep_until(measured_from).await;
    at_start().await;
    tokio::time::sleep_until(until).await;
    at_end().await;
    let mut outcome = Outcome { measured: plan.duration, ..Outcome::default() };
    for kind in plan.mix.kinds() {
        outcome.kinds.entry(kind).or_default();
    }
    for part in tasks.join_all().await {
        outcome.merge(part);
    }
    Ok(outcome)
}

struct Client {
    plan: Plan,
    client: usize,
    measured_from: Instant,
    until: Instant,
    done: Arc<Done>,
}

impl Client {
    async fn run<S: Session>(self, mut session: S) -> Outcome {
        let mut rng = SmallRng::seed_from_u64(self.plan.seed.wrapping_add(1 + self.client as u64));
        let mut outcome = Outcome::default();
        let pace = self.plan.rate.map(|rate| Duration::from_secs_f64(self.plan.clients as f64 / rate));
        // Spread, so that the clients do not all start in the same moment.
        let mut due = Instant::now()
            + pace.map_or(Duration::ZERO, |pace| pace.mul_f64(self.client as f64 / self.plan.clients as f64));
        loop {
            if pace.is_some() {
                tokio::time::sleep_until(due).await;
            } else {
                due = Instant::now();
            }
            if due >= self.until || Instant::now() >= self.until {
                return outcome;
            }
            let operation = self.plan.draw(&mut rng);
            let result = run_bounded(&mut session, &operation).await;
            self.done.0.fetch_add(1, Ordering::Relaxed);
            let is_measured = due >= self.measured_from && Instant::now() <= self.until;
            match result {
                Ok(()) if is_measured => {
                    let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    outcome
                        .kinds
                        .entry(operation.kind)
                        .or_default()
                        .latency_us
                        .saturating_record(latency.max(1));
                }
                Ok(()) => {}
                // An error counts whenever it came: it is never to be overlooked.
                Err(error) => {
                    outcome.kinds.entry(operation.kind).or_default().errors += 1;
                    outcome.first_error.get_or_insert(error);
                }
            }
            if let Some(pace) = pace {
                due += pace;
            }
        }
    }
}

async fn run_bounded<S: Session>(session: &mut S, operation: &Operation) -> Result<(), OperationError> {
    let bound = Duration::from_millis(limits::BENCH_OPERATION_TIMEOUT_MS);
    match tokio::time::timeout(bound, session.run(operation)).await {
        Ok(result) => result,
        Err(_) => Err(OperationError(format!("no answer within {} ms", bound.as_millis()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that takes 10 ms for each operation, stalls for a second once, and fails each tenth.
    #[derive(Default)]
    struct Slow {
        asked: AtomicU64,
    }

    struct SlowSession(Arc<Slow>);

    impl Target for Arc<Slow> {
        type Session = SlowSession;

        async fn connect(&self, _client: usize) -> Result<SlowSession, OperationError> {
            Ok(SlowSession(self.clone()))
        }
    }

    impl Session for SlowSession {
        async fn run(&mut self, _operation: &Operation) -> Result<(), OperationError> {
            let number = self.0.asked.fetch_add(1, Ordering::Relaxed);
            let took_ms = if number == 50 { 1_000 } else { 10 };
            tokio::time::sleep(Duration::from_millis(took_ms)).await;
            if number % 10 == 9 { Err(OperationError("refused".to_owned())) } else { Ok(()) }
        }
    }

    fn plan(rate: Option<f64>) -> Plan {
        Plan {
            clients: 1,
            connections: 1,
            mix: "put".parse().expect("put is a mix"),
            value_bytes: 8,
            keys: 10,
            key_prefix: String::new(),
            warmup: Duration::ZERO,
            duration: Duration::from_secs(10),
            rate,
            seed: 1,
        }
    }

    async fn measure(rate: Option<f64>) -> Measured {
        let target = Arc::new(Arc::new(Slow::default()));
        let outcome = run(target, &plan(rate), Arc::default(), async || (), async || ()).await.unwrap();
        assert_eq!(outcome.first_error, Some(OperationError("refused".to_owned())));
        outcome.kinds[&Kind::Put].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_counts_for_every_operation_that_was_due_meanwhile() {
        let measured = measure(Some(50.0)).await;
        let late = measured.latency_us.count_between(100_000, u64::MAX);
        assert!(
            (60..100).contains(&late),
            "50 were due within a second, and as many again to catch up: {late}"
        );
        assert!(measured.latency_us.max() >= 1_000_000, "{}", measured.latency_us.max());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_a_client_asks_again_once_it_has_its_answer_and_failures_are_counted() {
        let measured = measure(None).await;
        let all = measured.latency_us.len() + measured.errors;
        assert!((800..=1_000).contains(&all), "10 ms each in 10 s, less a second: {all}");
        assert!((80..=100).contains(&measured.errors), "{}", measured.errors);
        assert_eq!(measured.latency_us.count_between(100_000, u64::MAX), 1);
    }
}
