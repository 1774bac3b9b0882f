//! Who looks after the state on disk, at an interval and when asked to: a thread, or a task in the
//! simulation, which has one thread and time of its own.

#[cfg(madsim)]
pub(crate) use simulated::{Bell, Caretaker};
#[cfg(not(madsim))]
pub(crate) use threaded::{Bell, Caretaker};

#[cfg(not(madsim))]
mod threaded {
    use std::io;
    use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    use std::thread::JoinHandle;
    use std::time::Duration;

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
        pub(crate) fn start(
            name: &str,
            bell: Arc<Bell>,
            interval: Duration,
            work: impl Fn() + Send + 'static,
        ) -> io::Result<Self> {
            let heard = bell.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                while heard.wait(interval) {
                    work();
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
