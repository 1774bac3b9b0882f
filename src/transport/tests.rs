//! Real endpoints on loopback.
