//! AVX-512 with VNNI: a block of 32 quants of 8 bits is one register of 16-bit lanes; one of 4 bits, half a register of bytes.

use core::arch::x86_64::*;

use super::{GateActivation, STREAM_AHEAD, Table, avx2, by_token_groups, format, panels};
use crate::activations::{Activations, BLOCK};
use crate::matrix::WeightType;

pub(super) static TABLE: Table = Table {
    f32: floats::<{ format::F32 }>,
    f16: floats::<{ format::F16 }>,
    bf16: floats::<{ format::BF16 }>,
    q8_0: blocks::<{ format::Q8_0 }>,
    q4_0: blocks::<{ format::Q4_0 }>,
    q4_1: blocks::<{ format::Q4_1 }>,
    // What follows has no kernels of its own: those of AVX2 run here too.
    q5_0: avx2::blocks::<{ format::Q5_0 }>,
    q5_1: avx2::blocks::<{ format::Q5_1 }>,
    iq4_nl: avx2::blocks::<{ format::IQ4_NL }>,
    q2_k: avx2::large::blocks::<{ format::Q2_K }>,
    q3_k: avx2::large::blocks::<{ format::Q3_K }>,
    q4_k: avx2::large::blocks::<{ format::Q4_K }>,
    q5_k: avx2::large::blocks::<{ format::Q5_K }>,
    q6_k: avx2::large::blocks::<{ format::Q6_K }>,
    norm,
    gate,
    quantise,
    dequantise,
    norm_panel,
    gate_panel,
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn norm(x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    panels::norm(x, weights, epsilon, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn gate(activation: GateActivation, gate: &mut [f32], up: &[f32]) {
    panels::gate(activation, gate, up);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quantise(x: &mut Activations) {
    panels::quantise(x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn dequantise(kind: WeightType, blocks: &[u8], out: &mut [u16]) {
    panels::dequantise(kind, blocks, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn norm_panel(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut [u32]) {
    panels::norm_panel(x, n, column, weights, epsilon, panel);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
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
const WIDTH: usize = 16;

/// Asks for the memory that lies [`STREAM_AHEAD`] bytes behind a row, as much as the row has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn prefetch(row: &[u8]) {
    for line in (0..row.len()).step_by(64) {
        // A prefetch never faults, so the address need not even be valid.
        _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(STREAM_AHEAD + line).cast());
    }
}

/// Rows whose scales and offsets fill a register: one token alone takes so many at a time.
const ROWS: usize = 4;

/// # Safety
/// - `rows`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn blocks<const FORMAT: u8>(rows: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    if x.tokens > 1 {
        return by_token_groups!(x.tokens, blocks_of::<FORMAT, 1>, 0, rows, row_bytes, x, y);
    }
    let fours = rows.len() / row_bytes / ROWS * ROWS;
    let (rows, last_rows) = rows.split_at(fours * row_bytes);
    // SAFETY: whole rows and their places in y, for one token.
    unsafe {
        blocks_of::<FORMAT, ROWS, 1>(0, 0, rows, row_bytes, x, y);
        blocks_of::<FORMAT, 1, 1>(0, fours, last_rows, row_bytes, x, y);
    }
}

/// R rows at a time, which share the loads of activations and the work on scales. R is 1 or 4. The first of `rows` is y's row
/// `first_row`.
///
/// # Safety
/// - as [`blocks`], and tokens `first..first + T` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn blocks_of<const FORMAT: u8, const R: usize, const T: usize>(
    first: usize,
    first_row: usize,
    rows: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, rows) in rows.chunks_exact(R * row_bytes).enumerate() {
        prefetch(rows);
        let mut products = [[_mm256_setzero_ps(); T]; R];
        // Scale and offset of each row in turn, as below: only the offsets' lanes mean something.
        let mut offsets = [_mm256_setzero_ps(); T];
        for i in 0..count {
            // SAFETY: block i of each row, and block i of each token, exist (caller).
            unsafe {
                let block = |r: usize| rows.as_ptr().add(r * row_bytes + i * block_bytes);
                let halves: [i32; 4] =
                    std::array::from_fn(|r| if r < R { block(r).cast::<i32>().read_unaligned() } else { 0 });
                let [a, b, c, d] = halves;
                let mut factors = _mm256_cvtph_ps(_mm_setr_epi32(a, b, c, d));
                match FORMAT {
                    format::Q4_0 => {
                        let minus_eight = _mm256_mul_ps(_mm256_moveldup_ps(factors), _mm256_set1_ps(-8.0));
                        factors = _mm256_blend_ps::<0b1010_1010>(factors, minus_eight);
                    }
                    format::Q8_0 => factors = _mm256_blend_ps::<0b1010_1010>(factors, _mm256_setzero_ps()),
                    _ => {}
                }
                let at = |t: usize| (first + t) * count + i;
                let x_factors: [__m256; T] = std::array::from_fn(|t| {
                    let pair: *const f64 = (&raw const *x.factors.get_unchecked(at(t))).cast();
                    _mm256_castpd_ps(_mm256_set1_pd(pair.read_unaligned()))
                });
                let factors = x_factors.map(|x_factors| _mm256_mul_ps(factors, x_factors));
                for (offset, factors) in offsets.iter_mut().zip(factors) {
                    *offset = _mm256_add_ps(*offset, factors);
                }
                for (r, products) in products.iter_mut().enumerate() {
                    let weights = unpack::<FORMAT>(block(r));
                    let lane = _mm256_set1_epi32(2 * r as i32);
                    for (t, (sum, factors)) in products.iter_mut().zip(factors).enumerate() {
                        let product = _mm256_cvtepi32_ps(dot::<FORMAT>(weights, x, at(t)));
                        *sum = _mm256_fmadd_ps(product, _mm256_permutevar8x32_ps(factors, lane), *sum);
                    }
                }
            }
        }
        for t in 0..T {
            let mut lanes = [0.0f32; 8];
            // SAFETY: 8 lanes.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), offsets[t]) };
            for (r, products) in products.iter().enumerate() {
                y[first + t][first_row + number * R + r] = horizontal_sum(products[t]) + lanes[2 * r + 1];
            }
        }
    }
}

/// A block's 32 quants: of 4 bits as bytes in the first half, of 8 bits as 16-bit lanes.
///
/// # Safety
/// - `block` is valid for reads of a block of the format.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack<const FORMAT: u8>(block: *const u8) -> __m512i {
    // SAFETY: all within the block (caller).
    unsafe {
        if FORMAT == format::Q8_0 {
            return _mm512_cvtepi8_epi16(_mm256_loadu_si256(block.add(2).cast()));
        }
        let pairs = _mm_loadu_si128(block.add(if FORMAT == format::Q4_0 { 2 } else { 4 }).cast());
        let bytes = _mm256_set_m128i(_mm_srli_epi16::<4>(pairs), pairs);
        _mm512_castsi256_si512(_mm256_and_si256(bytes, _mm256_set1_epi8(15)))
    }
}

/// The product of unpacked weights and block `at` of the activations, in eight parts. Quants of 4 bits meet the two bytes of
/// an activation's quant in two instructions of 32 products each.
///
/// # Safety
/// - the activations have a block `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dot<const FORMAT: u8>(weights: __m512i, x: &Activations, at: usize) -> __m256i {
    // SAFETY: 32 quants, and two halves of 32 bytes (caller).
    unsafe {
        if FORMAT == format::Q8_0 {
            let quants = _mm512_loadu_si512(x.quants.as_ptr().add(at * BLOCK).cast());
            let sums = _mm512_madd_epi16(weights, quants);
            return _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
        }
        let weights = _mm512_castsi512_si256(weights);
        let bytes = x.bytes.get_unchecked(at);
        let high = _mm256_load_si256(bytes.high.as_ptr().cast());
        let low = _mm256_load_si256(bytes.low.as_ptr().cast());
        let product = _mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, high);
        _mm256_dpbusd_epi32(_mm256_slli_epi32::<8>(product), weights, low)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn horizontal_sum(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// # Safety
/// - as [`blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    by_token_groups!(x.tokens, floats_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`blocks_of`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn floats_of<const FORMAT: u8, const T: usize>(
    first: usize,
    bytes: &[u8],
    row_bytes: usize,
    x: &Activations,
    y: &mut [&mut [f32]],
) {
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        prefetch(row);
        let mut sums = [_mm512_setzero_ps(); T];
        let mut j = 0;
        while j < x.size {
            // The last register may be partly beyond the row: masked lanes are neither read nor added.
            let mask = if x.size - j >= WIDTH { !0 } else { (1u16 << (x.size - j)) - 1 };
            // SAFETY: lanes of the mask are within the row and the token's vector (caller).
            unsafe {
                let w = match FORMAT {
                    format::F32 => _mm512_maskz_loadu_ps(mask, row.as_ptr().cast::<f32>().add(j)),
                    format::F16 => {
                        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.as_ptr().cast::<i16>().add(j)))
                    }
                    _ => {
                        let bits = _mm256_maskz_loadu_epi16(mask, row.as_ptr().cast::<i16>().add(j));
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
                    }
                };
                for (t, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_maskz_loadu_ps(mask, x.values.as_ptr().add((first + t) * x.size + j));
                    *sum = _mm512_fmadd_ps(w, x, *sum);
                }
            }
            j += WIDTH;
        }
        for t in 0..T {
            y[first + t][number] = _mm512_reduce_add_ps(sums[t]);
        }
    }
}
