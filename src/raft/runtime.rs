//! What Raft's tasks, timers and channels run on: Tokio, or the simulation.

/// The runtime of this build.
#[cfg(not(madsim))]
pub type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(madsim)]
pub use simulated::SimulatedRuntime as Runtime;

#[cfg(madsim)]
mod simulated;
