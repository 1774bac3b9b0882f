//! Who looks after the state on disk, at an interval and when asked to: a thread, or a task in the
//! simulation, which has one thread and time of its own.

#[cfg(madsim)]
pub(crate) use simulated::{Bell, Caretaker};
#[cfg(not(madsim))]
pub(crate) use threaded::{Bell, Caretaker};

#[cfg(not(madsim))]
mod threaded {
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    use std::thread::JoinHandle;
    use std::time::Duration;

    use crate::storage::database::panic_message;

    /// A thread that does its work again and again. It ends, and is waited for, when this is dropped.
    #[derive(Debug)]
    pub(crate) struct Caretaker {
        bell: Arc<Bell>,
        thread: Option<JoinHandle<()>>,
    }

    /// Wakes the thread before its time.
    #[derive(Debug, Default)]
    pub(crate) struct Bell {
        rung: Mutex<Rung>,
        heard: Condvar,
    }

    #[derive(Debug, Default)]
    struct Rung {
        now: bool,
        stop: bool,
    }

    impl Bell {
        /// Asks for the work now.
        pub(crate) fn ring(&self) {
            self.lock().now = true;
            self.heard.notify_one();
        }

        fn stop(&self) {
            self.lock().stop = true;
            self.heard.notify_one();
        }

        /// Waits for the interval to pass or the bell to ring. Returns whether to go on.
        fn wait(&self, interval: Duration) -> bool {
            let (mut rung, _) = self
                .heard
                .wait_timeout_while(self.lock(), interval, |rung| !rung.now && !rung.stop)
                .expect("no code panics while it holds this lock");
            rung.now = false;
            !rung.stop
        }

        fn lock(&self) -> MutexGuard<'_, Rung> {
            self.rung.lock().expect("no code panics while it holds this lock")
        }
    }

    impl Caretaker {
        /// Begins. Work that panics is the last one, and its message goes to `panicked`.
        pub(crate) fn start(
            name: &str,
            bell: Arc<Bell>,
            interval: Duration,
            work: impl Fn() + Send + 'static,
            panicked: impl Fn(String) + Send + 'static,
        ) -> io::Result<Self> {
            let heard = bell.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                while heard.wait(interval) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(&work)) {
                        return panicked(panic_message(&*panic));
                    }
                }
            })?;
            Ok(Self { bell, thread: Some(thread) })
        }
    }

    impl Drop for Caretaker {
        fn drop(&mut self) {
            self.bell.stop();
            if let Some(thread) = self.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a thread that looks after the state panicked");
            }
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::{Bell, Caretaker};

    #[test]
    fn work_that_panics_is_told_of_and_is_the_last() {
        let bell = Arc::<Bell>::default();
        let (told, heard) = mpsc::channel();
        let work = || panic!("no such page");
        let panicked = move |message| told.send(message).unwrap();
        let hour = Duration::from_secs(3_600);
        let caretaker = Caretaker::start("test", bell.clone(), hour, work, panicked).unwrap();
        bell.ring();
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap(), "no such page");
        bell.ring();
        assert!(heard.recv_timeout(Duration::from_secs(10)).is_err(), "the thread has ended");
        drop(caretaker);
    }
}

#[cfg(madsim)]
mod simulated {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Notify;

    /// A task that does its work again and again. It ends with the node.
    #[derive(Debug)]
    pub(crate) struct Caretaker(());

    /// Wakes the task before its time.
    #[derive(Debug, Default)]
    pub(crate) struct Bell(Notify);

    impl Bell {
        /// Asks for the work now.
        pub(crate) fn ring(&self) {
            self.0.notify_one();
        }
    }

    impl Caretaker {
        pub(crate) fn start(
            _name: &str,
            bell: Arc<Bell>,
            interval: Duration,
            work: impl Fn() + Send + 'static,
            // A panic ends the simulation, which wants to hear of it.
            _panicked: impl Fn(String) + Send + 'static,
        ) -> io::Result<Self> {
            tokio::spawn(async move {
                // It holds only its bell and what the work needs, which a killed node takes along.
                loop {
                    tokio::time::timeout(interval, bell.0.notified()).await.ok();
                    work();
                }
            });
            Ok(Self(()))
        }
    }
}
