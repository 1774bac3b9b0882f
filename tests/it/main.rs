//! Integration tests, one binary for all topics.

mod bad_input;
mod layers;
mod support;
