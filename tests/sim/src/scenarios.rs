//! The scenarios, one file each.

pub mod liveness;
mod mixed;

use crate::scenario::Scenario;

/// All scenarios.
pub const ALL: &[Scenario] = &[mixed::SCENARIO];
