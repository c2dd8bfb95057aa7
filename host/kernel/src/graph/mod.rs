//! The graph of witnessed entries: admission, chains, heads, causal past, and entries that wait for admission.

pub mod admit;
pub(crate) mod dag;
pub(crate) mod ids;
pub(crate) mod info;
pub(crate) mod insert;
pub(crate) mod live_heads;
pub(crate) mod lookup_cache;
pub(crate) mod order;
pub(crate) mod past_tree;
pub(crate) mod pending;
pub(crate) mod shares;
pub(crate) mod slot;
pub(crate) mod version_vector;
pub(crate) mod void;
