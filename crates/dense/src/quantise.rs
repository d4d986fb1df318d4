//! Weights of 16 and 32 bits rounded to blocks of 8 or 4 while a model is loaded.

use half::f16;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::activations::BLOCK;
use crate::config::{LayerConfig, TransformerConfig};
use crate::matrix::{Matrix, WeightType};
use crate::weights_file::{TensorSpan, Weights, WeightsError};

/// What becomes of matrices of 16 and 32 bits when a model is loaded. The embedding, of which a token reads one row, stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// They are read where they lie.
    None,
    /// They are kept in memory as [`WeightType::Q8_0`].
    Eight,
    /// They are kept in memory as [`WeightType::Q4_1`], and the output head as Q8_0.
    Four,
}

/// Rows that a task rounds at a time.
const TASK_ROWS: usize = 16;

/// Adding and taking away 1.5 * 2^23 rounds a number of less than 2^22 to the nearest whole one, ties to even, in two
/// additions that every instruction set has for whole registers.
const ROUND: f32 = 12_582_912.0;

/// Replaces the spans of a model's matrices by those of rounded ones in memory, on `threads` threads.
///
/// # Errors
/// If a matrix is not in the files.
pub(crate) fn round_weights(
    weights: &mut Weights,
    config: &mut TransformerConfig,
    threads: usize,
) -> Result<(), WeightsError> {
    let head_8_bits = config.lm_head_8_bits || config.rounding != Rounding::None;
    if !head_8_bits {
        return Ok(());
    }
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool =
        pool.map_err(|error| WeightsError::Mismatch(format!("no threads to round weights: {error}")))?;
    let mut round = |span: &mut TensorSpan, kind: WeightType| -> Result<(), WeightsError> {
        if let Some(bytes) = rounded(&pool, weights.matrix(*span)?, kind) {
            *span = TensorSpan { kind, file: weights.keep(bytes), offset: 0, ..*span };
        }
        Ok(())
    };
    let kind = match config.rounding {
        Rounding::None => None,
        Rounding::Eight => Some(WeightType::Q8_0),
        Rounding::Four => Some(WeightType::Q4_1),
    };
    if let Some(kind) = kind {
        for layer in &mut config.layers {
            let LayerConfig { query, key, value, attention_output, gate, up, down, .. } = layer;
            for span in [query, key, value, attention_output, gate, up, down] {
                round(span, kind)?;
            }
        }
    }
    round(&mut config.lm_head, WeightType::Q8_0)
}

/// The matrix in blocks of `kind`, or None where it is in blocks already, or its rows are no whole ones.
fn rounded(pool: &ThreadPool, matrix: Matrix<'_>, kind: WeightType) -> Option<Vec<u8>> {
    if !matrix.kind().is_wide() {
        return None;
    }
    let row_bytes = kind.row_bytes(matrix.inputs())?;
    let mut out = vec![0; row_bytes * matrix.outputs()];
    pool.install(|| {
        out.par_chunks_mut(row_bytes * TASK_ROWS).enumerate().for_each(|(task, rows)| {
            for (row, out) in rows.chunks_exact_mut(row_bytes).enumerate() {
                quantise(kind, &matrix.row(task * TASK_ROWS + row), out);
            }
        });
    });
    Some(out)
}

/// Elements as blocks of `kind`.
///
/// # Panics
/// If they are no whole blocks, `out` has another length, or `kind` is none of Q8_0, Q4_0 and Q4_1.
pub fn quantise(kind: WeightType, elements: &[f32], out: &mut [u8]) {
    let (size, bytes) = kind.block();
    assert_eq!((elements.len() % size, elements.len() / size * bytes), (0, out.len()), "whole blocks");
    let (blocks, []) = elements.as_chunks::<BLOCK>() else { unreachable!("whole blocks") };
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(bytes)) {
        match kind {
            WeightType::Q8_0 => q8_0(block, out),
            WeightType::Q4_0 => q4_0(block, out),
            WeightType::Q4_1 => q4_1(block, out),
            _ => panic!("no way to round to {kind:?}"),
        }
    }
}

/// The scale takes the greatest element to 127: every element is within half of that scale, and of what f16 rounds off it.
fn q8_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let greatest = block.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
    let scale = f16::from_f32(greatest / 127.0);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    let quants = levels(block, inverse(scale.to_f32()), 0.0, -127.0, 127.0);
    for (out, q) in out[2..].iter_mut().zip(quants) {
        *out = q as i8 as u8;
    }
}

