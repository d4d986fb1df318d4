//! AVX2, FMA and F16C: two quants of a row are in a 32-bit lane, of sixteen rows in two registers.

use core::arch::x86_64::*;

use lsh_attn::kernels::prefetch;

use super::{
    GateActivation, Multiply, QuantProducts, STREAM_AHEAD, Table, block_products, by_token_groups, format,
    panels, scalar, wide_products,
};
use crate::activations::{Activations, Part};
use crate::columns::Panel;
use crate::matrix::WeightType;
use crate::quant_rows::QuantRows;
use crate::quantise;
use lanes::Avx2;

mod lanes;
mod quant_products;

pub(super) static TABLE: Table = Table {
    rows,
    packed,
    norm,
    gate,
    quantise,
    round,
    dequantise,
    norm_panel,
    gate_panel,
    rows_panel,
    quants: Some(QuantProducts { rows: quant_rows, add: quant_products::add }),
};

fn rows(kind: WeightType) -> Option<Multiply> {
    wide_products!(kind)
}

fn packed(kind: WeightType) -> Option<Multiply> {
    block_products!(kind)
}

/// # Safety
/// - as `crate::kernels::small::blocks`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn small<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    // SAFETY: the caller's promise.
    unsafe { super::small::blocks::<Avx2, FORMAT>(bytes, row_bytes, x, y) }
}

/// # Safety
/// - as `crate::kernels::large::blocks`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn large<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    // SAFETY: the caller's promise.
    unsafe { super::large::blocks::<Avx2, FORMAT>(bytes, row_bytes, x, y) }
}

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
fn norm_panel(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut Panel<'_>) {
    panels::norm_panel(x, n, column, weights, epsilon, panel);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn gate_panel(
    activation: GateActivation,
    gate: &[f32],
    up: &[f32],
    n: usize,
    column: usize,
    panel: &mut Panel<'_>,
) {
    panels::gate_panel(activation, gate, up, n, column, panel);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_panel(rows: &[f32], width: usize, panel: &mut Panel<'_>) {
    panels::rows_panel(rows, width, panel);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quant_rows(kind: WeightType, blocks: &[u8], out: &mut QuantRows) {
    out.set(kind, blocks);
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

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    by_token_groups!(x.tokens, floats_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`floats`], and tokens `first..first + T` exist.
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
        prefetch::far(row.as_ptr().wrapping_add(STREAM_AHEAD), row.len());
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
