//! The simulator: a whole network of nodes in one thread, from one seed.
//!
//! Virtual time, network and disks stand around the same kernel, the same sync protocol values and the same
//! components as the daemon's. A [`World`] does what a [`Plan`] says and checks what must hold; one seed and one
//! build give the same bytes, so a failure is a number that anyone can replay.
//!
//! This crate opens no socket, reads no clock and draws no randomness but what a seed determines.

mod case;
mod check;
mod code;
mod crowd;
mod family;
mod faults;
mod gossip;
mod lies;
pub mod limits;
mod model;
mod neighbours;
mod node;
mod opening;
mod opinion;
mod plan;
mod queue;
mod report;
mod scenario;
mod shelf;
mod swarm;
mod trace;
mod wire;
mod world;
mod writer;

pub use case::{Case, Finished};
pub use code::{Code, CodeError};
pub use model::{Modelled, Rules, model, model_all};
pub use node::NodeId;
pub use plan::{Act, Fails, Plan, Shape, Step};
pub use report::{json, svg, table};
pub use scenario::{Played, Scenario, play, play_twice};
pub use shelf::Shelf;
pub use swarm::{Progress, Swarm, swarm};
pub use trace::Trace;
pub use world::{LinkStats, Sample, Settings, Stats, Topology, Violation, Weather, World};
