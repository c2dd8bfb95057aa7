//! A component that abuses its host in every way that Rust allows; those that it does not are in `../raw`.

use std::hint::black_box;

use bindings::exports::example::hostile::commands::Abuse;
use bindings::exports::example::hostile::{commands, queries};
use lattice_sdk::{blobs, context, state};

lattice_sdk::plugin!(Hostile, world: "example:hostile/plugin", path: ["../../../wit", "wit"]);

/// The component.
#[derive(Debug)]
pub struct Hostile;

#[cfg(not(target_arch = "wasm32"))]
const WASM_PAGE_BYTES: usize = 65_536;

impl commands::Guest for Hostile {
    fn put(key: String, value: Vec<u8>) {
        state::put(key.as_bytes(), &value);
    }

    fn echo(value: Vec<u8>) -> Vec<u8> {
        value
    }

    fn spin() {
        spin();
    }

    fn memory_bomb() {
        memory_bomb();
    }

    fn memory_most() -> u64 {
        let mut pages = 0;
        while grow_one_page() {
            pages += 1;
        }
        pages
    }

    fn recurse() {
        black_box(recurse(1));
    }

    fn trap() {
        #[cfg(target_arch = "wasm32")]
        core::arch::wasm32::unreachable();
        #[cfg(not(target_arch = "wasm32"))]
        panic!("the native build has no such instruction");
    }

    fn divide_by_zero() {
        // Rust checks divisors itself and panics, which is a trap as well.
        black_box(1 / black_box(0u32));
    }

    fn out_of_bounds() -> u8 {
        // Rust without `unsafe` cannot load from anywhere: this is the bounds check of a slice.
        black_box(&[0u8; 4])[black_box(0x7fff_ffff)]
    }

    fn emit(count: u64) -> Vec<u8> {
        emit(count)
    }

    fn emit_strings(count: u64) -> Vec<String> {
        (0..count).map(|_| "x".repeat(64)).collect()
    }

    fn refuse_with(count: u64) -> Result<(), Vec<u8>> {
        Err(emit(count))
    }

    fn big_key(bytes: u32) {
        state::put(&vec![b'k'; bytes as usize], b"");
    }

    fn big_value(bytes: u32) {
        state::put(b"big", &vec![b'v'; bytes as usize]);
    }

    fn write_flood(count: u64, bytes: u32) {
        let value = vec![b'v'; bytes as usize];
        (0..count).for_each(|n| state::put(&n.to_be_bytes(), &value));
    }

    fn read_flood(count: u64) {
        (0..count).for_each(|n| {
            black_box(state::get(
                &[b"absent".as_slice(), &n.to_be_bytes()].concat(),
            ));
        });
    }

    fn add_flood(count: u64) {
        (0..count).for_each(|n| state::add(&n.to_be_bytes(), 1));
    }

    fn pin_flood(count: u64) {
        for n in 0..count {
            let mut blob = vec![0; 32];
            blob[..8].copy_from_slice(&n.to_be_bytes());
            blobs::pin(b"flood", &blob);
        }
    }

    fn bad_hash(bytes: u32) {
        blobs::pin(b"owner", &vec![0; bytes as usize]);
    }

    fn put_and_trap(key: String) {
        state::put(key.as_bytes(), b"left behind");
        panic!("on purpose");
    }

    fn ambush(key: String, abuse: Abuse) {
        if state::get(key.as_bytes()).is_none() {
            return;
        }
        match abuse {
            Abuse::Spin => spin(),
            Abuse::Recurse => {
                black_box(recurse(1));
            }
            Abuse::MemoryBomb => memory_bomb(),
            Abuse::Trap => panic!("on purpose"),
            Abuse::Emit => {
                black_box(emit(1_000_000_000));
            }
            Abuse::WriteFlood => <Self as commands::Guest>::write_flood(1_000_000, 262_144),
            Abuse::ReadFlood => <Self as commands::Guest>::read_flood(100_000_000),
        }
    }
}

impl queries::Guest for Hostile {
    fn get(key: String) -> Option<Vec<u8>> {
        state::get(key.as_bytes())
    }

    fn spin_query() {
        spin();
    }

    fn memory_query() {
        memory_bomb();
    }

    fn recurse_query() {
        black_box(recurse(1));
    }

    fn emit_query(count: u64) -> Vec<u8> {
        emit(count)
    }

    fn write_in_query() {
        state::put(b"k", b"v");
    }

    fn add_in_query() {
        state::add(b"k", 1);
    }

    fn pin_in_query() {
        blobs::pin(b"owner", &vec![0; 32]);
    }

    fn current_in_query() {
        black_box(context::current());
    }

    fn observe_in_query() -> bool {
        context::observed(&vec![0; 32])
    }

    fn store_in_query() -> Vec<u8> {
        context::store()
    }
}

fn spin() {
    // The bound keeps the compiler from seeing that nothing follows; nobody gets there.
    let mut n = 0u64;
    while black_box(n) != u64::MAX {
        n = n.wrapping_add(1);
    }
}

fn memory_bomb() {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![0xab; 1 << 20]));
    }
}

#[cfg(target_arch = "wasm32")]
fn grow_one_page() -> bool {
    core::arch::wasm32::memory_grow::<0>(1) != usize::MAX
}

/// A native process could take more than the machine has, so this one asks for one page and stops.
#[cfg(not(target_arch = "wasm32"))]
fn grow_one_page() -> bool {
    black_box(vec![0u8; WASM_PAGE_BYTES]).is_empty()
}

#[expect(unconditional_recursion, reason = "that is its purpose")]
fn recurse(depth: u64) -> u64 {
    // Work after the inner call, or the compiler would make it a loop.
    black_box(recurse(black_box(depth + 1))).wrapping_add(black_box(depth))
}

fn emit(count: u64) -> Vec<u8> {
    vec![b'x'; usize::try_from(count).unwrap_or(usize::MAX)]
}
