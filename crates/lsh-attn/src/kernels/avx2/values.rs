//! Sums of values' codes, weighted by estimates, with AVX2: products of bytes in pairs of keys, 32 elements at a time.

use core::arch::x86_64::*;

use super::super::{LEAST_WEIGHT, SCAN_AHEAD, prefetch, scalar};
use crate::hash::{LANES, Lanes};
use crate::kernels::vector::Vector;
use crate::sketch::{block_bytes, code_bytes, middle};

#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn encode(bits: u32, x: &[Lanes], block: &mut [u8]) {
    scalar::values::encode_body(bits, x, block);
}

/// # Safety
/// - values, weights and num agree, as [`super::super::Kernels::value_sums`] checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn sums(
    bits: u32,
    padded_dim: usize,
    values: &[u8],
    weights: &[u16],
    num: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            1 => sums_of_bits::<1>(padded_dim, values, weights, num),
            2 => sums_of_bits::<2>(padded_dim, values, weights, num),
            _ => sums_of_bits::<4>(padded_dim, values, weights, num),
        }
    }
}

/// # Safety
/// - as [`sums`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums_of_bits<const BITS: u32>(padded_dim: usize, values: &[u8], weights: &[u16], num: &mut [f32]) {
    by_query_groups!(num.len() / padded_dim, sums_of::<BITS>, padded_dim, values, weights, num)
}

/// # Safety
/// - as [`sums`], and queries `first..first + G` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums_of<const BITS: u32, const G: usize>(
    first: usize,
    padded_dim: usize,
    values: &[u8],
    weights: &[u16],
    num: &mut [f32],
) {
    let block_weights = num.len() / padded_dim * LANES;
    let bytes = block_bytes(padded_dim, BITS);
    let num = &mut num[first * padded_dim..][..G * padded_dim];
    let blocks = values.chunks_exact(bytes).zip(weights.chunks_exact(block_weights));
    for (values, weights) in blocks {
        prefetch::far(values.as_ptr().wrapping_add(SCAN_AHEAD), bytes);
        let mut widened = [[_mm256_setzero_ps(); 2]; G];
        for (g, widened) in widened.iter_mut().enumerate() {
            for (half, widened) in widened.iter_mut().enumerate() {
                // SAFETY: half of the 16 weights of query first + g.
                *widened = unsafe { __m256::load_bf16(weights.as_ptr().add((first + g) * LANES + 8 * half)) };
            }
        }
        // SAFETY: a whole block of values, and G queries of padded_dim elements (caller).
        unsafe { add::<BITS, G>(padded_dim, values, widened, num) };
    }
}

/// Weights times factors in 7 bits, the scale of each query's, and what codes' middles add to a sum.
struct Rounded<const G: usize> {
    quants: [[i16; LANES / 2]; G],
    scales: [f32; G],
    zeros: [f32; G],
}

/// # Safety
/// - `values` is a whole block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rounded<const BITS: u32, const G: usize>(values: &[u8], weights: [[__m256; 2]; G]) -> Rounded<G> {
    let mut rounded = Rounded { quants: [[0; LANES / 2]; G], scales: [0.0; G], zeros: [0.0; G] };
    let at = values.len() - 2 * LANES;
    // SAFETY: the factors are the block's last 32 bytes.
    let factors = unsafe {
        let from: *const __m128i = values.as_ptr().add(at).cast();
        [_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))]
    };
    for (g, weights) in weights.into_iter().enumerate() {
        let weighted = [_mm256_mul_ps(weights[0], factors[0]), _mm256_mul_ps(weights[1], factors[1])];
        let greatest = weighted[0].greatest(weighted[1]).top();
        if greatest < LEAST_WEIGHT {
            continue;
        }
        let inverse = _mm256_set1_ps(127.0 / greatest);
        let quants = weighted.map(|weighted| _mm256_cvtps_epi32(_mm256_mul_ps(weighted, inverse)));
        // Packing works within halves of 128 bits; the permutation puts keys back in order.
        let words = _mm256_permute4x64_epi64::<0xD8>(_mm256_packs_epi32(quants[0], quants[1]));
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let sums = _mm_sad_epu8(bytes, _mm_setzero_si128());
        let sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi16::<4>(sums);
        // SAFETY: eight words are 16 bytes.
        unsafe { _mm_storeu_si128(rounded.quants[g].as_mut_ptr().cast(), bytes) };
        rounded.scales[g] = greatest / 127.0;
        rounded.zeros[g] = middle(BITS) * sum as f32;
    }
    rounded
}

/// Adds a block's weighted values to `num` `[G, padded_dim]`.
///
/// # Safety
/// - `values` is a whole block, and `num` as long as that.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add<const BITS: u32, const G: usize>(
    padded_dim: usize,
    values: &[u8],
    weights: [[__m256; 2]; G],
    num: &mut [f32],
) {
    // SAFETY: a whole block (caller).
    let Rounded { quants, scales, zeros } = unsafe { rounded::<BITS, G>(values, weights) };
    let mask = _mm256_set1_epi8(((1u32 << BITS) - 1) as i8);
    let codes = &values[..code_bytes(padded_dim, BITS)];
    for (group, lines) in codes.chunks_exact(64 * BITS as usize).enumerate() {
        // Sums over 8 pairs of keys, each at most 2 * 15 * 127, fit 16 bits.
        let mut products = [[_mm256_setzero_si256(); 2]; G];
        let mut pair = 0;
        for line in lines.chunks_exact(64) {
            // SAFETY: a line has 64 bytes.
            let mut halves = unsafe {
                let from: *const __m256i = line.as_ptr().cast();
                [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))]
            };
            for _ in 0..8 / BITS {
                let codes = [_mm256_and_si256(halves[0], mask), _mm256_and_si256(halves[1], mask)];
                let shift = _mm_cvtsi32_si128(BITS as i32);
                halves = [_mm256_srl_epi16(halves[0], shift), _mm256_srl_epi16(halves[1], shift)];
                for g in 0..G {
                    let weights = _mm256_set1_epi16(quants[g][pair]);
                    for (sum, codes) in products[g].iter_mut().zip(codes) {
                        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, weights));
                    }
                }
                pair += 1;
            }
        }
        for g in 0..G {
            let (scale, zero) = (_mm256_set1_ps(scales[g]), _mm256_set1_ps(zeros[g]));
            for (half, &words) in products[g].iter().enumerate() {
                let eights = [_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words)];
                for (number, eight) in eights.into_iter().enumerate() {
                    let product = _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight)), zero);
                    let at = g * padded_dim + group * 32 + half * 16 + number * 8;
                    // SAFETY: elements of query g (caller).
                    unsafe {
                        let to = num.as_mut_ptr().add(at);
                        _mm256_storeu_ps(to, _mm256_fmadd_ps(product, scale, _mm256_loadu_ps(to)));
                    }
                }
            }
        }
    }
}
