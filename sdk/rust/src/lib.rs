//! For authors of Lattice plugins in Rust: the state, the context and the blobs of a store, and one macro.
//!
//! A plugin is a component that exports ordinary typed functions: those of an interface named `commands`
//! may write, those of one named `queries` only read. Its interface is a WIT file; the code implements the
//! traits that [`plugin!`] generates from it:
//!
//! ```ignore
//! use bindings::exports::lattice::counter::{commands, queries};
//! use lattice_sdk::state;
//!
//! lattice_sdk::plugin!(Counter, world: "lattice:counter/plugin", path: ["wit"]);
//!
//! /// The component.
//! pub struct Counter;
//!
//! impl commands::Guest for Counter {
//!     fn add(by: i64) {
//!         state::add(b"n", by);
//!     }
//! }
//!
//! impl queries::Guest for Counter {
//!     fn value() -> i64 {
//!         state::number(b"n")
//!     }
//! }
//! ```
//!
//! `wit` holds the plugin's own package, and `wit/deps/lattice-store` a copy of `lattice:store` (or the list
//! of paths names a directory that holds it, before the plugin's own). Built for `wasm32-unknown-unknown` as
//! a `cdylib` and turned into a component, it imports `lattice:store` and nothing else.
//!
//! On any other target the same code runs against a store in memory, see [`testing`]: plain `cargo test`
//! tests a plugin.
//!
//! This crate reads no clock, draws no randomness, and knows nothing of the host but `wit/`.

pub mod blobs;
pub mod codec;
pub mod context;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

/// Bindings that `wit-bindgen` generates from `lattice:store`. Generated code of plugins refers to them.
#[doc(hidden)]
#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::unwrap_used
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "lattice:store/store",
        additional_derives: [PartialEq, Eq],
        generate_all,
        pub_export_macro: false,
    });
}

/// Unlike the same allocator in the standard library, this version begins with the free part of the initial
/// memory. So a short call, whose instance is fresh, need not grow the memory.
#[cfg(all(feature = "allocator", target_arch = "wasm32"))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[doc(hidden)]
pub use wit_bindgen;

pub use bindings::lattice::store::types::{Entry, Hash, Timestamp};

/// Generates the traits of a plugin's world as `mod bindings`, and exports a type that implements them.
///
/// Takes the name of that type, the full name of the world, and the directories with the WIT packages,
/// relative to the plugin's Cargo.toml, each after those it refers to; optionally traits to derive for the
/// generated types. Belongs at the root of the crate. The world includes `lattice:store/store`; the types of
/// `lattice:store` are those of this crate.
#[macro_export]
macro_rules! plugin {
    ($component:ident, world: $world:tt, path: [$($path:tt),+ $(,)?] $(,)?) => {
        $crate::plugin!($component, world: $world, path: [$($path),+], derives: [PartialEq]);
    };
    (
        $component:ident, world: $world:tt, path: [$($path:tt),+ $(,)?],
        derives: [$($derive:tt),* $(,)?] $(,)?
    ) => {
        /// The types and traits of this component's world, generated from its WIT.
        #[allow(
            missing_docs,
            unsafe_code,
            unreachable_pub,
            dead_code,
            clippy::all,
            clippy::unwrap_used
        )]
        pub mod bindings {
            $crate::wit_bindgen::generate!({
                path: [$($path),+],
                world: $world,
                runtime_path: "::lattice_sdk::wit_bindgen::rt",
                with: {
                    "lattice:store/types@0.1.0": ::lattice_sdk::bindings::lattice::store::types,
                    "lattice:store/state@0.1.0": ::lattice_sdk::bindings::lattice::store::state,
                    "lattice:store/context@0.1.0": ::lattice_sdk::bindings::lattice::store::context,
                    "lattice:store/blobs@0.1.0": ::lattice_sdk::bindings::lattice::store::blobs,
                },
                additional_derives: [$($derive),*],
                generate_all,
            });
        }

        // Natively the component is a plain library, whose symbols need no such names.
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, unused_imports)]
        mod component_exports {
            use super::{$component, bindings};
            bindings::export!($component with_types_in bindings);
        }
    };
}
