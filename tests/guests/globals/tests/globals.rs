//! The component with globals, natively, where one process is one instance.

use guest_globals::Globals;
use guest_globals::bindings::exports::example::globals::{
    commands::Guest as _, queries::Guest as _,
};
use lattice_sdk::testing;

#[test]
fn what_one_call_remembers_the_next_one_recalls() {
    testing::reset();
    testing::call("a").run(|| Globals::put("x".into(), b"v".to_vec()));
    testing::call("a").run(|| Globals::remember("x".into()));
    testing::call("a").run(|| Globals::recall("y".into()));
    assert_eq!(
        testing::query(|| Globals::get("y".into())),
        Some(b"v".to_vec())
    );

    let before = testing::call("a").run(Globals::bump);
    assert_eq!(
        testing::call("a").attempt(Globals::bump_and_refuse),
        Err(before + 1)
    );
    testing::call("a").run(|| Globals::save_count("n".into()));
    let saved = testing::query(|| Globals::get("n".into()));
    assert_eq!(
        saved,
        Some((before + 1).to_be_bytes().to_vec()),
        "a refusal does not undo memory"
    );
    assert_eq!(
        testing::query(|| Globals::get("left behind".into())),
        None,
        "but it undoes writes"
    );
    assert_eq!(testing::query(Globals::bumped), before + 2);
}
