//! The meaning of every kernel: blocks in order, integer products within a block, one f32 accumulator over blocks.

use half::{bf16, f16};

use super::{Table, format, panels};
use crate::activations::{Activations, BLOCK};
use crate::blocks::{GROUP, LARGE, Large, Small, large, large_bytes, small};
use crate::quantise::round;

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
    q2_k: large_blocks::<{ format::Q2_K }>,
    q3_k: large_blocks::<{ format::Q3_K }>,
    q4_k: large_blocks::<{ format::Q4_K }>,
    q5_k: large_blocks::<{ format::Q5_K }>,
    q6_k: large_blocks::<{ format::Q6_K }>,
    norm: panels::norm,
    gate: panels::gate,
    quantise: panels::quantise,
    round,
    dequantise: panels::dequantise,
    norm_panel: panels::norm_panel,
    gate_panel: panels::gate_panel,
    packed: |_| None,
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

/// The product of weights with quants of activations, of which each four has its second and third the other way round.
fn product(weights: &[i8], quants: &[i16]) -> i32 {
    let fours = weights.as_chunks::<4>().0.iter().zip(quants.as_chunks::<4>().0);
    fours
        .map(|(&[a, b, c, d], &quants)| {
            [a, c, b, d].iter().zip(quants).map(|(&w, x)| i32::from(w) * i32::from(x)).sum::<i32>()
        })
        .sum()
}

fn blocks<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    let count = x.size / BLOCK;
    let block_bytes = row_bytes / count;
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        for (token, y) in y.iter_mut().enumerate() {
            let y = &mut y[number];
            *y = 0.0;
            for (i, block) in row.chunks_exact(block_bytes).enumerate() {
                let Small { quants, scale, offset } = small::<FORMAT>(block);
                let at = token * count + i;
                let product = product(&quants, &x.quants[at * BLOCK..][..BLOCK]);
                *y += product as f32 * (scale * x.factors[at].scale) + offset * x.factors[at].sum;
            }
        }
    }
}

fn large_blocks<const FORMAT: u8>(bytes: &[u8], row_bytes: usize, x: &Activations, y: &mut [&mut [f32]]) {
    let count = x.size / LARGE;
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        y.iter_mut().for_each(|y| y[number] = 0.0);
        for (i, block) in row.chunks_exact(large_bytes(FORMAT)).enumerate() {
            let Large { quants, scales, offsets } = large::<FORMAT>(block);
            for (token, y) in y.iter_mut().enumerate() {
                let first = (token * count + i) * LARGE / GROUP;
                for (g, quants) in quants.as_chunks::<GROUP>().0.iter().enumerate() {
                    let at = first + g;
                    let product = product(quants, &x.quants[at * GROUP..][..GROUP]);
                    let scale = scales[g] * x.factors[at * GROUP / BLOCK].scale;
                    y[number] += product as f32 * scale + offsets[g] * x.group_sums[at];
                }
            }
        }
    }
}
