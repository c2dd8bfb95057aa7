//! Tells `lattice-sim` where the components lie that travel inside it. `cargo xtask plugins` builds them.

use std::path::PathBuf;
use std::{env, error::Error};

/// The same components as those of `lattice`.
const BUNDLED: [&str; 4] = ["system", "counter", "kv", "log"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Cargo does not tell build scripts where its target directory is, so it is read off OUT_DIR, which lies below.
    let target = out
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .or_else(|| out.ancestors().nth(4))
        .ok_or_else(|| format!("no target directory above {}", out.display()))?;
    let plugins = target.join("plugins");
    for name in BUNDLED {
        let component = plugins.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", component.display());
        if !component.is_file() {
            println!(
                "cargo::error=the bundled component {} is missing: run `cargo xtask plugins` first",
                component.display()
            );
            break;
        }
    }
    println!("cargo::rustc-env=LATTICE_PLUGINS={}", plugins.display());
    Ok(())
}
