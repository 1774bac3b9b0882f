//! A watch channel that wakes its receivers in the order in which they began to wait.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use openraft_rt::watch::SendError;
use openraft_rt::{OptionalSend, OptionalSync, RecvError, Watch, WatchReceiver, WatchSender};
use tokio::sync::Notify;

const LOCK: &str = "no code panics while it holds this lock";

/// See the module.
#[derive(Debug)]
pub struct SimulatedWatch(());

struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().expect(LOCK))
    }

    fn publish(&self) {
        self.version.fetch_add(1, SeqCst);
        self.changed.notify_waiters();
    }
}

/// A look at the value.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The sending end.
pub struct Sender<T>(Arc<Shared<T>>);

/// A receiving end, with the version that it has seen.
pub struct Receiver<T>(Arc<Shared<T>>, u64);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, SeqCst);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.receivers.fetch_add(1, SeqCst);
        Self(self.0.clone(), self.1)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, SeqCst);
    }
}

impl Watch for SimulatedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
            changed: Notify::new(),
        });
        (Sender(shared.clone()), Receiver(shared, 0))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SimulatedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(SeqCst) == 0 {
            return Err(SendError(value));
        }
        *self.0.value.write().expect(LOCK) = value;
        self.0.publish();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.0.value.write().expect(LOCK));
        if modified {
            self.0.publish();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, SeqCst);
        Receiver(self.0.clone(), self.0.version.load(SeqCst))
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SimulatedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Before the look at the version: a change in between wakes it.
            let changed = self.0.changed.notified();
            let version = self.0.version.load(SeqCst);
            if version != self.1 {
                self.1 = version;
                return Ok(());
            }
            if self.0.senders.load(SeqCst) == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.read()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.1 = self.0.version.load(SeqCst);
        self.0.read()
    }
}
