//! The simulator: a whole network of nodes in one thread, from one seed.
//!
//! Virtual time, network and disks stand around the same kernel, the same sync protocol values and the same
//! components as the daemon's. A [`World`] does what a [`Plan`] says and checks what must hold; one seed and one
//! build give the same bytes, so a failure is a number that anyone can replay.
//!
//! This crate opens no socket, reads no clock and draws no randomness but what a seed determines.
//!
//! | folder | holds |
//! |---|---|
//! | `play` | ways to run a world: scenarios, random cases, many of them at once, reports |
//! | `check` | what must hold, and the oracle that judges outcomes |
//! | `world` | nodes with their disks and writers, virtual time, what a plan does to them |
//! | `net` | dials, streams with sessions, gossip, liars |
//! | `model` | a model of rules that are not built yet |

mod check;
pub mod limits;
mod model;
mod net;
mod play;
mod world;

pub use model::{Modelled, Rules, model, model_all};
pub use play::case::{Case, Finished};
pub use play::report::{json, svg, table};
pub use play::scenario::{Played, Scenario, play, play_twice};
pub use play::swarm::{Progress, Swarm, swarm};
pub use world::act::{Act, Fails, Keep, Step};
pub use world::attack::Attack;
pub use world::code::{Code, CodeError};
pub use world::components::Components;
pub use world::node::NodeId;
pub use world::plan::{Hour, Plan, Shape};
pub use world::trace::Trace;
pub use world::{LinkStats, Sample, Settings, Stats, Topology, Violation, Weather, World};
