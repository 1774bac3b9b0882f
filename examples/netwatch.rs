//! Prints this machine's interfaces, their addresses and the default route, and each change of them.
//!
//! ```text
//! cargo run --example netwatch
//! ```
//!
//! It looks through the library that iroh looks through, so it shows what a node has to go by: which
//! adapter carries the cluster, and what a node noticed when a cable was pulled. It runs until it is
//! interrupted.

use std::io::Write;

use anyhow::Context;
use n0_watcher::Watcher;
use netwatch::interfaces::State;
use netwatch::netmon::Monitor;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let monitor = Monitor::new().await.context("cannot watch the network")?;
    let mut watched = monitor.interface_state();
    let mut known = watched.get();
    print(&lines(&known), "  ")?;
    loop {
        let seen = watched.updated().await.context("the network is not watched any more")?;
        let (before, after) = (lines(&known), lines(&seen));
        let of = |lines: &[String], others: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        print(&of(&before, &after), "- ")?;
        print(&of(&after, &before), "+ ")?;
        known = seen;
    }
}

/// A line for each address, and what else is known of its interface.
fn lines(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for interface in state.interfaces.values() {
        let name = interface.name();
        let up = if interface.is_up() { "up" } else { "down" };
        let route =
            if state.default_route_interface.as_deref() == Some(name) { ", default route" } else { "" };
        lines.push(format!("{name}: {up}{route}"));
        lines.extend(interface.addrs().map(|net| format!("{name}: {}", net.addr())));
    }
    lines.sort();
    lines
}

fn print(lines: &[String], sign: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{sign}{line}")?;
    }
    Ok(out.flush()?)
}
