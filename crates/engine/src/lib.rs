//! A session: rows in the store, their index, attention over both, and whole decoding steps. The only crate that
//! knows the store, the mathematics and the dense layers.
#![deny(unsafe_code)]

mod attend_batch;
mod audit;
mod batch;
mod config;
mod crews;
mod decode;
mod decode_compare;
mod decode_sketch;
mod decode_verified;
mod draws;
mod error;
mod fingerprint;
mod folder;
mod index;
mod measure;
mod prefill;
mod session;
mod sketch;
mod state;
mod stats;
mod step;
mod storage;
mod synthetic;
mod verified;

pub use attend_batch::{AttendRow, attend_batch};
pub use audit::{Audit, Coverage};
pub use batch::{BatchRow, decode_batch};
pub use config::{Attention, Budget, MOST_DELTA, Policy, Rule, SINKS, SessionConfig, Shape, WINDOW};
pub use dense::{
    GateActivation, LayerConfig, Matrix, NBits, RopeConfig, RopePairs, Rounding, TensorSpan, Transformer,
    TransformerConfig, WeightType,
};
pub use draws::Draws;
pub use error::EngineError;
pub use folder::Folder;
pub use kv_store::{
    Access, Info, Problem, Report, export, import, inspect, install_sigbus_message, remove, verify,
};
pub use lsh_attn::HEAD_DIMS;
pub use lsh_attn::kernels::{Isa, Kernels};
pub use lsh_attn::rows::RowType;
pub use lsh_attn::sketch::SKETCH_BITS;
pub use lsh_attn::softmax::weigh;
pub use measure::{AttentionMeasurement, measure_attention};
pub use session::Session;
pub use stats::Stats;
pub use synthetic::Synthetic;
