//! The `sketch` proposal: a low-bit code of every key, scanned whole at each step, says how likely each key is drawn.
//!
//! A key is centred, rotated and rounded to 1, 2, 4 or 8 bits an element; the estimate of q.(k - c) is `factor * q'.code`,
//! with the factor <k, k> / <k, code> that makes it right along the key itself (RaBitQ, Gao and Long 2024). From the
//! estimated weights w^_hi of the queries h that share a KV head, key i is drawn with
//!
//! `pi_i = min(1, sqrt(sum_h (lambda_h w^_hi / Z_h)^2) + floor)`, where Z_h is the static set's true weight plus the sum of w^_hi.
//!
//! pi is exact whatever the code's error is, so the estimate is unbiased; a better code only lowers its variance. One
//! sample serves all queries of the group: a key adds (w_hi / Z_h)^2 / pi_i to the square of each one's error, and for a given
//! number of keys the sum of these is least with the root of the sum of squares. One lambda for all heads, times how much a head's
//! output counts: those that look at the static set draw almost nothing.
//! The floor bounds the weight of a key whose estimate is wrong (a defensive mixture, Hesterberg 1995).
//!
//! With residual correction values have codes as well, and what keys' and values' codes say together is summed over all
//! keys; the sample then only estimates what they get wrong.

mod index;
mod query;
mod residual;
mod sample;

pub use index::{SketchIndex, SketchPlan};
pub use query::{QueryCodes, SketchQueries};
pub use residual::{Residual, ValueBlocks, ValueWeights};
pub use sample::{Draw, attend_drawn};

/// Keys of a block: a SIMD lane each.
pub const BLOCK_KEYS: usize = crate::hash::LANES;

/// Code lengths of keys, in bits an element.
pub const SKETCH_BITS: [u32; 4] = [1, 2, 4, 8];

/// Code lengths of values.
pub const VALUE_BITS: [u32; 3] = [1, 2, 4];

/// Bits an element of values' codes beside keys' codes of `bits` bits. Four are enough: an error of a key's code is multiplied by
/// how far scores reach, and makes seven eighths of what four bits for both get wrong.
pub fn value_bits(bits: u32) -> u32 {
    bits.min(4)
}

/// Bytes of the codes in a block: 64-byte lines, each with `8 / bits` groups of four dimensions at its bit positions,
/// for each key the four bytes of a group side by side. So a line, shifted and masked, meets four elements of a query
/// in one instruction, and no sum is across lanes.
pub(crate) fn code_bytes(padded_dim: usize, bits: u32) -> usize {
    padded_dim * BLOCK_KEYS * bits as usize / 8
}

/// Bytes of a block: its codes, then the factors of its keys in f16.
pub(crate) fn block_bytes(padded_dim: usize, bits: u32) -> usize {
    code_bytes(padded_dim, bits) + 2 * BLOCK_KEYS
}

/// Where in a block of values the code of an element of a key's value is: its byte, and the bits to shift by. Blocks are as
/// long as those of keys; their 64-byte lines have pairs of keys for 32 elements each, at `8 / bits` positions, so that a line, shifted
/// and masked, meets the weights of a pair in one instruction, and no sum is across lanes.
#[inline(always)]
pub(crate) fn value_code(bits: u32, dim: usize, key: usize) -> (usize, u32) {
    let (pair, positions) = (key / 2, (8 / bits) as usize);
    let line = dim / 32 * bits as usize + pair / positions;
    (line * 64 + dim % 32 * 2 + key % 2, (pair % positions) as u32 * bits)
}

/// The code that stands for zero, which codes are symmetric about: the middle of 0..2^bits.
pub(crate) fn middle(bits: u32) -> f32 {
    ((1u32 << bits) - 1) as f32 / 2.0
}
