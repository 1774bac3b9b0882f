//! A relay without encryption, for tests of clusters whose nodes have no direct path.
//!
//! ```text
//! cargo run --example relay -- 0.0.0.0:3340
//! ```
//!
//! What it carries is encrypted by the nodes. It tells systemd when it listens, and runs until it is
//! told to stop.

use std::net::SocketAddr;

use anyhow::Context;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = std::env::args().nth(1).context("name an address and a port, such as 0.0.0.0:3340")?;
    let addr: SocketAddr = addr.parse().with_context(|| format!("{addr} is no address with a port"))?;
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(addr));
    let mut relay = Server::spawn(config).await.with_context(|| format!("cannot listen on {addr}"))?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("systemd cannot be told")?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        ended = relay.join() => return Ok(ended.context("the relay failed")??),
    }
    relay.shutdown().await.context("the relay did not stop in order")
}
