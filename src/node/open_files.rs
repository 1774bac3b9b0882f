//! How many files and sockets the process may have open at a time.
//!
//! Systems start processes with a limit of 1,024, for the sake of old programs that break above it. It
//! would be used up by silent HTTP connections long before their own bound, and then nothing could be
//! opened any more: no connection of a probe or a peer, no snapshot.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Raises the limit as far as the system allows, and warns where that is too little.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // Absent: there is no limit.
    let allowed = if raised.is_ok() { maximum } else { current };
    if let Some(allowed) = allowed.filter(|allowed| *allowed < limits::OPEN_FILES_MIN_COUNT) {
        tracing::warn!(
            "the node may have {allowed} files and connections open, and needs {} under load: raise the \
             limit with `ulimit -Hn`, or LimitNOFILE in its unit",
            limits::OPEN_FILES_MIN_COUNT
        );
    }
}
