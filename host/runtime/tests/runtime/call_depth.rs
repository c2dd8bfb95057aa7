//! The bound on the depth of calls.

use lattice_runtime::profile::DEPTH_BYTES_MAX;
use lattice_testing::advice;

use crate::node::{Node, WASM, raw};

/// What a frame of `nest` counts for: a parameter, two operands, and what each has.
const NEST_BYTES: u32 = 64 + 3 * 16;
/// The same of `ping` and `pong`, which have the argument and the place in the table as operands.
const PING_BYTES: u32 = 64 + 3 * 16;

#[test]
fn calls_may_nest_up_to_the_bound_and_no_further() {
    let node = Node::new(&raw("nest"));
    for (name, bytes) in [("nest", NEST_BYTES), ("ping", PING_BYTES)] {
        // The last call of all does not call any further, and counts as well.
        let most = DEPTH_BYTES_MAX / bytes - 1;
        assert_eq!(node.query(name, &[&most.to_string()]), most.to_string());
        let one_more = (most + 1).to_string();
        assert_eq!(node.query(name, &[&one_more]), "trapped: depth", "{name}");
    }
}

#[test]
fn a_frame_is_given_back_however_its_function_is_left() {
    let node = Node::new(&raw("nest"));
    let many = 2 * DEPTH_BYTES_MAX / NEST_BYTES;
    assert_eq!(node.query("tail", &[&many.to_string()]), "7");
    // Half of the calls leave with 1 and 2, by a branch, the others with 3 and 4.
    let sum = many / 2 * (1 + 2 + 3 + 4);
    assert_eq!(node.query("leave", &[&many.to_string()]), sum.to_string());
}

fn refusal(text: &str) -> String {
    let bytes = wat::parse_str(text).unwrap();
    match WASM.install(&bytes) {
        Ok(_) => panic!("it was installed"),
        Err(error) => error.to_string(),
    }
}

/// A component with a function to query and these others nested in it.
fn with_nested(nested: &str) -> String {
    format!(
        r#"(component
          {nested}
          (core module $m (func (export "value") (result i32) (i32.const 1)))
          (core instance $i (instantiate $m))
          (func $value (result u32) (canon lift (core func $i "value")))
          (instance $queries (export "value" (func $value)))
          (export "example:raw/queries@0.1.0" (instance $queries)))"#
    )
}

#[test]
fn a_component_that_the_bound_does_not_fit_is_refused_with_the_reason() {
    let one = "(component (core module $n) (core instance (instantiate $n)))";
    let node = Node::new(&wat::parse_str(with_nested(&one.repeat(15))).unwrap());
    assert_eq!(node.query("value", &[]), "1");
    let many = refusal(&with_nested(&one.repeat(16)));
    assert!(
        many.contains("17 components") && many.contains("at most 16"),
        "{many}"
    );
    advice(&many, "make it of at most");
    let imports = refusal(&with_nested(r#"(component (import "m" (core module)))"#));
    assert!(imports.contains("imports a core module"), "{imports}");
}
