//! The components that a run asks for: those that travel inside the program, and those in files.

use std::fs;
use std::path::PathBuf;

use lattice_sim::{Code, Components};

macro_rules! bundled {
    ($($name:literal),*) => {
        [$((
            $name,
            include_bytes!(concat!(env!("LATTICE_PLUGINS"), "/", $name, ".wasm")),
        )),*]
    };
}

/// The plugins that `lattice` bundles too, under the same names.
const BUNDLED: [(&str, &[u8]); 4] = bundled!["system", "counter", "kv", "log"];

/// Compiled components of one run, in a directory that is gone afterwards.
pub(crate) struct Workshop {
    dir: PathBuf,
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What stays behind is in the system's directory for what may be deleted.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Workshop {
    pub(crate) fn open() -> Self {
        let name = format!("lattice-sim-{}", std::process::id());
        Self {
            dir: std::env::temp_dir().join(name),
        }
    }

    /// The code of a bundled plugin, or of one in a file.
    pub(crate) fn code(&self, name: &str) -> Result<Code, String> {
        if name == Code::model().name() {
            return Ok(Code::model());
        }
        let mut components = Components::open(&self.dir)?;
        for needed in ["system", name] {
            let bytes = match bundled(needed) {
                Some(bytes) => bytes.to_vec(),
                None if needed.ends_with(".wasm") => {
                    fs::read(needed).map_err(|error| format!("{needed}: {error}"))?
                }
                None => {
                    return Err(format!(
                        "there is no bundled plugin {needed}; name a file that ends in .wasm"
                    ));
                }
            };
            components.add(needed, bytes);
        }
        components.code(name)
    }
}

fn bundled(wanted: &str) -> Option<&'static [u8]> {
    let found = BUNDLED.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, bytes)| *bytes)
}
