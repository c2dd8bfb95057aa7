//! The network between nodes: dials, streams with a session at each end, gossip, and peers that keep to no rule.

pub(crate) mod bans;
pub(crate) mod byzantine;
pub(crate) mod dial;
pub(crate) mod gossip;
pub(crate) mod neighbours;
pub(crate) mod stream;
