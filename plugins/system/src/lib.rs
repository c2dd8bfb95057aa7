//! Who may do what in a store: members with ranks and roles, invites, revocations, children, names.
//!
//! - [`key`] decides which public keys are fit for members and invites, and checks claims.
//! - [`member`], [`invite`], [`cut`], [`quota`] are rows of the state, with the rules for them.
//! - [`genesis`] makes the first members out of the store's parameters.
//! - [`commands`], [`queries`] and [`governance`] are the exports; the host asks `governance`.
//!
//! The other rules depend on two. First, a member can take rights only from members of lower rank. Of two concurrent
//! revocations, the one by the higher rank is then decided without the other, so all replicas agree which counts.
//! Second, the place of a member's first admission fixes its rank for good. An admission depends only on entries
//! before it, and so only on members of higher rank.
//!
//! ```text
//! m <device key>                      member        read by `authorize`, and nothing else is
//! a <device key>                      name of the member, UTF-8
//! i <invite key>                      invite
//! j <invite key> <device key> <call>  empty: the call claimed the invite for the device
//! r <rank, 52> <device key>           key of the member with this rank
//! g <call id>                         keys of the devices that the call admitted
//! x <device key> <position, 40>       revocation of the member
//! c <store id>                        child: its name, UTF-8
//! n                                   name of the store, UTF-8
//! q                                   quota in bytes, 8 bytes big-endian, of whom no other row bounds; absent for none
//! q <role code>                       quota of each member with the role
//! q <device key>                      quota of the member
//! s                                   salt of the gossip topic, 32 bytes
//! ```

pub mod commands;
pub mod cut;
pub mod genesis;
pub mod governance;
pub mod invite;
pub mod key;
pub mod member;
pub mod queries;
pub mod quota;
pub mod rows;

lattice_sdk::plugin!(
    System,
    world: "lattice:system/system",
    path: ["../../wit", "../../wit/system"],
);

/// The component.
#[derive(Debug)]
pub struct System;
