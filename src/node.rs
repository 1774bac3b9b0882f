//! One running node: identity, data directory, and the parts that are started in order.

pub mod data_dir;
pub mod identity;
