//! The state of a store: its cells, their versions by slot, and the marks of the runs that read them.

pub(crate) mod call_index;
pub mod cell;
pub(crate) mod fingerprints;
pub(crate) mod live;
pub mod lthash;
pub(crate) mod numbers;
pub(crate) mod read_sets;
pub(crate) mod reads;
pub(crate) mod sketch;
pub(crate) mod versions;
pub(crate) mod written;
