//! One confirmation of the leadership for all reads that wait for one.
//!
//! A read may use a round only if the round began after the read did. So reads that arrive while a
//! round is under way share the next one.

use tokio::sync::{mpsc, oneshot};

use crate::kv::types::KvError;
use crate::limits;

type Waiter = oneshot::Sender<Result<u64, KvError>>;

/// Shares rounds of read index among reads.
pub(super) struct ReadIndex(mpsc::Sender<Waiter>);

impl ReadIndex {
    /// Starts the task that runs the rounds. It ends when this is dropped.
    pub(super) fn start<F, R>(round: F) -> Self
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Result<u64, KvError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(limits::HTTP_REQUESTS_MAX_COUNT);
        tokio::spawn(run(receiver, round));
        Self(sender)
    }

    /// The log index that a read which begins now must wait for.
    pub(super) async fn confirm(&self) -> Result<u64, KvError> {
        let ended = || KvError::Stopping { reason: "the service has ended".to_owned() };
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }
}

async fn run<F, R>(mut receiver: mpsc::Receiver<Waiter>, round: F)
where
    F: Fn() -> R + Send,
    R: Future<Output = Result<u64, KvError>> + Send,
{
    let mut waiters = Vec::new();
    while receiver.recv_many(&mut waiters, limits::HTTP_REQUESTS_MAX_COUNT).await > 0 {
        let result = round().await;
        for waiter in waiters.drain(..) {
            // A waiter that has given up is none of our business.
            waiter.send(result.clone()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

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
                async move { shared.confirm().await }
            })
        };

        let first = confirm();
        while started.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..10).map(|_| confirm()).collect();
        while shared.0.capacity() > limits::HTTP_REQUESTS_MAX_COUNT - 10 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(1));
        for read in later {
            assert_eq!(read.await.unwrap(), Ok(2), "ten reads shared the second round");
        }
    }
}
