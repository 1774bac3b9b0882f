//! The second control backend: a table in the replicated SQLite of Hiqlite.
//!
//! For those who want SQL beside their keys, or run Hiqlite already. The process is a node of the Hiqlite
//! cluster itself (embedded) or a client of one (remote); [`Link`] hides which. Both interfaces of
//! [`crate::kv::interface`] stand on it: [`HiqliteStore`] and [`HiqliteCluster`]. What the backend cannot
//! do is answered with `unsupported_by_backend`, by name; `docs/backends.md` lists it.
//!
//! # Tiger Style
//! * Each read and write ends within [`crate::limits::REQUEST_TIMEOUT_MS`], each change of the membership
//!   within [`crate::limits::MEMBERSHIP_TIMEOUT_MS`], whatever Hiqlite does meanwhile.
//! * A write is one SQL statement, so it is applied whole or not at all.
//! * Keys and values are parameters and never part of a statement's text.

mod cluster;
mod evaluate;
mod link;
mod look;
mod management;
mod member;
mod schema;
mod statement;
mod store;
#[cfg(test)]
mod tests;
pub mod ticket;
mod view;

pub use cluster::{Founding, HiqliteCluster};
pub use link::{Link, Stage};
pub use management::{CallError, Management};
pub use member::{MemberError, Membership};
pub use store::HiqliteStore;
pub use view::View;

use crate::kv::types::KvError;

/// The backend's name, in errors and settings.
pub const BACKEND: &str = "hiqlite";

/// What this backend has no way to do.
fn unsupported(operation: &str) -> KvError {
    KvError::UnsupportedByBackend { backend: BACKEND.to_owned(), operation: operation.to_owned() }
}
