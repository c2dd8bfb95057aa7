//! Calls that behave.

use lattice_format::Call;
use lattice_kernel::{HostRefusal, Outcome};

use crate::node::{Node, built};

#[test]
fn a_counter_counts() {
    let mut node = Node::new(&built("counter"));
    assert_eq!(node.call("add", &["5"]), "");
    assert_eq!(node.call("add", &["-7"]), "");
    assert_eq!(node.query("value", &[]), "-2");
}

#[test]
fn a_key_value_store_gives_back_what_it_was_given() {
    let mut node = Node::new(&built("kv"));
    assert_eq!(node.call("put", &["greeting", "hello, world"]), "");
    assert_eq!(node.query("get", &["greeting"]), r#"some("hello, world")"#);
    assert_eq!(node.query("get", &["other"]), "none");
    let batch = r#"[put({key: "a", value: [1]}), delete("greeting")]"#;
    assert_eq!(node.call("batch", &[batch]), "");
    assert_eq!(node.query("get", &["greeting"]), "none");
    assert_eq!(node.query("get", &["a"]), r#"some("\u{1}")"#);
    let page = node.query("list", &["", "none", "10"]);
    assert!(page.contains(r#"key: "a""#), "{page}");
    let refused = node.call("compare-and-put", &["a", "none", "new"]);
    assert!(refused.starts_with("refused: {current: some("), "{refused}");
    assert_eq!(node.call("compare-and-put", &["a", "[1]", "new"]), "");
    assert_eq!(node.query("get", &["a"]), r#"some("new")"#);
}

#[test]
fn a_log_keeps_its_order() {
    let mut node = Node::new(&built("log"));
    node.call("append", &["one"]);
    node.call("append", &["two"]);
    let page = node.query("read", &["none", "10"]);
    let (one, two) = (page.find("\"one\"").unwrap(), page.find("\"two\"").unwrap());
    assert!(one < two, "{page}");
}

#[test]
fn governance_answers_its_own_queries() {
    let node = Node::new(&built("counter"));
    let call = Call {
        interface: "lattice:system/queries".into(),
        function: "members".into(),
        args: vec![0x82, 0xf6, 0xf6],
    };
    let system = crate::node::install(&built("system"));
    assert!(system.governs);
    let snapshot = node.store.snapshot();
    let end = snapshot
        .query(&call, lattice_format::Lane::System, 1_000_000_000)
        .unwrap()
        .end;
    let lattice_kernel::run::engine::CallEnd::Ok(bytes) = end else {
        panic!("{end:?}");
    };
    let function = system
        .function("lattice:system/queries", "members")
        .unwrap();
    let value = lattice_runtime::values::cbor::decode(function.ok().unwrap(), &bytes).unwrap();
    let text = lattice_runtime::values::text::render(function.ok().unwrap(), &value);
    assert!(
        text.contains("role: admin") && text.contains("status: active"),
        "{text}"
    );
}

#[test]
fn the_host_refuses_what_does_not_fit() {
    let mut node = Node::new(&built("counter"));
    let mut outcome = |interface: &str, function: &str, args: &[u8]| {
        let call = Call {
            interface: interface.into(),
            function: function.into(),
            args: args.to_vec(),
        };
        node.try_call(call).unwrap()
    };
    let refused = |refusal: HostRefusal| Outcome::Refused {
        index: 0,
        error: refusal.to_cbor(),
    };
    let commands = "lattice:counter/commands";
    assert!(outcome(commands, "add", &[0x81, 0x05]).is_ok());
    let bad = refused(HostRefusal::BadArguments);
    for args in [
        &[0x80][..],
        &[0x81, 0x18, 0x05],
        &[0x82, 5, 5],
        &[0x81, 0xf6],
        &[],
        &[0x81, 5, 0],
    ] {
        assert_eq!(outcome(commands, "add", args), bad, "{args:02x?}");
    }
    let none = refused(HostRefusal::NoSuchFunction);
    for (interface, function) in [
        (commands, "sub"),
        ("lattice:counter/queries", "value"),
        ("lattice:counter/commands@0.1.0", "add"),
        ("counter/commands", "add"),
    ] {
        assert_eq!(
            outcome(interface, function, &[0x80]),
            none,
            "{interface} {function}"
        );
    }
    assert_eq!(node.query("value", &[]), "5");
}

#[test]
fn globals_do_not_outlive_their_intention() {
    // One commit a call closes its intention, so each call has an instance of its own.
    let mut node = Node::new(&built("globals"));
    let name = node
        .schema
        .interfaces
        .iter()
        .find(|i| i.id.ends_with("commands"))
        .unwrap();
    assert!(!name.functions.is_empty());
    let function = name
        .functions
        .iter()
        .find(|f| f.params.is_empty())
        .map(|f| f.name.clone());
    if let Some(function) = function {
        assert_eq!(node.call(&function, &[]), node.call(&function, &[]));
    }
}
