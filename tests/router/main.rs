//! Scenarios of a replicated log, on real Raft nodes over a network in memory.
//!
//! A scenario in memory runs on a clock that leaps ahead whenever nothing is left to do; one on disk
//! runs on the real clock.

// All of this is test code, although clippy takes only the functions with `#[test]` for that.
#![allow(clippy::unwrap_used)]

#[path = "../support/router.rs"]
mod router;

/// Makes two tests of each scenario: one in memory and one on disk.
macro_rules! on_each_storage {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[tokio::test(start_paused = true)]
            async fn memory() {
                Box::pin(super::$name(crate::router::storage::Storage::Memory)).await;
            }

            #[tokio::test]
            async fn redb() {
                Box::pin(super::$name(crate::router::storage::Storage::Redb)).await;
            }
        })*
    };
}

/// Makes a test of each scenario that does not touch the disk, or takes long by the clock.
macro_rules! in_memory {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[tokio::test(start_paused = true)]
            async fn memory() {
                Box::pin(super::$name(crate::router::storage::Storage::Memory)).await;
            }
        })*
    };
}

/// Makes a test of each scenario that needs a disk which outlives its node.
macro_rules! on_disk {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[tokio::test]
            async fn redb() {
                Box::pin(super::$name(crate::router::storage::Storage::Redb)).await;
            }
        })*
    };
}

mod append_entries;
mod client_api;
mod elect;
mod life_cycle;
mod membership;
mod metrics;
mod replication;
mod routing;
mod snapshot_building;
mod snapshot_streaming;
mod state_machine;
