//! What tests over real processes have in common.

pub mod cluster;
pub mod disk;
#[cfg(feature = "hiqlite")]
pub mod hiqlite;
pub mod hosts;
pub mod http;
pub mod node;
pub mod writers;

use std::io::Write;
use std::time::{Duration, Instant};

/// The longest that anything in these tests waits for something to become true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds, on the thread of a test.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    eventually_within(PATIENCE, what, condition).await;
}

/// Waits until the condition holds that takes longer than others.
pub async fn eventually_within(patience: Duration, what: &str, condition: impl AsyncFn() -> bool) {
    let until = Instant::now() + patience;
    while !condition().await {
        assert!(Instant::now() < until, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says that a test found out nothing, and why. Past the capture of output, for a test that is left out
/// passes, and `scripts/test.sh` is to name it.
pub fn skipped(test: &str, reason: &str) {
    writeln!(std::io::stderr(), "skipped: {test}: {reason}").ok();
}
