//! Which of the cryptographic libraries in the process TLS uses.

/// Has TLS use ring wherever nothing else is said. Without a word, rustls refuses to choose between the two
/// that are linked, by a panic.
pub fn choose_provider() {
    // It counts once a process; whoever was first has chosen.
    rustls::crypto::ring::default_provider().install_default().ok();
}
