//! Integration tests, one binary for all topics.

mod layers;
