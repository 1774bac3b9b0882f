//! How many heaps the C library's allocator keeps.
//!
//! glibc gives threads heaps of their own, up to eight for each processor, and what is free in one is of no
//! use to the others. A node's pages are read by one thread and let go by another, so that its heaps fill
//! with holes: under a minute of load it held twice what it used, and went on growing.

/// Bounds the heaps. To be called while the process has one thread: a heap that exists stays.
pub fn bound() {
    #[cfg(target_env = "gnu")]
    {
        use crate::limits::MEMORY_ARENAS_MAX_COUNT;
        // SAFETY: mallopt takes two numbers by value and touches no memory of ours. It must not run beside
        // an allocation of another thread, and there is no other thread yet.
        #[expect(unsafe_code, reason = "the C library offers nothing else to a program that runs already")]
        let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, MEMORY_ARENAS_MAX_COUNT) };
        if taken == 0 {
            tracing::debug!("the C library does not bound the number of its heaps");
        }
    }
}
