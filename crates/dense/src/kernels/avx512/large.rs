//! Large blocks: their quants come 32 at a time as bytes, and scales of all their groups in one register.

use core::arch::x86_64::*;

use super::{dot_bytes, horizontal_sum, prefetch};
use crate::activations::{Activations, BLOCK};
use crate::blocks::{Codes, GROUP, LARGE, codes, large_bytes, wide_groups};
use crate::kernels::avx2::large::{block_scales, quants};
use crate::kernels::{ROW_GROUP, by_token_groups, each_stretch};

/// # Safety
/// - `rows`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn blocks<const FORMAT: u8>(rows: &[u8], row_bytes: usize, x: &Activations, y: &mut [f32]) {
    if x.tokens > 1 {
        return by_token_groups!(x.tokens, blocks_of::<FORMAT, 1>, rows, row_bytes, x, y);
    }
    let fours = y.len() / ROW_GROUP * ROW_GROUP;
    let (rows, last_rows) = rows.split_at(fours * row_bytes);
    let (y, last) = y.split_at_mut(fours);
    // SAFETY: whole rows and their places in y, for one token.
    unsafe {
        blocks_of::<FORMAT, ROW_GROUP, 1>(0, rows, row_bytes, x, y);
        blocks_of::<FORMAT, 1, 1>(0, last_rows, row_bytes, x, last);
    }
}

/// R rows at a time, which share the loads of activations.
///
/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn blocks_of<const FORMAT: u8, const R: usize, const T: usize>(
    first: usize,
    rows: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [f32],
) {
    let count = x.size / LARGE;
    let block_bytes = large_bytes(FORMAT);
    for (rows, y) in rows.chunks_exact(R * row_bytes).zip(y.chunks_exact_mut(R * x.tokens)) {
        prefetch(rows);
        let mut products = [[_mm256_setzero_ps(); T]; R];
        let mut offsets = [[_mm512_setzero_ps(); T]; R];
        for i in 0..count {
            let at: [usize; T] = std::array::from_fn(|t| (first + t) * count + i);
            let blocks: [&[u8]; R] =
                std::array::from_fn(|r| &rows[r * row_bytes + i * block_bytes..][..block_bytes]);
            let mut scales = [[[0.0f32; LARGE / GROUP]; T]; R];
            // SAFETY: block i of each row is whole, and block i of each token exists (caller).
            unsafe {
                let x_factors = at.map(|at| x_factors::<FORMAT>(x, at));
                for r in 0..R {
                    let (own, minima) = factors::<FORMAT>(blocks[r]);
                    for (t, (x_scales, x_sums)) in x_factors.into_iter().enumerate() {
                        _mm512_storeu_ps(scales[r][t].as_mut_ptr(), _mm512_mul_ps(own, x_scales));
                        offsets[r][t] = _mm512_fnmadd_ps(minima, x_sums, offsets[r][t]);
                    }
                }
                let blocks = blocks.map(<[u8]>::as_ptr);
                each_stretch!(add_stretch::<FORMAT, R, T>(&blocks, &scales, x, &at, &mut products));
            }
        }
        for (r, (products, offsets)) in products.iter().zip(offsets).enumerate() {
            for t in 0..T {
                y[r * x.tokens + first + t] = horizontal_sum(products[t]) + _mm512_reduce_add_ps(offsets[t]);
            }
        }
    }
}

/// Adds the products of the 32 elements `B` of each row's block with those of the blocks `at` of the activations.
///
/// # Safety
/// - `blocks` are valid for reads of a block of the format each, and the activations have theirs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_stretch<const FORMAT: u8, const R: usize, const T: usize, const B: usize>(
    blocks: &[*const u8; R],
    scales: &[[[f32; LARGE / GROUP]; T]; R],
    x: &Activations,
    at: &[usize; T],
    products: &mut [[__m256; T]; R],
) {
    // SAFETY: all within the blocks and the activations (caller).
    unsafe {
        for r in 0..R {
            let quants = quants::<FORMAT, B>(blocks[r]);
            for t in 0..T {
                let product = _mm256_cvtepi32_ps(dot_bytes(quants, x, at[t] * (LARGE / BLOCK) + B));
                let scale = if wide_groups(FORMAT) {
                    _mm256_set1_ps(scales[r][t][B])
                } else {
                    let eight = _mm256_loadu_ps(scales[r][t].as_ptr().add(B / 4 * 8));
                    let (a, b) = ((2 * (B % 4)) as i32, (2 * (B % 4) + 1) as i32);
                    _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(a, a, a, a, b, b, b, b))
                };
                products[r][t] = _mm256_fmadd_ps(product, scale, products[r][t]);
            }
        }
    }
}

/// Scales and minima of the groups, 16 of each; with groups of 32 there are 8, and zeros.
///
/// # Safety
/// - `block` is one of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn factors<const FORMAT: u8>(block: &[u8]) -> (__m512, __m512) {
    let Codes { scales, minima } = codes::<FORMAT>(block);
    // SAFETY: the block is whole (caller), and codes are 16 bytes.
    let (scale, zero, scales, minima) = unsafe {
        let (scale, zero) = block_scales::<FORMAT>(block.as_ptr());
        (scale, zero, _mm_loadu_si128(scales.as_ptr().cast()), _mm_loadu_si128(minima.as_ptr().cast()))
    };
    let times = |codes: __m128i, factor: f32| {
        if wide_groups(FORMAT) {
            let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
            return _mm512_zextps256_ps512(_mm256_mul_ps(codes, _mm256_set1_ps(factor)));
        }
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), _mm512_set1_ps(factor))
    };
    (times(scales, scale), times(minima, zero))
}

/// Scales and sums of block `at` of the activations, as [`factors`] has those of weights.
///
/// # Safety
/// - the activations have the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn x_factors<const FORMAT: u8>(x: &Activations, at: usize) -> (__m512, __m512) {
    // SAFETY: 8 factors are 16 numbers, and a block has 16 sums of groups (caller).
    unsafe {
        let pairs = _mm512_loadu_ps(x.factors.as_ptr().add(at * (LARGE / BLOCK)).cast());
        if wide_groups(FORMAT) {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0);
            return (
                _mm512_maskz_permutexvar_ps(0xff, even, pairs),
                _mm512_maskz_permutexvar_ps(0xff, odd, pairs),
            );
        }
        let sums = x.group_sums.as_ptr().add(at * (LARGE / GROUP));
        (_mm512_moveldup_ps(pairs), _mm512_loadu_ps(sums))
    }
}