/// d (q - 8), with the scale of least squared error among those that take the greatest element to -7 up to -9.
fn q4_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let greatest =
        block.iter().fold(0.0f32, |greatest, &x| if x.abs() > greatest.abs() { x } else { greatest });
    let mut best = (f32::INFINITY, f16::ZERO);
    for step in 0..=20 {
        let quants = levels(block, inverse(greatest / -(7.0 + 0.1 * step as f32)), 0.0, -8.0, 7.0);
        let (mut squares, mut product) = (0.0f32, 0.0f32);
        for (q, x) in quants.iter().zip(block) {
            squares += q * q;
            product += q * x;
        }
        let scale = f16::from_f32(product * inverse(squares));
        let quants = levels(block, inverse(scale.to_f32()), 0.0, -8.0, 7.0);
        let error = squared_error(block, &quants, scale.to_f32(), 0.0);
        if error < best.0 {
            best = (error, scale);
        }
    }
    out[..2].copy_from_slice(&best.1.to_le_bytes());
    pack(&levels(block, inverse(best.1.to_f32()), 0.0, -8.0, 7.0).map(|q| q + 8.0), &mut out[2..]);
}

/// d q + m, with the scale and offset of least squared error among those that are fitted to the levels of a few ranges, from the
/// one between the least and the greatest element down to a narrower one that cuts both off.
fn q4_1(block: &[f32; BLOCK], out: &mut [u8]) {
    let least = block.iter().fold(f32::INFINITY, |least, x| least.min(*x));
    let greatest = block.iter().fold(f32::NEG_INFINITY, |greatest, x| greatest.max(*x));
    let mut best = (f32::INFINITY, f16::ZERO, f16::from_f32(least));
    for step in 0..=10 {
        let cut = 0.02 * step as f32 * (greatest - least);
        let (scale, offset) = ((greatest - least - 2.0 * cut) / 15.0, least + cut);
        let quants = levels(block, inverse(scale), offset, 0.0, 15.0);
        let (scale, offset) = fitted(block, &quants).unwrap_or((scale, offset));
        let (scale, offset) = (f16::from_f32(scale), f16::from_f32(offset));
        let quants = levels(block, inverse(scale.to_f32()), offset.to_f32(), 0.0, 15.0);
        let error = squared_error(block, &quants, scale.to_f32(), offset.to_f32());
        if error < best.0 {
            best = (error, scale, offset);
        }
    }
    let (_, scale, offset) = best;
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..4].copy_from_slice(&offset.to_le_bytes());
    pack(&levels(block, inverse(scale.to_f32()), offset.to_f32(), 0.0, 15.0), &mut out[4..]);
}

/// The scale and offset of least squared error for given levels, or None where these are all the same.
fn fitted(block: &[f32; BLOCK], quants: &[f32; BLOCK]) -> Option<(f32, f32)> {
    let n = BLOCK as f32;
    let (mut sum, mut squares, mut total, mut product) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for (q, x) in quants.iter().zip(block) {
        sum += q;
        squares += q * q;
        total += x;
        product += q * x;
    }
    let spread = n * squares - sum * sum;
    if spread <= 0.0 {
        return None;
    }
    let scale = (n * product - sum * total) / spread;
    Some((scale, (total - scale * sum) / n))
}

/// The nearest level of each element, in `low..=high`.
fn levels(block: &[f32; BLOCK], inverse: f32, offset: f32, low: f32, high: f32) -> [f32; BLOCK] {
    block.map(|x| (((x - offset) * inverse).clamp(low, high) + ROUND) - ROUND)
}

fn squared_error(block: &[f32; BLOCK], quants: &[f32; BLOCK], scale: f32, offset: f32) -> f32 {
    block.iter().zip(quants).map(|(x, q)| (x - (q * scale + offset)).powi(2)).sum()
}

/// 1 / x, and 0 for a block of zeros.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

fn pack(quants: &[f32; BLOCK], out: &mut [u8]) {
    let (low, high) = quants.split_at(BLOCK / 2);
    for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
        *out = low as u8 | (high as u8) << 4;
    }
}
