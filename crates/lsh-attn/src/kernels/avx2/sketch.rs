//! The scan of sketches with AVX2: products of bytes in pairs, then of pairs.

use core::arch::x86_64::*;

use super::super::{SCAN_AHEAD, four_quants, lines_of_i16, plane_bits, prefetch, scalar};
use crate::hash::{LANES, Lanes};
use crate::sketch::{Draw, SketchQueries, block_bytes, code_bytes};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rotate(signs: &[f32], x: &mut [Lanes]) {
    scalar::rotate_body(signs, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sketch_encode(bits: u32, x: &[Lanes], block: &mut [u8]) {
    scalar::encode_body(bits, x, block);
}

/// # Safety
/// - blocks, queries, weights and totals agree, as [`super::super::Kernels::sketch_weights`] checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn sketch_weights(
    bits: u32,
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            1 => weights_of_bits::<1>(padded_dim, blocks, queries, weights, totals),
            2 => weights_of_bits::<2>(padded_dim, blocks, queries, weights, totals),
            4 => weights_of_bits::<4>(padded_dim, blocks, queries, weights, totals),
            _ => weights_of_bits::<8>(padded_dim, blocks, queries, weights, totals),
        }
    }
}

/// # Safety
/// - as [`sketch_weights`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn weights_of_bits<const BITS: u32>(
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
) {
    by_query_groups!(queries.offsets.len(), weights_of::<BITS>, padded_dim, blocks, queries, weights, totals)
}

/// # Safety
/// - as [`sketch_weights`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn weights_of<const BITS: u32, const G: usize>(
    first: usize,
    padded_dim: usize,
    blocks: &[u8],
    queries: SketchQueries<'_>,
    weights: &mut [u16],
    totals: &mut [f32],
) {
    let count = queries.offsets.len();
    let bytes = block_bytes(padded_dim, BITS);
    let mut lanes = [[_mm256_setzero_ps(); 2]; G];
    let blocks = blocks.chunks_exact(bytes).zip(weights.chunks_exact_mut(count * LANES));
    for (block, weights_of_block) in blocks {
        prefetch::far(block.as_ptr().wrapping_add(SCAN_AHEAD), bytes);
        // SAFETY: a whole block, and queries that exist (caller).
        let estimates = unsafe { estimates::<BITS, G>(first, padded_dim, block, queries) };
        for (g, weights) in estimates.into_iter().enumerate() {
            // Packing works within halves of 128 bits; the permutation puts keys back in order.
            let packed = _mm256_permute4x64_epi64::<0xD8>(_mm256_packus_epi32(weights[0], weights[1]));
            // SAFETY: 16 weights of query first + g.
            unsafe {
                let to = weights_of_block.as_mut_ptr().add((first + g) * LANES);
                _mm256_storeu_si256(to.cast(), packed);
            }
            for half in 0..2 {
                let weights = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(weights[half]));
                lanes[g][half] = _mm256_add_ps(lanes[g][half], weights);
            }
        }
    }
    for (total, lanes) in totals[first..].iter_mut().zip(lanes) {
        *total = lane_sum(lanes);
    }
}

/// # Safety
/// - as [`super::super::Kernels::draw_keys`] checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn draw_keys(
    weights: &[u16],
    how: Draw<'_>,
    ids: &mut Vec<u16>,
    ln_pi: &mut Vec<f32>,
) -> f64 {
    // SAFETY: the caller's promise.
    unsafe { scalar::draw::keys_body(weights, how, ids, ln_pi) }
}

/// The bf16 bits of the weights of a block's 16 keys, in two registers, for each of G queries.
///
/// # Safety
/// - `block` is whole, and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn estimates<const BITS: u32, const G: usize>(
    first: usize,
    padded_dim: usize,
    block: &[u8],
    queries: SketchQueries<'_>,
) -> [[__m256i; 2]; G] {
    let width = const { plane_bits(BITS) };
    let mask = _mm256_set1_epi8(((1u32 << width) - 1) as i8);
    let codes = code_bytes(padded_dim, BITS);
    let mut products = [[_mm256_setzero_si256(); 2]; G];
    let mut four = 0;
    for lines in block[..codes].chunks(64 * const { lines_of_i16(BITS) }) {
        // Sums of pairs stay 16 bits wide as long as they fit: widening them costs as much as the multiplication.
        let mut planes = [[[_mm256_setzero_si256(); 2]; G]; 2];
        for line in lines.chunks_exact(64) {
            // SAFETY: a line has 64 bytes.
            let mut halves = unsafe {
                let from: *const __m256i = line.as_ptr().cast();
                [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))]
            };
            for _ in 0..8 / BITS {
                for pairs in &mut planes[..const { (BITS / plane_bits(BITS)) as usize }] {
                    let codes = halves.map(|half| _mm256_and_si256(half, mask));
                    halves = halves.map(|half| _mm256_srl_epi16(half, _mm_cvtsi32_si128(width as i32)));
                    for (g, pairs) in pairs.iter_mut().enumerate() {
                        // SAFETY: elements four..four + 4 of query first + g (caller).
                        let q = unsafe { four_quants(queries, (first + g) * padded_dim + four) };
                        let q = _mm256_set1_epi32(q);
                        for (pairs, codes) in pairs.iter_mut().zip(codes) {
                            *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(codes, q));
                        }
                    }
                }
                four += 4;
            }
        }
        let ones = _mm256_set1_epi16(1);
        for g in 0..G {
            for half in 0..2 {
                let [low, high] = planes.each_ref().map(|pairs| _mm256_madd_epi16(pairs[g][half], ones));
                let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<4>(high));
                products[g][half] = _mm256_add_epi32(products[g][half], sum);
            }
        }
    }
    let mut weights = [[_mm256_setzero_si256(); 2]; G];
    for half in 0..2 {
        // SAFETY: the factors are the block's last 32 bytes.
        let factors =
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(block.as_ptr().add(codes + 16 * half).cast()) });
        for g in 0..G {
            let [scale, zero, offset] =
                [queries.scales, queries.zeros, queries.offsets].map(|of| _mm256_set1_ps(of[first + g]));
            let scaled = _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(products[g][half]), zero), factors);
            let x = _mm256_fmadd_ps(scaled, scale, offset);
            let x = _mm256_max_ps(x, _mm256_set1_ps(super::super::SKETCH_LOG2.0));
            let x = _mm256_min_ps(x, _mm256_set1_ps(super::super::SKETCH_LOG2.1));
            let bits = _mm256_fmadd_ps(
                x,
                _mm256_set1_ps(super::super::EXPONENT_STEP),
                _mm256_set1_ps(super::super::EXPONENT_ONE),
            );
            weights[g][half] = _mm256_cvtps_epi32(bits);
        }
    }
    weights
}

/// Lanes folded to 8, 4, and pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lane_sum([low, high]: [__m256; 2]) -> f32 {
    let eight = _mm256_add_ps(low, high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_hadd_ps(four, four);
    _mm_cvtss_f32(_mm_hadd_ps(two, two))
}
