//! Every input of the corpus holds, in an ordinary build. A line is an input, in hexadecimal digits.

use std::path::Path;

use lattice_fuzz::TARGETS;

/// Holds: invariant 14.
#[test]
fn every_input_of_the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let path = corpus.join(format!("{}.hex", target.name));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!text.is_empty(), "{} is empty", path.display());
        for line in text.lines() {
            // A panic names its place in the code, and this the input.
            println!("{}: {line}", target.name);
            (target.run)(&hex::decode(line).expect("hexadecimal digits"));
        }
    }
}
