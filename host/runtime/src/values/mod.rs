//! Values of WIT types outside a component: in the log, on a command line, as JSON.
//!
//! Everything here works from a [`Type`], plain data that is read out of the component itself, and
//! a [`Value`] that has been found to fit it. So a caller converts text to canonical CBOR and back
//! without an instance of the component, and without its compiled code.
//!
//! - [`cbor`] is the encoding that is hashed and signed: one value, one sequence of bytes;
//! - [`json`] is for programs, [`wave`] and [`text`] are for people.

pub mod cbor;
pub mod json;
pub mod text;
mod types;
mod value;
pub mod wave;

pub(crate) mod val;

pub use types::{Case, Enum, Field, Flags, Record, Type, Variant};
pub use value::Value;

#[cfg(test)]
mod tests;
