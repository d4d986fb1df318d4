//! The mathematics of sampled attention: hashing, tables, inclusion probabilities, the estimator, exact
//! attention, and the SIMD kernels under them. Slices in, slices out; no I/O and no threads.
//!
//! The terms are those of the field: a *row* is the K and V of one token side by side in bf16, a *segment*
//! holds up to 32,768 rows of one (layer, KV head), the *static set* is always attended, the *proposal* says
//! with which probability each other row is drawn.
#![deny(unsafe_code)]

pub mod collisions;
pub mod hash;
pub mod inclusion;
pub mod kernels;
pub mod mix;
pub mod pages;
pub mod prefill;
pub mod rounding;
pub mod rows;
pub mod sampled;
pub mod segment_index;
pub mod sketch;
pub mod soft_cap;
pub mod softmax;
pub mod stored_runs;
pub mod tables;

/// Rows in a full segment. Their ids fit into 15 bits, so tables keep them as `u16`.
pub const SEGMENT_ROWS: usize = 32_768;

/// Head dimensions that the kernels take: multiples of 16 that real models use.
pub const HEAD_DIMS: [usize; 6] = [64, 80, 96, 112, 128, 256];
