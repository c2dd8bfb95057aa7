//! The fold: which entries run, at which slots of the order, and what their runs change.

pub(crate) mod core;
pub(crate) mod cut_reads;
pub(crate) mod cuts;
pub(crate) mod divergence;
pub(crate) mod due;
pub(crate) mod execution;
pub(crate) mod governance;
mod install;
mod placed_cuts;
pub(crate) mod progress;
pub(crate) mod quota;
pub(crate) mod record;
pub mod reference;
