//! The dense layers on the CPU, from a model file's own blocks.
//!
//! A decoding step multiplies every weight by one vector, so it costs the time to read the weights. They stay in the file's
//! own block format, where they lie in the mapped file or, for kernels that are faster so, with sixteen rows side by side in
//! memory (`packed`); activations are rounded to 16 bits a block, which moves logits less than the bf16 rows of attention
//! do. Long prompts are another matter, of matrix products that are bound by arithmetic: there a chunk of tokens shares each
//! weight, and both are rounded to bf16 or, on AVX2, multiplied as whole numbers (`chunk`).
#![deny(unsafe_code)]

mod activations;
mod blocks;
mod chunk;
mod columns;
mod config;
mod importance;
mod kernels;
mod layer;
mod matrix;
mod n_bits;
mod packed;
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX2 alone multiplies them"))]
mod quant_rows;
mod quantise;
mod rope;
mod transformer;
mod weights_file;

pub use activations::Activations;
pub use config::{LayerConfig, TransformerConfig};
pub use kernels::{DenseKernels, GateActivation, ROW_GROUP};
pub use matrix::{Cores, Matrix, WeightType, multiply};
pub use n_bits::NBits;
pub use quantise::Rounding;
pub use rope::{RopeConfig, RopePairs};
pub use transformer::{Scratch, Transformer};
pub use weights_file::{TensorSpan, Weights, WeightsError};
