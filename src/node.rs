//! x
pub mod supervisor;
pub mod systemd;
pub fn stop_timeout() -> std::time::Duration {
    std::time::Duration::from_millis(crate::limits::STOP_TIMEOUT_MS)
}
