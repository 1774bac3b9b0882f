//! Raft's runtime in the simulation: one thread, virtual time, and no chance but the seed's.
//!
//! Tokio's channels work under any executor and are used as they are, except for `watch`, which wakes
//! its receivers in an order drawn from a generator that no seed reaches.

mod watch;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use self::watch::SimulatedWatch;

/// See the module.
#[derive(Debug)]
pub struct SimulatedRuntime(());

/// A future that is given so much time. (That of the simulator has no name.)
#[derive(Debug)]
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Pin<Box<madsim::time::Sleep>>,
}

impl<F: Future> Timeout<F> {
    fn new(future: F, sleep: madsim::time::Sleep) -> Self {
        Self { future: Box::pin(future), sleep: Box::pin(sleep) }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, madsim::time::error::Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| Err(madsim::time::error::Elapsed)),
        }
    }
}

impl AsyncRuntime for SimulatedRuntime {
    type JoinError = madsim::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = madsim::task::JoinHandle<T>;
    type Sleep = madsim::time::Sleep;
    // The simulator stands in for the clock of the C library, so this time is virtual.
    type Instant = Instant;
    type TimeoutError = madsim::time::error::Elapsed;
    type Timeout<R, F: Future<Output = R> + OptionalSend> = Timeout<F>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = TokioMpsc;
    type Watch = SimulatedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<F>(future: F) -> Self::JoinHandle<F::Output>
    where
        F: Future + OptionalSend + 'static,
        F::Output: OptionalSend + 'static,
    {
        madsim::task::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        madsim::time::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        madsim::time::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(future, madsim::time::sleep(duration))
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout::new(future, madsim::time::sleep_until(deadline))
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(madsim::rand::random())
    }

    fn new(_threads: usize) -> Self {
        Self(())
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        madsim::runtime::Runtime::new().block_on(future)
    }

    /// Runs it at once: there is one thread, and what would block takes no time here.
    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        madsim::task::spawn(async move { work() }).await.map_err(io::Error::from)
    }
}
