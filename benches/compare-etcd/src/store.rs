//! The stores that are compared.

pub mod aspen;
pub mod etcd;

use std::time::{Duration, Instant};

use anyhow::anyhow;

/// Time for three nodes to be one cluster.
const FORMING_TIMEOUT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(50);

/// Asks again until it succeeds.
async fn until_ok<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(error) if began.elapsed() >= FORMING_TIMEOUT => {
                return Err(anyhow!("{what}: not within {} s: {error:#}", FORMING_TIMEOUT.as_secs()));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
