//! AVX2, FMA and F16C: two quants of a row are in a 32-bit lane, of eight rows in a register.

use core::arch::x86_64::*;

use super::{GateActivation, STREAM_AHEAD, Table, by_token_groups, format, panels, scalar};
use crate::activations::{Activations, BLOCK, Factors, Part};
use crate::blocks::IQ4_NL_VALUES;
use crate::matrix::WeightType;
use crate::quantise;

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
    round,
    dequantise,
    norm_panel,
    gate_panel,
    packed: |_| None,
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
fn quantise(x: &mut Part<'_>) {
    panels::quantise(x);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn round(kind: WeightType, elements: &[f32], out: &mut [u8]) {
    quantise::round(kind, elements, out);
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

/// Rows of a register.
const ROWS: usize = 8;

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
pub(super) unsafe fn blocks<const FORMAT: u8>(
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    by_token_groups!(x.tokens, blocks_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// Eight rows at a time, a lane each: no sum is across lanes, scales and offsets of eight rows meet a token's in one instruction,
/// and the work of bringing quants into lanes is shared by the tokens.
///
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
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, rows) in bytes.chunks(ROWS * row_bytes).enumerate() {
        prefetch(rows);
        let height = rows.len() / row_bytes;
        // Where there are fewer rows, the last one stands for those that are missing.
        let starts: [usize; ROWS] = std::array::from_fn(|row| row.min(height - 1) * row_bytes);
        let mut sums = [_mm256_setzero_ps(); T];
        for i in 0..count {
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let blocks = starts.map(|start| rows.as_ptr().add(start + i * block_bytes));
                let (scales, offsets) = factors::<FORMAT>(blocks);
                let at = |t: usize| (first + t) * count + i;
                let mut products = [_mm256_setzero_si256(); T];
                for (quad, weights) in quads::<FORMAT>(blocks).into_iter().enumerate() {
                    for (t, product) in products.iter_mut().enumerate() {
                        let pairs: *const i32 = x.quants.as_ptr().add(at(t) * BLOCK + 4 * quad).cast();
                        for (pair, weights) in weights.into_iter().enumerate() {
                            let x = _mm256_set1_epi32(pairs.add(pair).read_unaligned());
                            *product = _mm256_add_epi32(*product, _mm256_madd_epi16(weights, x));
                        }
                    }
                }
                for (t, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
                    let Factors { scale, sum: x_sum } = *x.factors.get_unchecked(at(t));
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), scale, *sum);
                    if !matches!(FORMAT, format::Q8_0 | format::IQ4_NL) {
                        *sum = _mm256_fmadd_ps(offsets, _mm256_set1_ps(x_sum), *sum);
                    }
                }
            }
        }
        for (t, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0f32; ROWS];
            // SAFETY: 8 lanes.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
            y[first + t][number * ROWS..][..height].copy_from_slice(&lanes[..height]);
        }
    }
}

/// Scales and offsets of eight blocks, a lane each.
///
/// # Safety
/// - every pointer is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn factors<const FORMAT: u8>(blocks: [*const u8; ROWS]) -> (__m256, __m256) {
    // SAFETY: a block of any format has four bytes (caller).
    let words = unsafe { words(blocks) };
    // The lower halves of the words first, then the upper ones.
    let halves =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(words, halves));
    let scales = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    let offsets = match FORMAT {
        format::Q4_0 => _mm256_mul_ps(scales, _mm256_set1_ps(-8.0)),
        format::Q5_0 => _mm256_mul_ps(scales, _mm256_set1_ps(-16.0)),
        format::Q4_1 | format::Q5_1 => _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
        _ => _mm256_setzero_ps(),
    };
    (scales, offsets)
}

