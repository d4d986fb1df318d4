//! Kernels for any processor: what the compiler makes vectors of by itself, and lanes of 128 bits.

use half::f16;
use lsh_attn::rows::widen;

use super::lanes::Lanes;
use super::{Multiply, ROW_GROUP, Table, block_products, format, panels, wide_products};
use crate::activations::Activations;
use crate::matrix::WeightType;
use crate::quantise::round;

mod lanes;

use lanes::Portable;

pub(super) static TABLE: Table = Table {
    rows,
    packed,
    norm: panels::norm,
    gate: panels::gate,
    quantise: panels::quantise,
    round,
    dequantise: panels::dequantise,
    norm_panel: panels::norm_panel,
    gate_panel: panels::gate_panel,
    rows_panel: panels::rows_panel,
    quants: None,
};

fn rows(kind: WeightType) -> Option<Multiply> {
    wide_products!(kind)
}

fn packed(kind: WeightType) -> Option<Multiply> {
    block_products!(kind)
}

/// # Safety
/// - as `crate::kernels::small::blocks`.
unsafe fn small<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    // SAFETY: the caller's promise.
    unsafe { super::small::blocks::<Portable, FORMAT>(bytes, row_bytes, x, y) }
}

/// # Safety
/// - as `crate::kernels::large::blocks`.
unsafe fn large<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    // SAFETY: the caller's promise.
    unsafe { super::large::blocks::<Portable, FORMAT>(bytes, row_bytes, x, y) }
}

/// Sums of a product that are kept apart, so that none waits for the one before it.
const SUMS: usize = 16;

fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    let mut row_elements = vec![0.0; x.size];
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        widen_row::<FORMAT>(row, &mut row_elements);
        for (y, x) in y.iter_mut().zip(x.values.chunks_exact(x.size)) {
            y[number] = dot(&row_elements, x);
        }
    }
}

/// The elements of a row of floats.
fn widen_row<const FORMAT: u8>(row: &[u8], out: &mut [f32]) {
    let (mut row, mut out) = (row, out);
    if FORMAT == format::F16 {
        let (halves, last) = row.as_chunks();
        let (groups, last_out) = out.as_chunks_mut::<ROW_GROUP>();
        for (out, halves) in groups.iter_mut().zip(halves) {
            *out = Portable::stored(Portable::halves(halves));
        }
        (row, out) = (last, last_out);
    }
    let size = if FORMAT == format::F32 { 4 } else { 2 };
    for (out, bytes) in out.iter_mut().zip(row.chunks_exact(size)) {
        *out = element::<FORMAT>(bytes, 0);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0f32; SUMS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..SUMS {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Element i of a row of floats.
#[inline(always)]
pub(super) fn element<const FORMAT: u8>(row: &[u8], i: usize) -> f32 {
    match FORMAT {
        format::F32 => f32::from_le_bytes(row.as_chunks().0[i]),
        format::F16 => f16::from_le_bytes(row.as_chunks().0[i]).to_f32(),
        _ => widen(u16::from_le_bytes(row.as_chunks().0[i])),
    }
}
