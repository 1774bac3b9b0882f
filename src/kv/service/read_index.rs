//! One confirmation of the leadership for all reads that wait for one.
//!
//! A read may use a round only if the round began after the read did. So reads that arrive while a
//! round is under way share the next one. A read that finds none under way runs one of its own, on its own
//! task: to hand it to another and back takes longer than much of the round.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::kv::types::KvError;
use crate::limits;

type Waiter = oneshot::Sender<Result<u64, KvError>>;

/// Shares rounds of read index among reads.
pub(super) struct ReadIndex {
    waiters: mpsc::Sender<Waiter>,
    under_way: UnderWay,
}

impl ReadIndex {
    /// Starts the task that runs the rounds. It ends when this is dropped.
    pub(super) fn start<F, R>(round: F) -> Self
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<u64, KvError>> + Send + 'static,
    {
        let (waiters, receiver) = mpsc::channel(limits::HTTP_REQUESTS_MAX_COUNT);
        let under_way = UnderWay::default();
        tokio::spawn(run(receiver, round, under_way.clone()));
        Self { waiters, under_way }
    }

    /// The log index that a read which begins now must wait for. `own_round` is a round for it alone.
    pub(super) async fn confirm<R>(&self, own_round: impl FnOnce() -> R) -> Result<u64, KvError>
    where
        R: Future<Output = Result<u64, KvError>>,
    {
        if let Some(_round) = self.under_way.begin_alone() {
            return own_round().await;
        }
        let ended = || KvError::Stopping { reason: "the service has ended".to_owned() };
        let (sender, receiver) = oneshot::channel();
        self.waiters.send(sender).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }
}

async fn run<F, R>(mut receiver: mpsc::Receiver<Waiter>, round: F, under_way: UnderWay)
where
    F: Fn() -> R + Send,
    R: Future<Output = Result<u64, KvError>> + Send,
{
    let mut waiters = Vec::new();
    while receiver.recv_many(&mut waiters, limits::HTTP_REQUESTS_MAX_COUNT).await > 0 {
        let began = under_way.begin();
        let result = round().await;
        drop(began);
        for waiter in waiters.drain(..) {
            // A waiter that has given up is none of our business.
            waiter.send(result.clone()).ok();
        }
    }
}

/// How many rounds are under way.
#[derive(Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

/// A round under way. It ends also where its read is given up.
struct Round<'a>(&'a AtomicUsize);

impl UnderWay {
    /// Begins a round if there is no other.
    fn begin_alone(&self) -> Option<Round<'_>> {
        self.0.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).ok().map(|_| Round(&self.0))
    }

    fn begin(&self) -> Round<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Round(&self.0)
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::sync::Semaphore;

    use super::*;

    /// What a round for one read says.
    const ALONE: u64 = 1_000;

    #[tokio::test]
    async fn reads_share_a_round_that_began_after_them_and_no_other() {
        let started = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let shared = ReadIndex::start({
            let (started, gate) = (started.clone(), gate.clone());
            move || {
                let number = started.fetch_add(1, Ordering::SeqCst) + 1;
                let gate = gate.clone();
                async move {
                    gate.acquire().await.expect("the gate stays open").forget();
                    Ok(number)
                }
            }
        });
        let shared = Arc::new(shared);
        let confirm = || {
            tokio::spawn({
                let shared = shared.clone();
                async move { shared.confirm(|| async { Ok(ALONE) }).await }
            })
        };

        // Long enough for all others to come.
        let alone = shared.under_way.begin_alone().unwrap();
        let first = confirm();
        while started.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..10).map(|_| confirm()).collect();
        while shared.waiters.capacity() > limits::HTTP_REQUESTS_MAX_COUNT - 10 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(1));
        for read in later {
            assert_eq!(read.await.unwrap(), Ok(2), "ten reads shared the second round");
        }
        drop(alone);
        assert_eq!(confirm().await.unwrap(), Ok(ALONE), "no round is under way");
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_keeps_nobody_from_a_round_of_its_own() {
        let shared = ReadIndex::start(|| async { Ok(0) });
        {
            let mut given_up = std::pin::pin!(shared.confirm(std::future::pending));
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        assert_eq!(shared.confirm(|| async { Ok(ALONE) }).await, Ok(ALONE));
    }
}
