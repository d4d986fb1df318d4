//! AVX-512 with VNNI: four quants of a row are in a 32-bit lane, of sixteen rows in a register.

use core::arch::x86_64::*;

use lsh_attn::kernels::prefetch;

use super::{
    GateActivation, Multiply, STREAM_AHEAD, Table, block_products, by_token_groups, format, panels,
    wide_products,
};
use crate::activations::{Activations, Part};
use crate::columns::Panel;
use crate::matrix::WeightType;
use crate::quantise;

mod lanes;
mod large;
mod small;

use large::blocks as large;
use small::blocks as small;

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
    quants: None,
};

fn rows(kind: WeightType) -> Option<Multiply> {
    let (wide, blocks): (Option<Multiply>, Option<Multiply>) =
        (wide_products!(kind), block_products!(kind, false));
    wide.or(blocks)
}

fn packed(kind: WeightType) -> Option<Multiply> {
    block_products!(kind, true)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn norm(x: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    panels::norm(x, weights, epsilon, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn gate(activation: GateActivation, gate: &mut [f32], up: &[f32]) {
    panels::gate(activation, gate, up);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quantise(x: &mut Part<'_>) {
    panels::quantise(x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn round(kind: WeightType, elements: &[f32], out: &mut [u8]) {
    quantise::round(kind, elements, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn dequantise(kind: WeightType, blocks: &[u8], out: &mut [u16]) {
    panels::dequantise(kind, blocks, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn norm_panel(x: &[f32], n: usize, column: usize, weights: &[f32], epsilon: f32, panel: &mut Panel<'_>) {
    panels::norm_panel(x, n, column, weights, epsilon, panel);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn rows_panel(rows: &[f32], width: usize, panel: &mut Panel<'_>) {
    panels::rows_panel(rows, width, panel);
}

/// f32 lanes of a register.
const WIDTH: usize = 16;

/// # Safety
/// - `bytes`, `row_bytes`, `x` and `y` agree, as `DenseKernels::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    by_token_groups!(x.tokens, floats_of::<FORMAT>, bytes, row_bytes, x, y)
}

/// # Safety
/// - as [`floats`], and tokens `first..first + T` exist.
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
        prefetch::far(row.as_ptr().wrapping_add(STREAM_AHEAD), row.len());
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
