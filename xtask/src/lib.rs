//! The workspace's own commands: builds plugins, checks rules of the tree, runs README's tour and the demo, measures.

pub mod bench;
pub mod ci;
pub mod demo;
pub mod deny;
pub mod diagrams;
pub mod fuzz;
pub mod lockfile;
pub mod msrv;
pub mod node;
pub mod plugins;
pub mod setup;
pub mod shell;
pub mod ship;
pub mod tidy;
pub mod torture;
pub mod tour;
