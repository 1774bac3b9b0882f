//! Real clusters under load on one machine, for the programs that measure them: `compare-etcd`, `profile` and
//! `growth`.

pub mod cell;
pub mod components;
pub mod goals;
pub mod interrupt;
pub mod machine;
pub mod process;
pub mod store;
pub mod table;
