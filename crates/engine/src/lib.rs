//! A session: rows in the store, their index, and attention over both. The only crate that knows the store and
//! the mathematics.
#![deny(unsafe_code)]

mod config;
mod decode;
mod error;
mod index;
mod prefill;
mod session;
mod stats;

pub use config::{Policy, SINKS, SessionConfig, Shape, WINDOW};
pub use error::EngineError;
pub use lsh_attn::HEAD_DIMS;
pub use lsh_attn::kernels::{Isa, Kernels};
pub use session::Session;
pub use stats::Stats;
