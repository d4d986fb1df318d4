//! The meaning of every kernel: blocks in order, integer products within a block, one f32 accumulator over blocks.

use half::{bf16, f16};

use super::{Table, format, panels};
use crate::activations::{Activations, BLOCK};

pub(super) static TABLE: Table = Table {
    f32: floats::<{ format::F32 }>,
    f16: floats::<{ format::F16 }>,
    bf16: floats::<{ format::BF16 }>,
    q8_0: blocks::<{ format::Q8_0 }>,
    q4_0: blocks::<{ format::Q4_0 }>,
    q4_1: blocks::<{ format::Q4_1 }>,
    norm: panels::norm,
    gate: panels::gate,
    quantise: panels::quantise,
    dequantise: panels::dequantise,
    norm_panel: panels::norm_panel,
    gate_panel: panels::gate_panel,
};

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn floats<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        for (y, x) in y.iter_mut().zip(x.values.chunks_exact(x.size)) {
            y[number] = x.iter().enumerate().map(|(i, x)| x * element::<FORMAT>(row, i)).sum();
        }
    }
}

/// Element i of a row of floats.
#[inline(always)]
pub(super) fn element<const FORMAT: u8>(row: &[u8], i: usize) -> f32 {
    match FORMAT {
        format::F32 => f32::from_le_bytes([row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3]]),
        format::F16 => half(&row[2 * i..]),
        _ => bf16::from_le_bytes([row[2 * i], row[2 * i + 1]]).to_f32(),
    }
}

fn blocks<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        for (token, y) in y.iter_mut().enumerate() {
            let y = &mut y[number];
            *y = 0.0;
            for (i, block) in row.chunks_exact(block_bytes).enumerate() {
                let (quants, scale, offset) = unpack::<FORMAT>(block);
                let at = token * count + i;
                let product: i32 = quants
                    .iter()
                    .zip(&x.quants[at * BLOCK..])
                    .map(|(&w, &x)| i32::from(w) * i32::from(x))
                    .sum();
                *y += product as f32 * (scale * x.factors[at].scale) + offset * x.factors[at].sum;
            }
        }
    }
}

/// A block as quants, scale and offset: an element is scale * quant + offset.
fn unpack<const FORMAT: u8>(block: &[u8]) -> ([i16; BLOCK], f32, f32) {
    let scale = half(block);
    let (offset, first) = match FORMAT {
        format::Q8_0 => (0.0, 2),
        format::Q4_0 => (-8.0 * scale, 2),
        _ => (half(&block[2..]), 4),
    };
    let bytes = &block[first..];
    let quants = std::array::from_fn(|i| match FORMAT {
        format::Q8_0 => i16::from(bytes[i] as i8),
        _ if i < BLOCK / 2 => i16::from(bytes[i] & 15),
        _ => i16::from(bytes[i - BLOCK / 2] >> 4),
    });
    (quants, scale, offset)
}
