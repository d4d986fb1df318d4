//! The scan of sketches: sixteen keys are lanes of four registers of 128 bits, NEON's on arm64 and SSE2's on x86-64 (`wide`).

use bytemuck::cast;
use wide::{i16x8, i32x4, u16x8};

use super::super::{
    EXPONENT_ONE, EXPONENT_STEP, SCAN_AHEAD, SKETCH_LOG2, lines_of_i16, plane_bits, prefetch,
};
use super::{codes_of_bytes, factors};
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
    let pairs: [_; G] =
        std::array::from_fn(|g| pairs_of(&queries.quants[(first + g) * padded_dim..][..padded_dim]));
    let mut lanes = [[0.0f32; LANES]; G];
    for (block, weights) in blocks.chunks_exact(bytes).zip(weights.chunks_exact_mut(count * LANES)) {
        prefetch::far(block.as_ptr().wrapping_add(SCAN_AHEAD), bytes);
        let factors = factors(block);
        let products = products(bits, &block[..code_bytes(padded_dim, bits)], &pairs);
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

/// A query's quants in 16 bits: of each four the first and third, and the second and fourth.
fn pairs_of(quants: &[i8]) -> Vec<[i16x8; 2]> {
    let pair = |a: i8, b: i8| {
        let (a, b) = (i16::from(a), i16::from(b));
        i16x8::from([a, b, a, b, a, b, a, b])
    };
    quants.as_chunks().0.iter().map(|&[a, b, c, d]| [pair(a, c), pair(b, d)]).collect()
}

/// Products of a block's codes with the queries' quants. A line has four dimensions of each key in the lowest bits of its lane's bytes, the
/// next four in the bits above them.
fn products<const G: usize>(bits: u32, codes: &[u8], pairs: &[Vec<[i16x8; 2]>; G]) -> [[i32; LANES]; G] {
    let width = plane_bits(bits);
    let mut sums = [[i32x4::ZERO; LANES / 4]; G];
    for plane in (0..bits).step_by(width as usize) {
        let mut four = 0;
        for lines in codes.chunks(64 * lines_of_i16(bits)) {
            let mut narrow = [[i16x8::ZERO; LANES / 4]; G];
            for line in lines.as_chunks::<64>().0 {
                let words: [u16x8; LANES / 4] = cast(*line);
                for group in 0..8 / bits {
                    for (lane, words) in words.into_iter().enumerate() {
                        let [even, odd] = codes_of_bytes(words, group * bits + plane, width);
                        for (narrow, pairs) in narrow.iter_mut().zip(pairs) {
                            let [x_even, x_odd] = pairs[four];
                            narrow[lane] += even * x_even + odd * x_odd;
                        }
                    }
                    four += 1;
                }
            }
            for (sums, narrow) in sums.iter_mut().zip(narrow) {
                for (sum, narrow) in sums.iter_mut().zip(narrow) {
                    *sum += narrow.dot(i16x8::ONE) << plane;
                }
            }
        }
    }
    sums.map(cast)
}
