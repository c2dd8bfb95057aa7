//! The bundled components, which are part of the program. The host treats them like any other component; they need
//! not be installed.

use lattice_format::ComponentId;

/// A bundled component.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bundled {
    /// The name under which it is installed.
    pub(crate) name: &'static str,
    pub(crate) bytes: &'static [u8],
}

impl Bundled {
    /// The component's id, the hash of its bytes.
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

/// All bundled components. The first one governs the stores that this node creates.
pub(crate) const BUNDLED: [Bundled; 4] = bundled!["system", "counter", "kv", "log"];
