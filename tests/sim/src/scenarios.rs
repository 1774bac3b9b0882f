//! The scenarios, one file each.

mod churn;
mod elections;
mod hiqlite_flow;
pub mod liveness;
mod mixed;
mod purges;

use crate::scenario::Scenario;

/// All scenarios, the main one first.
pub const ALL: &[Scenario] =
    &[mixed::SCENARIO, elections::SCENARIO, churn::SCENARIO, purges::SCENARIO, hiqlite_flow::SCENARIO];
