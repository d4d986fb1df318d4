//! Large blocks: their quants come 32 at a time, and scales of all their groups at once.

use core::arch::x86_64::*;

use super::{horizontal_sum, prefetch};
use crate::activations::{Activations, BLOCK, Factors};
use crate::blocks::{Codes, GROUP, LARGE, codes, large_bytes, layout, wide_groups};
use crate::kernels::{by_token_groups, each_stretch, format};

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn blocks<const FORMAT: u8>(
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    by_token_groups!(x.tokens, blocks_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks_of<const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    let count = x.size / LARGE;
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        prefetch(row);
        let mut products = [_mm256_setzero_ps(); T];
        let mut offsets = [_mm256_setzero_ps(); T];
        for (i, block) in row.chunks_exact(large_bytes(FORMAT)).enumerate() {
            // SAFETY: the block is whole, and block i of each token exists (caller).
            unsafe {
                let factors = factors::<FORMAT>(block);
                let scales = std::array::from_fn(|t| {
                    scaled::<FORMAT>(factors, x, (first + t) * count + i, &mut offsets[t])
                });
                let at = std::array::from_fn(|t| (first + t) * count + i);
                let block = block.as_ptr();
                each_stretch!(add_stretch::<FORMAT, T>(block, &scales, x, &at, &mut products));
            }
        }
        for t in 0..T {
            y[first + t][number] = horizontal_sum(_mm256_add_ps(products[t], offsets[t]));
        }
    }
}

/// Adds the products of the 32 elements `B` of a block with those of the blocks `at` of the activations.
///
/// # Safety
/// - `block` is valid for reads of a block of the format, and the activations have the blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_stretch<const FORMAT: u8, const T: usize, const B: usize>(
    block: *const u8,
    scales: &[[f32; LARGE / GROUP]; T],
    x: &Activations,
    at: &[usize; T],
    products: &mut [__m256; T],
) {
    // SAFETY: all within the block and the activations (caller).
    unsafe {
        let quants = quants::<FORMAT, B>(block);
        let first = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(quants));
        let second = _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(quants));
        for t in 0..T {
            let from: *const __m256i = x.quants.as_ptr().add(at[t] * LARGE + B * BLOCK).cast();
            let first = _mm256_madd_epi16(first, _mm256_loadu_si256(from));
            let second = _mm256_madd_epi16(second, _mm256_loadu_si256(from.add(1)));
            if wide_groups(FORMAT) {
                let product = _mm256_cvtepi32_ps(_mm256_add_epi32(first, second));
                products[t] = _mm256_fmadd_ps(product, _mm256_set1_ps(scales[t][B]), products[t]);
            } else {
                for (g, product) in [first, second].into_iter().enumerate() {
                    let scale = _mm256_set1_ps(scales[t][2 * B + g]);
                    products[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, products[t]);
                }
            }
        }
    }
}

/// Scales and minima of the groups, the first 8 and the last; with groups of 32 there are only the first.
type GroupFactors = [[__m256; 2]; 2];

/// # Safety
/// - `block` is one of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn factors<const FORMAT: u8>(block: &[u8]) -> GroupFactors {
    let Codes { scales, minima } = codes::<FORMAT>(block);
    // SAFETY: the layout is within the block (caller), and codes are 16 bytes.
    let (scale, zero, scales, minima) = unsafe {
        let (scale, zero) = block_scales::<FORMAT>(block.as_ptr());
        (scale, zero, _mm_loadu_si128(scales.as_ptr().cast()), _mm_loadu_si128(minima.as_ptr().cast()))
    };
    let (scale, zero) = (_mm256_set1_ps(scale), _mm256_set1_ps(zero));
    [(scales, scale), (minima, zero)].map(|(codes, factor)| {
        [codes, _mm_srli_si128::<8>(codes)]
            .map(|codes| _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), factor))
    })
}

/// What codes of scales and of minima of a block are multiplied with.
///
/// # Safety
/// - `block` is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn block_scales<const FORMAT: u8>(block: *const u8) -> (f32, f32) {
    let layout = layout(FORMAT);
    // SAFETY: within the block (caller).
    unsafe {
        let from = block.add(layout.scale);
        if layout.zero > 0.0 {
            let scale = _mm_cvtss_f32(_mm_cvtph_ps(_mm_loadu_si16(from)));
            return (scale, layout.zero * scale);
        }
        let halves = _mm_cvtph_ps(_mm_loadu_si32(from));
        (_mm_cvtss_f32(halves), _mm_cvtss_f32(_mm_movehdup_ps(halves)))
    }
}

/// The groups' scales times those of block `at` of the activations; takes the minima times its sums from `offsets`.
///
/// # Safety
/// - the activations have the block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scaled<const FORMAT: u8>(
    [scales, minima]: GroupFactors,
    x: &Activations,
    at: usize,
    offsets: &mut __m256,
) -> [f32; LARGE / GROUP] {
    let mut out = [0.0; LARGE / GROUP];
    // SAFETY: 8 factors are 16 numbers, and a block has 16 sums of groups (caller).
    unsafe {
        let factors: *const Factors = x.factors.as_ptr().add(at * LARGE / BLOCK);
        let [a, b] = [0, 4].map(|i| _mm256_loadu_ps(factors.add(i).cast()));
        if wide_groups(FORMAT) {
            // Pairs of scale and sum become eight scales and eight sums, both in the order 0 1 4 5 2 3 6 7 until permuted.
            let order =
                |pairs| _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(pairs)));
            let x_scales = order(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let x_sums = order(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(scales[0], x_scales));
            *offsets = _mm256_fnmadd_ps(minima[0], x_sums, *offsets);
        } else {
            let sums = x.group_sums.as_ptr().add(at * LARGE / GROUP);
            for (half, pairs) in [a, b].into_iter().enumerate() {
                let x_scales = _mm256_moveldup_ps(pairs);
                _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), _mm256_mul_ps(scales[half], x_scales));
                *offsets = _mm256_fnmadd_ps(minima[half], _mm256_loadu_ps(sums.add(8 * half)), *offsets);
            }
        }
    }
    out
}

/// The 32 elements `B` of a block as bytes.
///
/// # Safety
/// - `block` is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn quants<const FORMAT: u8, const B: usize>(block: *const u8) -> __m256i {
    let layout = layout(FORMAT);
    // SAFETY: 32 bytes at each of the layout's places are within the block (caller).
    let load = |at: usize| unsafe { _mm256_loadu_si256(block.add(at).cast()) };
    // Shifts are of 16 bits; the mask takes away what came from the byte above.
    let bits = |bytes: __m256i, shift: usize, mask: i8| {
        _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi64_si128(shift as i64)), _mm256_set1_epi8(mask))
    };
    match FORMAT {
        format::Q2_K => bits(load(layout.low + 32 * (B / 4)), 2 * (B % 4), 3),
        format::Q3_K => {
            let low = bits(load(layout.low + 32 * (B / 4)), 2 * (B % 4), 3);
            let high = bits(load(layout.high), B, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<2>(high))
        }
        format::Q4_K => bits(load(layout.low + 32 * (B / 2)), 4 * (B % 2), 15),
        format::Q5_K => {
            let low = bits(load(layout.low + 32 * (B / 2)), 4 * (B % 2), 15);
            let high = bits(load(layout.high), B, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        }
        _ => {
            let low = bits(load(layout.low + 64 * (B / 4) + 32 * (B % 2)), 4 * (B % 4 / 2), 15);
            let high = bits(load(layout.high + 32 * (B / 4)), 2 * (B % 4), 3);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        }
    }
}
