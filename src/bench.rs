//! A load generator: clients that each keep one request under way, and what they measured.
//!
//! It knows stores only as [`Target`], so that the same load can be put on another store for comparison.
//! With a rate, latency counts from the moment at which a request was due, so that a stall is seen by all
//! requests that it held up and not by one, also by those that were never sent for it.
//!
//! # Tiger Style
//! - It ends: after its duration and at most [`limits::BENCH_OPERATION_TIMEOUT_MS`](crate::limits), and
//!   before that once a client has no connection within `BENCH_CONNECT_TIMEOUT_MS`.
//! - A client has one request under way.

pub mod cpu;
pub mod http;
pub mod iroh;
pub mod load;
pub mod plan;
pub mod report;

use std::fmt;

pub use plan::{Kind, Mix, Operation, Plan};

/// A store under load.
pub trait Target: Send + Sync + 'static {
    /// One client's place at a connection.
    type Session: Session;

    /// Gives a client, counted from 0, its place, and opens its connection unless others have.
    fn connect(&self, client: usize) -> impl Future<Output = Result<Self::Session, OperationError>> + Send;
}

/// A connection to a store. After an error it may be used again.
pub trait Session: Send + 'static {
    /// Runs one operation to its end.
    fn run(&mut self, operation: &Operation) -> impl Future<Output = Result<(), OperationError>> + Send;
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationError(pub String);

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OperationError {}
