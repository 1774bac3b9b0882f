//! Whole clusters of Aspen under a seed, with virtual time, network and disks.
//!
//! What runs is the real thing: construction of Raft, storage on redb, service, apply. Only the network,
//! the disk and the clock are simulated, and all chance comes from the seed. So a run that fails can be
//! run again, and fails again.
//!
//! | module | holds |
//! |---|---|
//! | [`scenario`], `scenarios`, [`runner`], [`settings`] | what a run does |
//! | [`cluster`], [`machine`], [`network`], `observed_log` | what it does it to |
//! | [`client`], [`oracle`], [`history`] | clients, and what they may be told |
//! | [`nemesis`] | faults |
//! | [`invariants`] | what must hold |
//! | [`world`], [`trace`], [`chance`] | what is shared |
//! | [`many`], [`artifact`], [`planted`] | many runs, and what is kept of them |

#[cfg(not(madsim))]
compile_error!("without --cfg madsim this would run on real clocks: use scripts/simulate.sh");

pub mod artifact;
pub mod chance;
pub mod client;
pub mod cluster;
pub mod history;
pub mod invariants;
pub mod machine;
pub mod many;
pub mod nemesis;
pub mod network;
mod observed_log;
pub mod oracle;
pub mod planted;
pub mod runner;
pub mod scenario;
pub mod scenarios;
pub mod settings;
pub mod trace;
pub mod world;
