//! What is fuzzed: everything that reads bytes of a peer, a file or a person.
//!
//! A target takes any bytes and panics when something does not hold: that nothing panics and nothing is
//! larger than its bound, and that what was read and is written again reads as the same. `cargo xtask fuzz`
//! searches with libFuzzer; `corpus/` has a file of inputs for each target that reach different code, and an ordinary test
//! runs them all.

mod format;
mod kernel;
mod net;
mod values;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its file in `corpus/`.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "header",
        run: format::header,
    },
    Target {
        name: "body",
        run: format::body,
    },
    Target {
        name: "outcome",
        run: kernel::outcome,
    },
    Target {
        name: "sync",
        run: kernel::sync,
    },
    Target {
        name: "blob-serve",
        run: kernel::blob_serve,
    },
    Target {
        name: "blob-fetch",
        run: kernel::blob_fetch,
    },
    Target {
        name: "token",
        run: net::token,
    },
    Target {
        name: "join-task",
        run: net::join_task,
    },
    Target {
        name: "cbor",
        run: values::cbor,
    },
    Target {
        name: "wave",
        run: values::wave,
    },
    Target {
        name: "json",
        run: values::json,
    },
    Target {
        name: "inspect",
        run: values::inspect,
    },
    Target {
        name: "depth",
        run: values::depth,
    },
];

/// The target of that name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
