//! Stores whose determinism profile the node's engine does not serve.

use std::sync::Arc;

use lattice_format::{ChainId, ComponentId, Limits};
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{Answer, AskError, Engine, HostFault, Instance, Question};
use lattice_kernel::{CreateError, NewStore, Store};
use lattice_testing::{self as testing, ModelEngine, key, memory_files};

use crate::world::{START_MS, all, wire};

const OTHER: u32 = 9;

/// An engine of another version, which serves the other profile alone.
struct Newer;

impl Engine for Newer {
    fn serves(&self, profile: u32) -> bool {
        profile == OTHER
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        ModelEngine.ready(component)
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        ModelEngine.instantiate(component, limits, run)
    }

    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        ModelEngine.ask(component, limits, run, question)
    }
}

fn spec() -> NewStore {
    let mut genesis = testing::genesis();
    genesis.profile = OTHER;
    NewStore {
        genesis,
        admits: Vec::new(),
        chain: ChainId(1),
    }
}

#[test]
fn a_store_of_another_profile_is_kept_and_not_run() {
    let engine = Arc::new(ModelEngine);
    let refused = Store::create(memory_files(), engine.clone(), key(0), spec(), START_MS);
    let fault = HostFault::Profile(OTHER);
    assert!(matches!(refused, Err(CreateError::Host(found)) if found == fault));

    let founder = Store::create(memory_files(), Arc::new(Newer), key(0), spec(), START_MS).unwrap();
    let (header, body) = wire(&all(&founder.snapshot())[0]);
    let genesis = (header, body.unwrap());
    let mut store = Store::adopt(memory_files(), engine, key(1), genesis, START_MS).unwrap();
    let settled = store.settle(1_000).unwrap();
    assert_eq!(settled.system_paused, Some(fault));
    assert_eq!(store.snapshot().summary().count, 1);
    assert_eq!(store.snapshot().summary().applied, 0);
}
