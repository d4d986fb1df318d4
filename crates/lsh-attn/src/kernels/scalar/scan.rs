//! The scan of sketches: sixteen keys are lanes of four registers of 128 bits, NEON's on arm64 and SSE2's on x86-64 (`wide`).

use bytemuck::cast;
use half::f16;
use wide::{i16x8, i32x4, u16x8, u32x4};

use super::super::{EXPONENT_ONE, EXPONENT_STEP, SKETCH_LOG2};
use crate::hash::LANES;
use crate::rounding::round;
use crate::rows::widen;
use crate::sketch::{SketchQueries, block_bytes, code_bytes};

// The macro is there for kernels that index without checks.
#[allow(unused_unsafe)]
pub(super) fn sketch_weights(
    bits: u32,
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
) {
    by_query_groups!(queries.offsets.len(), weights_of, bits, padded_dim, blocks, queries, weights, totals)
}

/// The weights for G queries from `first` on, which share the work of bringing codes into lanes.
fn weights_of<const G: usize>(
    first: usize,
    bits: u32,
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
) {
    let count = queries.offsets.len();
    let bytes = block_bytes(padded_dim, bits);
    let quants: [&[i8]; G] =
        std::array::from_fn(|g| &queries.quants[(first + g) * padded_dim..][..padded_dim]);
    let mut lanes = [[0.0f32; LANES]; G];
    for (block, weights) in blocks.chunks_exact(bytes).zip(weights.chunks_exact_mut(count * LANES)) {
        let (codes, factors) = block.split_at(code_bytes(padded_dim, bits));
        let factors: [f32; LANES] =
            std::array::from_fn(|lane| f16::from_le_bytes(factors.as_chunks().0[lane]).to_f32());
        let products = products(bits, codes, quants);
        for g in 0..G {
            let query = first + g;
            let weights = &mut weights[query * LANES..][..LANES];
            for lane in 0..LANES {
                let scaled = (products[g][lane] as f32 - queries.zeros[query]) * factors[lane];
                let x = scaled.mul_add(queries.scales[query], queries.offsets[query]);
                let x = x.max(SKETCH_LOG2.0).min(SKETCH_LOG2.1);
                // The step is a power of two: its product is exact, as if it were fused with the sum.
                weights[lane] = round(x * EXPONENT_STEP + EXPONENT_ONE) as u16;
                lanes[g][lane] += widen(weights[lane]);
            }
        }
    }
    for (total, lanes) in totals[first..].iter_mut().zip(lanes) {
        // The order in which registers of 16, 8 and 4 lanes are folded.
        let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        *total = (four[0] + four[1]) + (four[2] + four[3]);
    }
}

/// Products of a block's codes with the queries' quants. A line has four dimensions of each key in the lowest bits of its lane's bytes, the
/// next four in the bits above them.
fn products<const G: usize>(bits: u32, codes: &[u8], quants: [&[i8]; G]) -> [[i32; LANES]; G] {
    let mask = u32x4::splat(((1 << bits) - 1) * 0x0101_0101);
    let mut sums = [[i32x4::ZERO; LANES / 4]; G];
    let mut dim = 0;
    for line in codes.as_chunks::<64>().0 {
        let words: [u32x4; LANES / 4] = cast(*line);
        for group in 0..8 / bits {
            let bytes = words.map(|words| (words >> (group * bits)) & mask);
            // Of four bytes the even ones and the odd ones, as 16 bits.
            let even = bytes.map(|bytes| cast::<u32x4, i16x8>(bytes & u32x4::splat(0x00ff_00ff)));
            let odd = bytes.map(|bytes| cast::<u16x8, i16x8>(cast::<u32x4, u16x8>(bytes) >> 8));
            for (sums, quants) in sums.iter_mut().zip(quants) {
                let [a, b, c, d] = quants.as_chunks().0[dim / 4].map(i16::from);
                let (x_even, x_odd) =
                    (i16x8::from([a, c, a, c, a, c, a, c]), i16x8::from([b, d, b, d, b, d, b, d]));
                for (sum, (even, odd)) in sums.iter_mut().zip(even.into_iter().zip(odd)) {
                    *sum += even.dot(x_even) + odd.dot(x_odd);
                }
            }
            dim += 4;
        }
    }
    sums.map(cast)
}
