//! The state of a store: its cells, their versions by position, and what reads of them found.

pub mod cell;
pub(crate) mod live;
pub mod lthash;
pub(crate) mod reads;
pub(crate) mod versions;
