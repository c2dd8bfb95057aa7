//! Figures of the boundary between host and guest; printed, with generous bounds asserted.
//!
//! `cargo test --release -p lattice-runtime speed -- --nocapture`

use std::time::Instant;

use lattice_format::{Call, Lane, Limits};
use lattice_runtime::values::{Type, Value, cbor};

use crate::node::{Node, built};

fn per_call(node: &Node, call: &Call, count: u32) -> f64 {
    let snapshot = node.store.snapshot();
    let fuel = Limits::default().fuel;
    for _ in 0..20 {
        snapshot.query(call, Lane::App, fuel).unwrap();
    }
    let began = Instant::now();
    for _ in 0..count {
        snapshot.query(call, Lane::App, fuel).unwrap();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

#[test]
fn speed_of_calls() {
    let counter = Node::new(&built("counter"));
    let value = Call {
        interface: "lattice:counter/queries".into(),
        function: "value".into(),
        args: vec![0x80],
    };
    println!("fresh instance and value(): {:.1} µs", per_call(&counter, &value, 2000));
    let mut kv = Node::new(&built("kv"));
    for bytes in [100, 1024, 64 * 1024] {
        let types = [Type::String, Type::Bytes];
        let args = [Value::String("key".into()), Value::Bytes(vec![b'x'; bytes])];
        let put = Call {
            interface: "lattice:kv/commands".into(),
            function: "put".into(),
            args: cbor::encode_all(types.iter(), &args),
        };
        let began = Instant::now();
        for _ in 0..50 {
            assert!(kv.try_call(put.clone()).unwrap().is_ok());
        }
        println!("put of {bytes} bytes, one durable commit each: {:.1} µs", began.elapsed().as_secs_f64() * 2e4);
        let get = Call {
            interface: "lattice:kv/queries".into(),
            function: "get".into(),
            args: cbor::encode_all(types[..1].iter(), &args[..1]),
        };
        let took = per_call(&kv, &get, 500);
        println!("fresh instance and get of {bytes} bytes: {took:.1} µs");
        assert!(took < 20_000.0, "{took}");
    }
}
