//! The fold: what runs, where in the order, and what its effects are.

pub(crate) mod core;
pub(crate) mod divergence;
pub(crate) mod due;
pub(crate) mod execution;
pub(crate) mod governance;
mod install;
pub(crate) mod progress;
pub(crate) mod quota;
pub(crate) mod record;
pub mod reference;
