//! Real endpoints on loopback, with real Raft nodes behind them.

mod actors;
mod appends;
mod clients;
mod cluster;
mod door;
mod follower;
mod forwarding;
mod half_begun;
mod heartbeats;
mod reach;
mod relay;
mod silence;
mod slow_disk;
mod streams;
mod support;
