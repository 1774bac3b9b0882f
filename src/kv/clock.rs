//! The time of day, as it stands in commands, answers and reports.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of this machine since 1970 began.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
