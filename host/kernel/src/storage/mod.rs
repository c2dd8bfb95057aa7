//! The redb files of a store: how they are opened and guarded, their rows, and reports of failed reads.

pub(crate) mod db;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod holes;
pub(crate) mod keys;
pub(crate) mod log_files;
pub(crate) mod machine;
mod merged;
pub(crate) mod node_file;
pub(crate) mod read_only;
pub mod rows;
