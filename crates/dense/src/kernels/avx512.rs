//! AVX-512 with VNNI: four quants of a row are in a 32-bit lane, of sixteen rows in a register.

use core::arch::x86_64::*;

use super::{
    GateActivation, Multiply, STREAM_AHEAD, Table, by_token_groups, format, packed_products, panels,
};
use crate::activations::{Activations, Part};
use crate::matrix::WeightType;
use crate::quantise;

mod lanes;
mod large;
mod small;

pub(super) static TABLE: Table = Table {
    f32: floats::<{ format::F32 }>,
    f16: floats::<{ format::F16 }>,
    bf16: floats::<{ format::BF16 }>,
    q8_0: small::blocks::<{ format::Q8_0 }, false>,
    q4_0: small::blocks::<{ format::Q4_0 }, false>,
    q4_1: small::blocks::<{ format::Q4_1 }, false>,
    q5_0: small::blocks::<{ format::Q5_0 }, false>,
    q5_1: small::blocks::<{ format::Q5_1 }, false>,
    iq4_nl: small::blocks::<{ format::IQ4_NL }, false>,
    q2_k: large::blocks::<{ format::Q2_K }, false>,
    q3_k: large::blocks::<{ format::Q3_K }, false>,
    q4_k: large::blocks::<{ format::Q4_K }, false>,
    q5_k: large::blocks::<{ format::Q5_K }, false>,
    q6_k: large::blocks::<{ format::Q6_K }, false>,
    norm,
    gate,
    quantise,
    round,
    dequantise,
    norm_panel,
    gate_panel,
    packed,
};

fn packed(kind: WeightType) -> Option<Multiply> {
    packed_products!(kind)
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
