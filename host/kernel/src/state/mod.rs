//! The state of a store: its cells, their versions by position, and what reads of them found.

pub(crate) mod call_index;
pub mod cell;
pub(crate) mod live;
pub mod lthash;
pub(crate) mod numbers;
pub(crate) mod read_sets;
pub(crate) mod reads;
pub(crate) mod versions;
pub(crate) mod written;
