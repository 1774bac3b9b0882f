//! What becomes of a program that is told to stop.

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Does the work, unless a signal comes that asks the program to end. All that the work has started ends then, as it
/// is dropped.
///
/// # Errors
/// That of the work, or the signal.
pub async fn unless_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let told = tokio::select! {
        done = work => return done,
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    };
    bail!("interrupted by {told}; all servers are stopped")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    struct Server<'a>(&'a Cell<bool>);

    impl Drop for Server<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    // One test: a signal is for the whole process, and so for every test that waits for one.
    #[tokio::test]
    async fn each_signal_ends_the_work_and_what_it_started_and_work_that_ends_by_itself_says_how() {
        for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP")] {
            let is_stopped = Cell::new(false);
            let work = async {
                let _server = Server(&is_stopped);
                kill_process(getpid(), signal)?;
                std::future::pending().await
            };
            let error = unless_stopped(work).await.unwrap_err().to_string();
            assert!(error.contains(name) && is_stopped.get(), "{error}");
        }
        unless_stopped(async { Ok(()) }).await.unwrap();
        let error = unless_stopped(async { bail!("no disk") }).await.unwrap_err();
        assert_eq!(error.to_string(), "no disk");
    }
}
