//! The components that travel inside the program. The host treats them as any others: they are only
//! here already.

use lattice_format::ComponentId;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bundled {
    /// The name it is installed under.
    pub(crate) name: &'static str,
    /// Its bytes.
    pub(crate) bytes: &'static [u8],
}

impl Bundled {
    /// Its id.
    pub(crate) fn id(&self) -> ComponentId {
        ComponentId(*blake3::hash(self.bytes).as_bytes())
    }
}

macro_rules! bundled {
    ($($name:literal),*) => {
        [$(Bundled {
            name: $name,
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")),
        }),*]
    };
}

/// All of them; the first governs stores unless told otherwise.
pub(crate) const BUNDLED: [Bundled; 4] = bundled!["system", "counter", "kv", "log"];
