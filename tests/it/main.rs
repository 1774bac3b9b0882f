//! Integration tests, one binary for all topics.

mod failover;
mod layers;
mod support;
