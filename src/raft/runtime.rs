//! What Raft's tasks, timers and channels run on: Tokio, or the simulation.

/// The runtime of this build.
#[cfg(not(madsim))]
pub type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(madsim)]
pub use simulated::SimulatedRuntime as Runtime;

use std::io;

#[cfg(madsim)]
mod simulated;

/// Runs work that may block on a thread where it holds up no task.
///
/// # Errors
/// If the work panics, or the runtime is shutting down.
pub async fn blocking<F, T>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // Raft's own runtime starts a thread for each call.
    #[cfg(not(madsim))]
    return tokio::task::spawn_blocking(work).await.map_err(io::Error::from);
    #[cfg(madsim)]
    return <Runtime as openraft::AsyncRuntime>::spawn_blocking(work).await;
}
