//! AVX2, FMA and F16C: a block of 32 quants is two registers of 16-bit lanes.

use core::arch::x86_64::*;

use super::{GateActivation, STREAM_AHEAD, Table, by_token_groups, format, panels, scalar};
use crate::activations::{Activations, BLOCK};
use crate::blocks::IQ4_NL_VALUES;
use crate::matrix::WeightType;

pub(super) mod large;

pub(super) static TABLE: Table = Table {
    f32: floats::<{ format::F32 }>,
    f16: floats::<{ format::F16 }>,
    bf16: floats::<{ format::BF16 }>,
    q8_0: blocks::<{ format::Q8_0 }>,
    q4_0: blocks::<{ format::Q4_0 }>,
    q4_1: blocks::<{ format::Q4_1 }>,
    q5_0: blocks::<{ format::Q5_0 }>,
    q5_1: blocks::<{ format::Q5_1 }>,
    iq4_nl: blocks::<{ format::IQ4_NL }>,
    q2_k: large::blocks::<{ format::Q2_K }>,
    q3_k: large::blocks::<{ format::Q3_K }>,
    q4_k: large::blocks::<{ format::Q4_K }>,
    q5_k: large::blocks::<{ format::Q5_K }>,
    q6_k: large::blocks::<{ format::Q6_K }>,
    norm,
    gate,
    quantise,
    dequantise,
    norm_panel,
    gate_panel,
};

#[target_feature(enable = "avx2,fma,f16c")]
fn norm(x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    panels::norm(x, weights, epsilon, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gate(activation: GateActivation, gate: &mut [f32], up: &[f32]) {
    panels::gate(activation, gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantise(x: &mut Activations) {
    panels::quantise(x);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dequantise(kind: WeightType, blocks: &[u8], out: &mut [u16]) {
    panels::dequantise(kind, blocks, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn norm_panel(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut [u32]) {
    panels::norm_panel(x, n, column, weights, epsilon, panel);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gate_panel(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut [u32],
) {
    panels::gate_panel(activation, gate, up, n, column, panel);
}

/// f32 lanes of a register.
const WIDTH: usize = 8;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn horizontal_sum(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Asks for the memory that lies [`STREAM_AHEAD`] bytes behind a row, as much as the row has.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch(row: &[u8]) {
    for line in (0..row.len()).step_by(64) {
        // A prefetch never faults, so the address need not even be valid.
        _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(STREAM_AHEAD + line).cast());
    }
}

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [f32]) {
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
    y: &mut [f32],
) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (row, y) in bytes.chunks_exact(row_bytes).zip(y.chunks_exact_mut(x.tokens)) {
        prefetch(row);
        let mut products = [_mm256_setzero_ps(); T];
        let mut offsets = [0.0f32; T];
        for i in 0..count {
            // SAFETY: block i of the row, and block i of each token, exist (caller).
            unsafe {
                let ([low, high], scale, offset) = unpack::<FORMAT>(row.as_ptr().add(i * block_bytes));
                for t in 0..T {
                    let at = (first + t) * count + i;
                    let from: *const __m256i = x.quants.as_ptr().add(at * BLOCK).cast();
                    let product = _mm256_add_epi32(
                        _mm256_madd_epi16(low, _mm256_loadu_si256(from)),
                        _mm256_madd_epi16(high, _mm256_loadu_si256(from.add(1))),
                    );
                    let factors = x.factors.get_unchecked(at);
                    let scale = _mm256_set1_ps(scale * factors.scale);
                    products[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, products[t]);
                    if !matches!(FORMAT, format::Q8_0 | format::IQ4_NL) {
                        offsets[t] += offset * factors.sum;
                    }
                }
            }
        }
        for t in 0..T {
            y[first + t] = horizontal_sum(products[t]) + offsets[t];
        }
    }
}

/// A block as twice 16 quants of 16 bits, scale and offset.
///
/// # Safety
/// - `block` is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<const FORMAT: u8>(block: *const u8) -> ([__m256i; 2], f32, f32) {
    // SAFETY: all within the block (caller).
    unsafe {
        let halves = _mm_cvtph_ps(_mm_loadu_si32(block));
        let scale = _mm_cvtss_f32(halves);
        if FORMAT == format::Q8_0 {
            let from: *const __m128i = block.add(2).cast();
            let quants = [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(from)),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(1))),
            ];
            return (quants, scale, 0.0);
        }
        let second = || _mm_cvtss_f32(_mm_movehdup_ps(halves));
        let (offset, first) = match FORMAT {
            format::Q4_0 => (-8.0 * scale, 2),
            format::Q4_1 => (second(), 4),
            format::Q5_0 => (-16.0 * scale, 6),
            format::Q5_1 => (second(), 8),
            _ => (0.0, 2),
        };
        let bytes = _mm_loadu_si128(block.add(first).cast());
        let mask = _mm_set1_epi8(15);
        let mut low = _mm_and_si128(bytes, mask);
        let mut high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        if FORMAT == format::IQ4_NL {
            let values = _mm_loadu_si128(IQ4_NL_VALUES.as_ptr().cast());
            low = _mm_shuffle_epi8(values, low);
            high = _mm_shuffle_epi8(values, high);
            return ([_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)], scale, offset);
        }
        if matches!(FORMAT, format::Q5_0 | format::Q5_1) {
            let fifths = fifth_bits(block.add(first - 4).cast::<i32>().read_unaligned());
            low = _mm_or_si128(low, _mm256_castsi256_si128(fifths));
            high = _mm_or_si128(high, _mm256_extracti128_si256::<1>(fifths));
        }
        ([_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)], scale, offset)
    }
}

/// 16 in each byte whose bit is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(bits: i32) -> __m256i {
    // The byte that has an element's bit, then the bit within it.
    let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let one = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), bytes), one);
    _mm256_and_si256(_mm256_cmpeq_epi8(spread, one), _mm256_set1_epi8(16))
}

/// # Safety
/// - as [`blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [f32]) {
    by_token_groups!(x.tokens, floats_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks_of`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats_of<const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [f32],
) {
    let whole = x.size / WIDTH * WIDTH;
    for (row, y) in bytes.chunks_exact(row_bytes).zip(y.chunks_exact_mut(x.tokens)) {
        prefetch(row);
        let mut sums = [_mm256_setzero_ps(); T];
        for j in (0..whole).step_by(WIDTH) {
            // SAFETY: j + 8 <= x.size, and row and vectors have as many elements (caller).
            unsafe {
                let w = match FORMAT {
                    format::F32 => _mm256_loadu_ps(row.as_ptr().cast::<f32>().add(j)),
                    format::F16 => _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(2 * j).cast())),
                    _ => {
                        let bits = _mm_loadu_si128(row.as_ptr().add(2 * j).cast());
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
                    }
                };
                for (t, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_loadu_ps(x.values.as_ptr().add((first + t) * x.size + j));
                    *sum = _mm256_fmadd_ps(w, x, *sum);
                }
            }
        }
        for t in 0..T {
            let rest: f32 = (whole..x.size)
                .map(|j| scalar::element::<FORMAT>(row, j) * x.values[(first + t) * x.size + j])
                .sum();
            y[first + t] = horizontal_sum(sums[t]) + rest;
        }
    }
}
