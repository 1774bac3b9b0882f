//! Calls a node as strangers do, at a steady rate:
//!
//! ```text
//! cargo run --release --example strangers -- "$(cat n1/endpoint)" 200 10      # a second, seconds
//! ```
//!
//! Each connection comes from one of many keys and of twenty addresses on loopback, on each protocol in turn.
//! It is a tool for measuring, and for nothing else: `scripts/strangers.sh` says what it does to a cluster.

#![allow(clippy::print_stdout, reason = "it tells what became of them")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aspen::kv::types::Peer;
use aspen::transport::ticket::NodeTicket;
use iroh::endpoint::{PortmapperConfig, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const ALPNS: [&[u8]; 5] =
    [b"aspen/raft/1", b"aspen/snapshot/1", b"aspen/client/1", b"aspen/join/1", b"aspen/actor/1"];
const SOURCES: u8 = 20;
const KEYS_OF_SOURCE: usize = 5;
const UNDER_WAY_MAX_COUNT: usize = 256;
const END_WITHIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), anyhow::Error> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: strangers TICKET CONNECTIONS_A_SECOND SECONDS";
    let node: Peer = arguments.next().context(usage)?.parse::<NodeTicket>()?.into();
    let rate: f64 = arguments.next().context(usage)?.parse().context(usage)?;
    let seconds: f64 = arguments.next().context(usage)?.parse().context(usage)?;
    let addr = EndpointAddr::new(EndpointId::from_bytes(&node.info.public_key.0)?)
        .with_ip_addr(*node.info.addresses.first().context("the ticket has no address")?);

    let mut strangers = Vec::new();
    for source in 1..=SOURCES {
        for _ in 0..KEYS_OF_SOURCE {
            strangers.push(stranger(source).await?);
        }
    }
    println!("{} strangers are ready", strangers.len());
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX_COUNT));
    let (mut calls, mut unseen, mut closed) = (JoinSet::new(), 0_u64, 0_u64);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let until = tokio::time::Instant::now() + Duration::from_secs_f64(seconds);
    let mut number = 0;
    while tokio::time::Instant::now() < until {
        ticks.tick().await;
        let permit = under_way.clone().acquire_owned().await?;
        let (endpoint, addr) = (strangers[number % strangers.len()].clone(), addr.clone());
        let alpn = ALPNS[number % ALPNS.len()];
        number += 1;
        calls.spawn(async move {
            let has_shaken_hands = call(&endpoint, addr, alpn).await;
            drop(permit);
            has_shaken_hands
        });
        while let Some(ended) = calls.try_join_next() {
            if ended? { closed += 1 } else { unseen += 1 }
        }
    }
    while let Some(ended) = calls.join_next().await {
        if ended? { closed += 1 } else { unseen += 1 }
    }
    println!("{number} connections: {closed} were closed after their handshake, {unseen} had none");
    Ok(())
}

async fn stranger(source: u8) -> Result<Endpoint, anyhow::Error> {
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((Ipv4Addr::new(127, 0, 1, source), 0)))?;
    Ok(builder.bind().await?)
}

/// Whether the node had a handshake with it before it closed the connection.
async fn call(endpoint: &Endpoint, node: EndpointAddr, alpn: &[u8]) -> bool {
    let Ok(Ok(connection)) = tokio::time::timeout(END_WITHIN, endpoint.connect(node, alpn)).await else {
        return false;
    };
    let ended = tokio::time::timeout(END_WITHIN, connection.closed()).await;
    connection.close(0_u32.into(), b"");
    ended.is_ok()
}
