//! The virtual WASI.

use crate::node::Node;

#[test]
fn wasi_shows_the_entry_and_nothing_of_the_host() {
    let guest = wat::parse_str(include_str!("wasi.wat")).unwrap();
    let mut node = Node::new(&guest);
    // The tests' clock starts here, one millisecond a call.
    assert_eq!(node.call("seconds", &[]), "1800000000");
    let (one, two) = (node.call("random", &[]), node.call("random", &[]));
    assert_ne!(one, two, "each call has randomness of its own");
    // Another node at the same place of the same history has the same.
    let mut again = Node::new(&guest);
    again.call("seconds", &[]);
    assert_eq!(again.call("random", &[]), one);
    assert_eq!(node.call("random-bytes", &["65536"]), "65536");
    assert_eq!(node.call("random-bytes", &["65537"]), "trapped: limit");
    assert_eq!(node.query("seconds-in-query", &[]), "1800000000");
    assert_ne!(node.query("tick", &[]), "0");
    assert_eq!(
        node.query("random-in-query", &[]),
        node.query("random-in-query", &[])
    );
    assert_eq!(node.query("arguments", &[]), "0");
}