/// The quants of eight blocks: for each four elements two registers, with two elements of 16 bits in each block's lane.
///
/// # Safety
/// - as [`factors`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quads<const FORMAT: u8>(blocks: [*const u8; ROWS]) -> [[__m256i; 2]; BLOCK / 4] {
    if FORMAT == format::Q8_0 {
        // SAFETY: a block's quants are 32 bytes from its third on (caller).
        let (low, high) = unsafe { (turned(blocks.map(|b| b.add(2))), turned(blocks.map(|b| b.add(18)))) };
        return std::array::from_fn(|quad| signed(if quad < 4 { low[quad] } else { high[quad - 4] }));
    }
    let nibbles_at = match FORMAT {
        format::Q4_1 => 4,
        format::Q5_0 => 6,
        format::Q5_1 => 8,
        _ => 2,
    };
    let five_bits = matches!(FORMAT, format::Q5_0 | format::Q5_1);
    // SAFETY: a block has 16 bytes of nibbles, and fifth bits in the four before them (caller).
    let (turned, fifths) = unsafe {
        let fifths =
            if five_bits { words(blocks.map(|b| b.add(nibbles_at - 4))) } else { _mm256_setzero_si256() };
        (turned(blocks.map(|block| block.add(nibbles_at))), fifths)
    };
    let low = _mm256_set1_epi8(15);
    std::array::from_fn(|quad| {
        let bytes = turned[quad % 4];
        let bytes = if quad < 4 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
        let nibbles = _mm256_and_si256(bytes, low);
        if FORMAT == format::IQ4_NL {
            // SAFETY: 16 values.
            let values = unsafe { _mm_loadu_si128(IQ4_NL_VALUES.as_ptr().cast()) };
            return signed(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles));
        }
        unsigned(if five_bits { _mm256_or_si256(nibbles, fifth_bits(fifths, quad)) } else { nibbles })
    })
}

/// Four bytes of eight rows, a lane each.
///
/// # Safety
/// - every pointer is valid for reads of 4 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn words(rows: [*const u8; ROWS]) -> __m256i {
    // SAFETY: four bytes each (caller).
    let [a, b, c, d, e, f, g, h] = rows.map(|row| unsafe { row.cast::<i32>().read_unaligned() });
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// The first two, and the last two, bytes of each lane as numbers of 16 bits without a sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned(bytes: __m256i) -> [__m256i; 2] {
    let lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x0004_0004, 0x0008_0008, 0x000c_000c));
    [0x8001_8000_u32, 0x8003_8002]
        .map(|order| _mm256_shuffle_epi8(bytes, _mm256_add_epi8(_mm256_set1_epi32(order as i32), lanes)))
}

/// The same of bytes with a sign: in the upper halves of 16 bits they have theirs once they are shifted down.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed(bytes: __m256i) -> [__m256i; 2] {
    let lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x0400_0400, 0x0800_0800, 0x0c00_0c00));
    [0x0180_0080, 0x0380_0280].map(|order| {
        let raised = _mm256_shuffle_epi8(bytes, _mm256_add_epi8(_mm256_set1_epi32(order), lanes));
        _mm256_srai_epi16::<8>(raised)
    })
}

/// 16 in each of a lane's four bytes whose element, from 4 * `quad` on, has its bit set in the lane of `bits`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fifth_bits(bits: __m256i, quad: usize) -> __m256i {
    let lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c));
    let byte = _mm256_set1_epi32(0x0101_0101 * (quad / 2) as i32);
    let spread = _mm256_shuffle_epi8(bits, _mm256_add_epi8(byte, lanes));
    let own = _mm256_set1_epi32(if quad.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010_u32 as i32 });
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Four bytes of each of eight rows of 16: register i has the bytes 4i to 4i + 3 of row r in lane r.
///
/// # Safety
/// - every pointer is valid for reads of 16 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn turned(rows: [*const u8; ROWS]) -> [__m256i; 4] {
    // SAFETY: 16 bytes each (caller).
    let row = |r: usize| unsafe {
        _mm256_set_m128i(_mm_loadu_si128(rows[r + 4].cast()), _mm_loadu_si128(rows[r].cast()))
    };
    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// # Safety
/// - as [`blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
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
    y: &mut [&mut [f32]],
) {
    let whole = x.size / WIDTH * WIDTH;
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
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
            y[first + t][number] = horizontal_sum(sums[t]) + rest;
        }
    }
}
