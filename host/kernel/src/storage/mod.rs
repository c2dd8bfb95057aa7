//! The redb files of a store: opening and guarding them, their rows, and what is noticed when one fails.

pub(crate) mod db;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod log_files;
pub mod rows;
