//! Generates the gRPC code from `proto/lattice.proto`, and copies the bundled components to where `include_bytes!`
//! finds them.
//!
//! protox compiles the description in this process, so that no protoc has to be installed. The descriptor set is
//! for gRPC reflection.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

/// The components that are part of the binary. `cargo xtask plugins` builds them.
const BUNDLED: [&str; 4] = ["system", "counter", "kv", "log"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    generate_api(&out)?;
    copy_components(&out)
}

fn generate_api(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/lattice.proto");
    let descriptors = protox::compile(["proto/lattice.proto"], ["proto"])?;
    fs::write(
        out.join("lattice_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

fn copy_components(out: &Path) -> Result<(), Box<dyn Error>> {
    let built = target_directory(out)?.join("plugins");
    for name in BUNDLED {
        let from = built.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = fs::copy(&from, out.join(format!("{name}.wasm"))) {
            // The first missing component ends the loop: one error is enough for a newcomer, who meets it first.
            println!(
                "cargo::error=the bundled component {} is missing ({error}): run `cargo xtask plugins` first",
                from.display()
            );
            break;
        }
    }
    Ok(())
}

/// The workspace's target directory. Cargo does not tell it to build scripts, so it is derived from OUT_DIR, which is
/// below it: `<target>[/<triple>]/<profile>/build/<package>/out`.
fn target_directory(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    out.ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .or_else(|| out.ancestors().nth(4))
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("no target directory above {}", out.display()).into())
}
