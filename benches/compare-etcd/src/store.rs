//! The stores that are compared.

pub mod aspen;
pub mod etcd;

use std::time::{Duration, Instant};

use anyhow::anyhow;

/// Time for three nodes to be one cluster.
const FORMING_TIMEOUT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(50);

/// The nodes in their order, the leader's place first: one client is then at the leader, whichever store it is.
fn leader_first<T>(mut nodes: Vec<T>, leader_at: usize) -> Vec<T> {
    nodes.rotate_left(leader_at);
    nodes
}

/// Asks again until it succeeds, while a cluster forms.
async fn until_ok<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    until_ok_within(FORMING_TIMEOUT, what, ask).await
}

/// Asks again until it succeeds.
async fn until_ok_within<T, F: Future<Output = anyhow::Result<T>>>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(error) if began.elapsed() >= limit => {
                return Err(anyhow!("{what}: not within {} s: {error:#}", limit.as_secs()));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
