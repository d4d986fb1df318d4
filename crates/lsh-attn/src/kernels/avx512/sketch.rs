//! The scan of sketches with AVX-512 and VNNI: four products of bytes and their sum in one instruction.

use core::arch::x86_64::*;

use super::super::{SCAN_AHEAD, four_quants, prefetch, scalar};
use crate::hash::{LANES, Lanes};
use crate::sketch::{Draw, SketchQueries, block_bytes, code_bytes};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn rotate(signs: &[f32], x: &mut [Lanes]) {
    for signs in signs.chunks_exact(x.len()) {
        // Of the portable loop the compiler makes vectors of sixteen coordinates, gathered and scattered, in place of sixteen lanes.
        for (x, &sign) in x.iter_mut().zip(signs) {
            let lanes = x.0.as_mut_ptr();
            // SAFETY: 16 lanes are read and written, aligned as a register is.
            unsafe { _mm512_store_ps(lanes, _mm512_mul_ps(_mm512_load_ps(lanes), _mm512_set1_ps(sign))) };
        }
        scalar::hadamard(x);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn sketch_encode(bits: u32, x: &[Lanes], block: &mut [u8]) {
    scalar::encode_body(bits, x, block);
}

/// # Safety
/// - blocks, queries, weights and totals agree, as [`super::super::Kernels::sketch_weights`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
    let mut lanes = [_mm512_setzero_ps(); G];
    let blocks = blocks.chunks_exact(bytes).zip(weights.chunks_exact_mut(count * LANES));
    for (block, weights_of_block) in blocks {
        prefetch::far(block.as_ptr().wrapping_add(SCAN_AHEAD), bytes);
        // SAFETY: a whole block, and queries that exist (caller).
        let estimates = unsafe { estimates::<BITS, G>(first, padded_dim, block, queries) };
        for (g, weights) in estimates.into_iter().enumerate() {
            // SAFETY: 16 weights of query first + g.
            unsafe {
                let to = weights_of_block.as_mut_ptr().add((first + g) * LANES);
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(weights));
            }
            let weights = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(weights));
            lanes[g] = _mm512_add_ps(lanes[g], weights);
        }
    }
    for (total, lanes) in totals[first..].iter_mut().zip(lanes) {
        *total = lane_sum(lanes);
    }
}

/// # Safety
/// - as [`super::super::Kernels::draw_keys`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn draw_keys(
    weights: &[u16],
    how: Draw<'_>,
    ids: &mut Vec<u16>,
    ln_pi: &mut Vec<f32>,
) -> f64 {
    // SAFETY: the caller's promise.
    unsafe { scalar::draw::keys_body(weights, how, ids, ln_pi) }
}

/// The bf16 bits of the weights of a block's 16 keys for each of G queries.
///
/// # Safety
/// - `block` is whole, and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn estimates<const BITS: u32, const G: usize>(
    first: usize,
    padded_dim: usize,
    block: &[u8],
    queries: SketchQueries<'_>,
) -> [__m512i; G] {
    let mask = _mm512_set1_epi8(((1u32 << BITS) - 1) as i8);
    let codes = code_bytes(padded_dim, BITS);
    let mut products = [_mm512_setzero_si512(); G];
    let mut four = 0;
    for line in block[..codes].chunks_exact(64) {
        // SAFETY: a line has 64 bytes.
        let mut line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        for _ in 0..8 / BITS {
            let codes = _mm512_and_si512(line, mask);
            line = _mm512_srli_epi16::<BITS>(line);
            for (g, product) in products.iter_mut().enumerate() {
                // SAFETY: elements four..four + 4 of query first + g (caller).
                let q = unsafe { four_quants(queries, (first + g) * padded_dim + four) };
                *product = _mm512_dpbusd_epi32(*product, codes, _mm512_set1_epi32(q));
            }
            four += 4;
        }
    }
    // SAFETY: the factors are the block's last 32 bytes.
    let factors = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(block.as_ptr().add(codes).cast()) });
    let mut weights = [_mm512_setzero_si512(); G];
    for g in 0..G {
        let [scale, zero, offset] =
            [queries.scales, queries.zeros, queries.offsets].map(|of| _mm512_set1_ps(of[first + g]));
        let scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(products[g]), zero), factors);
        let x = _mm512_fmadd_ps(scaled, scale, offset);
        let x = _mm512_max_ps(x, _mm512_set1_ps(super::super::SKETCH_LOG2.0));
        let x = _mm512_min_ps(x, _mm512_set1_ps(super::super::SKETCH_LOG2.1));
        let bits = _mm512_fmadd_ps(
            x,
            _mm512_set1_ps(super::super::EXPONENT_STEP),
            _mm512_set1_ps(super::super::EXPONENT_ONE),
        );
        weights[g] = _mm512_cvtps_epi32(bits);
    }
    weights
}

/// Lanes folded to 8, 4, and pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn lane_sum(x: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_hadd_ps(four, four);
    _mm_cvtss_f32(_mm_hadd_ps(two, two))
}
