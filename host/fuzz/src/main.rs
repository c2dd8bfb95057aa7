//! The fuzzer: libFuzzer around one decoder, the one that `LATTICE_FUZZ_TARGET` names. `cargo xtask fuzz` builds
//! it with counters of coverage in this workspace's own code, and runs it.

#![no_main]

use std::sync::LazyLock;

use lattice_fuzz::{Target, find};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LATTICE_FUZZ_TARGET").unwrap_or_default();
    find(&name).unwrap_or_else(|| panic!("LATTICE_FUZZ_TARGET: there is no target {name:?}"))
});

/// libFuzzer's own hook ends the process at a panic that somebody would have caught, and one that is known
/// and caught need not be told of a thousand times.
fn hook() {
    drop(std::panic::take_hook());
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or("", |place| place.file());
        if !place.contains("/wit-parser-") {
            tell(panic);
        }
    }));
}

fuzz_target!(
    init: hook(),
    |input: &[u8]| (TARGET.run)(input)
);
