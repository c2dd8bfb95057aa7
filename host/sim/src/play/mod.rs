//! Ways to run a world: a scenario by its script, a random case by its seed, many cases at once.

pub(crate) mod case;
pub(crate) mod report;
pub(crate) mod scenario;
pub(crate) mod script_functions;
pub(crate) mod swarm;
