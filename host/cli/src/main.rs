//! Lattice.
fn main() {}
