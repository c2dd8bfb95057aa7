//! Engines of tests that lack something: code, memory, answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lattice_format::{ComponentId, Limits};
use lattice_kernel::run::Run;
use lattice_kernel::run::engine::{Answer, AskError, Engine, HostFault, Instance, Question};
use lattice_testing::{APP, ModelEngine};

/// What an engine lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The code of the app lane.
    Code,
    /// Memory for the question of what cuts an author off.
    Cuts,
}

/// An engine that lacks something while told so.
pub struct Lacking(pub Lack, pub Arc<AtomicBool>);

impl Lacking {
    fn lacks(&self, what: Lack) -> bool {
        self.0 == what && self.1.load(Ordering::Relaxed)
    }
}

impl Engine for Lacking {
    fn serves(&self, profile: u32) -> bool {
        ModelEngine.serves(profile)
    }

    fn ready(&self, component: &ComponentId) -> Result<(), HostFault> {
        match *component == APP && self.lacks(Lack::Code) {
            true => Err(HostFault::MissingCode(APP)),
            false => ModelEngine.ready(component),
        }
    }

    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        match self.ready(component) {
            Ok(()) => ModelEngine.instantiate(component, limits, run),
            Err(fault) => Err((run, fault)),
        }
    }

    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        match matches!(question, Question::Cuts(_)) && self.lacks(Lack::Cuts) {
            true => (run, Err(HostFault::Exhausted("memory".into()).into())),
            false => ModelEngine.ask(component, limits, run, question),
        }
    }
}

/// An engine that answers so many questions about admissions, and then none.
pub struct Forgetful(pub Arc<AtomicU32>);

impl Engine for Forgetful {
    fn serves(&self, profile: u32) -> bool {
        ModelEngine.serves(profile)
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
        let left = self.0.load(Ordering::Relaxed);
        match (question, left.checked_sub(1)) {
            (Question::Admitted(_), None) => {
                (run, Err(HostFault::Exhausted("memory".into()).into()))
            }
            (Question::Admitted(_), Some(left)) => {
                self.0.store(left, Ordering::Relaxed);
                ModelEngine.ask(component, limits, run, question)
            }
            _ => ModelEngine.ask(component, limits, run, question),
        }
    }
}
