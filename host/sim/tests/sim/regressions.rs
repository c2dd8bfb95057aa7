//! Faults that the simulator found once, each as the smallest script that still finds it.
//!
//! A seed stands for its run only as long as plans are made in the same way, so no seeds are kept. A script says what
//! happens by itself, and a mutant of the kernel has its fault: without the mutant the script holds, with it the script
//! fails. What other seeds have found needs a moment that no script reaches and has a test of the kernel, seen to fail
//! with the fault put back:
//!
//! | seed | fault | test |
//! |---|---|---|
//! | 39 | an admin could promote a member that outranks it, whose revocations then had no reading | `voids_point_only_downwards` |
//! | 30386 | a call behind a revocation in one commit claimed roots with what the revocation cut off | `nothing_is_claimed_while_it_is_open_what_a_revocation_cuts_off` |
//! | 105493 | a past member was sent in every round what floats there without bodies that it may not have | `one_that_is_no_longer_a_member_gets_headers_and_system_bodies` |
//! | 115240 | after a crash nobody was told that what had changed, and of which it was told, had changed back | `what_changed_and_changed_back_is_told_although_the_state_was_behind` |
//! | queue 55 | roots were compared while governance, run again from nothing, had not yet cut off what it cuts off | `nothing_is_compared_before_what_governance_cuts_off_is_void` |

use std::collections::BTreeMap;

use lattice_sim::{Code, Scenario, play};
use lattice_testing::mutants::{self, Mutant};

use crate::components::component;

fn failure(script: &str) -> Option<String> {
    let code = |name: &str| -> Result<Code, String> { Ok(component(name)) };
    let scenario = Scenario {
        script,
        seed: 1,
        nodes: 1,
        settings: BTreeMap::new(),
        keep_trace: false,
        code: &code,
    };
    play(&scenario).failure
}

/// Holds, and fails with the fault put back.
fn finds(mutant: Mutant, script: &str) {
    assert_eq!(failure(script), None);
    let found = mutants::with(mutant, || failure(script));
    eprintln!("{mutant:?}: {found:?}");
    assert!(found.is_some(), "{mutant:?} was not found");
}

/// Holds: invariant 5.
#[test]
fn a_member_that_was_admitted_again_and_is_cut_off_is_told_so() {
    let script = include_str!("regressions/admitted_again.rhai");
    finds(Mutant::CutOffCallsTold, script);
}
