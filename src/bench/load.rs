//! The clients at work.
//!
//! An operation is measured if it was due in the measured time, whenever it ended: the last ones of a run that
//! ends in a stall are those that tell of it. With a rate, those that were due and could not even be sent count
//! as well, with the time that they had waited at the end.
//!
//! # Tiger Style
//! - A client connects within [`limits::BENCH_CONNECT_TIMEOUT_MS`], and an operation ends within
//!   [`limits::BENCH_OPERATION_TIMEOUT_MS`].
//! - Every operation that is due is in exactly one count: succeeded, failed or not sent.

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
    /// Latencies in microseconds, those of failed operations left out. Of those that were not sent, the time
    /// that they had waited: their latency would have been at least that.
    pub latency_us: Histogram<u64>,
    /// Failed operations.
    pub errors: u64,
    /// Operations that were due and not sent before the end, because the one before them had no answer yet.
    pub not_sent: u64,
}

impl Default for Measured {
    fn default() -> Self {
        // It grows: behind a rate that is too high, waiting has no bound but the run.
        let latency_us = Histogram::new(DIGITS).expect("the number of digits is valid");
        Self { latency_us, errors: 0, not_sent: 0 }
    }
}

impl Measured {
    /// Operations that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.latency_us.len() - self.not_sent
    }

    fn record(&mut self, waited: Duration, count: u64) {
        let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latency_us.record_n(waited_us, count).expect("the histogram grows");
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
    /// Latencies of all kinds together, in microseconds.
    pub fn latency_us(&self) -> Histogram<u64> {
        let mut all = Measured::default().latency_us;
        for measured in self.kinds.values() {
            all.add(&measured.latency_us).expect("the histogram grows");
        }
        all
    }

    fn merge(&mut self, other: Self) {
        for (kind, measured) in other.kinds {
            let own = self.kinds.entry(kind).or_default();
            own.latency_us.add(&measured.latency_us).expect("the histogram grows");
            own.errors += measured.errors;
            own.not_sent += measured.not_sent;
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

/// Sets each key once, so that reads find something. The first failure ends it: what cannot take one key in its
/// time would take hours for all.
///
/// # Errors
/// If a client cannot connect, or a key cannot be set.
pub async fn preload<T: Target>(target: Arc<T>, plan: &Plan, done: Arc<Done>) -> Result<(), OperationError> {
    let clients = plan.clients.clamp(1, 64);
    // Those that are still at work end with it.
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let mut session = connect_bounded(target.as_ref(), client).await?;
        let (plan, done) = (plan.clone(), done.clone());
        tasks.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(plan.seed ^ client as u64);
            for number in (client as u64..plan.keys).step_by(clients) {
                let operation =
                    Operation { kind: Kind::Put, key: plan.key(number), value: plan.value(&mut rng) };
                let set = run_bounded(&mut session, &operation).await;
                set.map_err(|OperationError(why)| {
                    OperationError(format!("the key {} could not be set: {why}", operation.key))
                })?;
                done.0.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a client does not panic")?;
    }
    Ok(())
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
        sessions.push(connect_bounded(target.as_ref(), client).await?);
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
        let pace = pace.map(|pace| pace.max(Duration::from_nanos(1)));
        // Spread, so that the clients do not all start in the same moment.
        let mut due = Instant::now()
            + pace.map_or(Duration::ZERO, |pace| pace.mul_f64(self.client as f64 / self.plan.clients as f64));
        loop {
            if pace.is_none() {
                due = Instant::now();
            }
            if due >= self.until {
                return outcome;
            }
            if let Some(pace) = pace {
                tokio::time::sleep_until(due).await;
                if Instant::now() >= self.until {
                    self.leave(due, pace, &mut rng, &mut outcome);
                    return outcome;
                }
            }
            let operation = self.plan.draw(&mut rng);
            let result = run_bounded(&mut session, &operation).await;
            self.done.0.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(()) if due >= self.measured_from => {
                    outcome.kinds.entry(operation.kind).or_default().record(due.elapsed(), 1);
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

    /// Counts what was due in the measured time and is not sent any more.
    fn leave(&self, due: Instant, pace: Duration, rng: &mut SmallRng, outcome: &mut Outcome) {
        let now = Instant::now();
        let mut due = due.max(self.measured_from);
        let backlog = self.until.duration_since(due).as_nanos().div_ceil(pace.as_nanos());
        let mut left = u64::try_from(backlog).unwrap_or(u64::MAX);
        // One by one, unless the rate was so absurd that counting would take as long as the run.
        let at_once = left.div_ceil(limits::BENCH_LEFT_STEPS_MAX_COUNT).max(1);
        while left > 0 {
            let count = at_once.min(left);
            let measured = outcome.kinds.entry(self.plan.mix.draw(rng)).or_default();
            measured.record(now.duration_since(due), count);
            measured.not_sent += count;
            due += pace.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
            left -= count;
        }
    }
}

async fn connect_bounded<T: Target>(target: &T, client: usize) -> Result<T::Session, OperationError> {
    let bound = Duration::from_millis(limits::BENCH_CONNECT_TIMEOUT_MS);
    match tokio::time::timeout(bound, target.connect(client)).await {
        Ok(connected) => connected,
        Err(_) => {
            Err(OperationError(format!("client {client} has no connection after {} ms", bound.as_millis())))
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
    use super::super::report::Report;
    use super::*;

    /// A store that takes 10 ms for each operation, stalls once, and fails each tenth.
    struct Slow {
        asked: AtomicU64,
        stalls_at: u64,
        stall_ms: u64,
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
            let took_ms = if number == self.0.stalls_at { self.0.stall_ms } else { 10 };
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

    async fn measure(rate: Option<f64>, stalls_at: u64, stall_ms: u64) -> Measured {
        let target = Arc::new(Arc::new(Slow { asked: AtomicU64::new(0), stalls_at, stall_ms }));
        let outcome = run(target, &plan(rate), Arc::default(), async || (), async || ()).await.unwrap();
        assert_eq!(outcome.first_error, Some(OperationError("refused".to_owned())));
        outcome.kinds[&Kind::Put].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_counts_for_every_operation_that_was_due_meanwhile() {
        let measured = measure(Some(50.0), 50, 1_000).await;
        let late = measured.latency_us.count_between(100_000, u64::MAX);
        assert!(
            (60..100).contains(&late),
            "50 were due within a second, and as many again to catch up: {late}"
        );
        assert!(measured.latency_us.max() >= 1_000_000, "{}", measured.latency_us.max());
        assert_eq!(measured.not_sent, 0, "it had caught up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_over_the_end_shows_with_all_of_its_length() {
        let measured = measure(None, 850, 2_000).await;
        assert!(measured.latency_us.max() >= 2_000_000, "{}", measured.latency_us.max());
        assert_eq!((measured.not_sent, measured.latency_us.count_between(100_000, u64::MAX)), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stall_kept_from_being_sent_before_the_end_is_counted_with_its_wait() {
        // Due at 9.5 s, answered at 10.5 s: of those that were due in between none is sent.
        let measured = measure(Some(50.0), 475, 1_000).await;
        assert_eq!(measured.not_sent, 24);
        assert_eq!(measured.succeeded() + measured.errors, 476);
        let late = measured.latency_us.count_between(400_000, u64::MAX);
        assert_eq!(late, 25, "they were due up to 9.98 s and had waited until 10.5 s");

        let report = Report::new(
            &plan(Some(50.0)),
            &Outcome {
                kinds: [(Kind::Put, measured)].into(),
                measured: Duration::from_secs(10),
                first_error: None,
            },
            None,
        );
        assert_eq!((report.not_sent, report.kinds[0].not_sent), (24, 24));
        assert_eq!(report.kinds[0].operations + report.errors, 476, "what was not sent is no operation");
        assert!(report.kinds[0].p99_ms >= 900.0, "{}", report.kinds[0].p99_ms);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_of_millions_is_counted_to_the_last_one() {
        let plan = Plan { rate: Some(1e7), ..plan(None) };
        let target = Arc::new(Arc::new(Slow { asked: AtomicU64::new(0), stalls_at: 3, stall_ms: 9_980 }));
        let outcome = run(target, &plan, Arc::default(), async || (), async || ()).await.unwrap();
        let measured = &outcome.kinds[&Kind::Put];
        assert_eq!(measured.succeeded() + measured.errors + measured.not_sent, 100_000_000);
        assert!(measured.latency_us.max() > 9_000_000, "{}", measured.latency_us.max());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_a_client_asks_again_once_it_has_its_answer_and_failures_are_counted() {
        let measured = measure(None, 50, 1_000).await;
        let all = measured.latency_us.len() + measured.errors;
        assert!((800..=1_000).contains(&all), "10 ms each in 10 s, less a second: {all}");
        assert!((80..=100).contains(&measured.errors), "{}", measured.errors);
        assert_eq!(measured.latency_us.count_between(100_000, u64::MAX), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_preload_ends_at_the_first_failure_and_says_what_it_was() {
        let target = Arc::new(Slow { asked: AtomicU64::new(0), stalls_at: u64::MAX, stall_ms: 0 });
        let plan = Plan { keys: 1_000, ..plan(None) };
        let error = preload(Arc::new(target.clone()), &plan, Arc::default()).await.unwrap_err();
        assert_eq!(error.0, "the key 0000000009 could not be set: refused");
        assert_eq!(target.asked.load(Ordering::Relaxed), 10, "nothing is asked after a failure");
    }

    #[test]
    fn the_latencies_of_a_mix_are_those_of_all_its_kinds() {
        let mut outcome = Outcome::default();
        outcome.kinds.entry(Kind::Get).or_default().record(Duration::from_millis(1), 990);
        outcome.kinds.entry(Kind::Put).or_default().record(Duration::from_millis(80), 10);
        let all = outcome.latency_us();
        assert_eq!(all.len(), 1_000);
        assert!(all.value_at_quantile(0.99) < 2_000, "the puts are one in a hundred");
        assert!(all.max() >= 80_000);
    }

    /// Lets nobody in, and never says so.
    struct Silent;

    impl Target for Silent {
        type Session = SlowSession;

        async fn connect(&self, _client: usize) -> Result<SlowSession, OperationError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_come_about_ends_preload_and_load() {
        let preloaded = preload(Arc::new(Silent), &plan(None), Arc::default()).await.unwrap_err();
        let loaded = run(Arc::new(Silent), &plan(None), Arc::default(), async || (), async || ()).await;
        for error in [preloaded, loaded.unwrap_err()] {
            assert!(error.0.contains("no connection after 10000 ms"), "{error}");
        }
    }
}
