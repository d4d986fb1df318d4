//! Weights of 16 and 32 bits rounded to blocks of 8 or 4 while a model is loaded.

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::MmapMut;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::activations::BLOCK;
use crate::config::TransformerConfig;
use crate::kernels::DenseKernels;
use crate::matrix::{Matrix, WeightType};
use crate::weights_file::{TensorSpan, Weights, WeightsError, memory};

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

/// Replaces the spans of a model's matrices by those of rounded ones in memory.
///
/// # Errors
/// If a matrix is not in the files, or there is no memory for what becomes of it.
pub(crate) fn round_weights(
    pool: &ThreadPool,
    kernels: DenseKernels,
    weights: &mut Weights,
    config: &mut TransformerConfig,
) -> Result<(), WeightsError> {
    let head_8_bits = config.lm_head_8_bits || config.rounding != Rounding::None;
    if !head_8_bits {
        return Ok(());
    }
    let mut keep = |span: &mut TensorSpan, kind: WeightType| -> Result<(), WeightsError> {
        if let Some(bytes) = rounded(pool, kernels, weights.matrix(*span)?, kind)? {
            *span = weights.keep(TensorSpan { kind, ..*span }, bytes);
        }
        Ok(())
    };
    let kind = match config.rounding {
        Rounding::None => None,
        Rounding::Eight => Some(WeightType::Q8_0),
        Rounding::Four => Some(WeightType::Q4_1),
    };
    if let Some(kind) = kind {
        for span in config.matrices_mut() {
            keep(span, kind)?;
        }
    }
    keep(&mut config.lm_head, WeightType::Q8_0)
}

/// The matrix in blocks of `kind`, or None where it is in blocks already, or its rows are no whole ones.
fn rounded(
    pool: &ThreadPool,
    kernels: DenseKernels,
    matrix: Matrix<'_>,
    kind: WeightType,
) -> Result<Option<MmapMut>, WeightsError> {
    let Some(row_bytes) = kind.row_bytes(matrix.inputs()).filter(|_| matrix.kind().is_wide()) else {
        return Ok(None);
    };
    let mut out = memory(row_bytes * matrix.outputs())?;
    pool.install(|| {
        out.par_chunks_mut(row_bytes * TASK_ROWS).enumerate().for_each(|(task, rows)| {
            for (row, out) in rows.chunks_exact_mut(row_bytes).enumerate() {
                kernels.round(kind, &matrix.row(task * TASK_ROWS + row), out);
            }
        });
    });
    Ok(Some(out))
}

/// Elements as blocks of `kind`.
///
/// # Panics
/// If they are no whole blocks, `out` has another length, or `kind` is none of Q8_0, Q4_0 and Q4_1.
#[inline(always)]
pub(crate) fn round(kind: WeightType, elements: &[f32], out: &mut [u8]) {
    let (size, bytes) = kind.block();
    assert_eq!((elements.len() % size, elements.len() / size * bytes), (0, out.len()), "whole blocks");
    let (blocks, []) = elements.as_chunks::<BLOCK>() else { unreachable!("whole blocks") };
    if kind == WeightType::Q4_1 {
        for (blocks, out) in blocks.chunks(LANES).zip(out.chunks_mut(LANES * bytes)) {
            q4_1(blocks, out);
        }
        return;
    }
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(bytes)) {
        match kind {
            WeightType::Q8_0 => q8_0(block, out),
            WeightType::Q4_0 => q4_0(block, out),
            _ => panic!("no way to round to {kind:?}"),
        }
    }
}

/// The scale takes the greatest element to 127: every element is within half of that scale, and of what f16 rounds off it.
#[inline(always)]
fn q8_0(block: &[f32; BLOCK], out: &mut [u8]) {
    let mut greatest = [0.0f32; LANES];
    for part in block.as_chunks::<LANES>().0 {
        for (greatest, x) in greatest.iter_mut().zip(part) {
            *greatest = if x.abs() > *greatest { x.abs() } else { *greatest };
        }
    }
    let greatest = greatest.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
    let scale = f16::from_f32(greatest / 127.0);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    let quants = levels(block, inverse(scale.to_f32()), 0.0, -127.0, 127.0);
    for (out, q) in out[2..].iter_mut().zip(quants) {
        *out = q as i8 as u8;
    }
}

/// d (q - 8), with the scale of least squared error among those that take the greatest element to -7 up to -9.
#[inline(always)]
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

/// Blocks that are rounded side by side, a lane each: no sum is across lanes, so that the compiler makes vectors of all loops over them.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// Of each lane.
#[inline(always)]
fn lanes(of: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = of(i);
    }
    lanes
}

/// d q + m, with the scale and offset of least squared error among those that are fitted to the levels of a few ranges, from the
/// one between the least and the greatest element down to a narrower one that cuts both off. [`LANES`] blocks at most.
#[inline(always)]
fn q4_1(blocks: &[[f32; BLOCK]], out: &mut [u8]) {
    let mut x = [[0.0; LANES]; BLOCK];
    for (lane, block) in blocks.iter().enumerate() {
        for (x, element) in x.iter_mut().zip(block) {
            x[lane] = *element;
        }
    }
    let (mut least, mut greatest, mut total) = (x[0], x[0], [0.0; LANES]);
    for x in &x {
        for i in 0..LANES {
            least[i] = if x[i] < least[i] { x[i] } else { least[i] };
            greatest[i] = if x[i] > greatest[i] { x[i] } else { greatest[i] };
            total[i] += x[i];
        }
    }
    let (mut best_error, mut best_scale, mut best_offset) = ([f32::INFINITY; LANES], [0.0; LANES], least);
    for step in 0..=10 {
        let cut = lanes(|i| 0.02 * step as f32 * (greatest[i] - least[i]));
        let scale = lanes(|i| (greatest[i] - least[i] - 2.0 * cut[i]) / 15.0);
        let offset = lanes(|i| least[i] + cut[i]);
        let (scale, offset) = fitted(&x, total, scale, offset);
        let (scale, offset) = (halves(scale), halves(offset));
        let inverse = lanes(|i| inverse(scale[i]));
        let mut error = [0.0; LANES];
        for x in &x {
            for i in 0..LANES {
                let q = level(x[i], inverse[i], offset[i], 0.0, 15.0);
                let off = x[i] - (q * scale[i] + offset[i]);
                error[i] += off * off;
            }
        }
        for i in 0..LANES {
            let better = error[i] < best_error[i];
            best_error[i] = if better { error[i] } else { best_error[i] };
            best_scale[i] = if better { scale[i] } else { best_scale[i] };
            best_offset[i] = if better { offset[i] } else { best_offset[i] };
        }
    }
    for ((lane, block), out) in
        blocks.iter().enumerate().zip(out.chunks_exact_mut(WeightType::Q4_1.block().1))
    {
        let (scale, offset) = (f16::from_f32(best_scale[lane]), f16::from_f32(best_offset[lane]));
        out[..2].copy_from_slice(&scale.to_le_bytes());
        out[2..4].copy_from_slice(&offset.to_le_bytes());
        pack(&levels(block, inverse(scale.to_f32()), offset.to_f32(), 0.0, 15.0), &mut out[4..]);
    }
}

/// The scale and offset of least squared error for the levels that given ones lead to; these themselves where all levels are the same.
#[inline(always)]
fn fitted(x: &[Lanes; BLOCK], total: Lanes, scale: Lanes, offset: Lanes) -> (Lanes, Lanes) {
    let n = BLOCK as f32;
    let inverse = lanes(|i| inverse(scale[i]));
    let (mut sum, mut squares, mut product) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for x in x {
        for i in 0..LANES {
            let q = level(x[i], inverse[i], offset[i], 0.0, 15.0);
            sum[i] += q;
            squares[i] += q * q;
            product[i] += q * x[i];
        }
    }
    let spread = lanes(|i| n * squares[i] - sum[i] * sum[i]);
    let fitted = lanes(|i| (n * product[i] - sum[i] * total[i]) / spread[i]);
    (
        lanes(|i| if spread[i] > 0.0 { fitted[i] } else { scale[i] }),
        lanes(|i| if spread[i] > 0.0 { (total[i] - fitted[i] * sum[i]) / n } else { offset[i] }),
    )
}

/// As f16 holds them.
#[inline(always)]
fn halves(x: Lanes) -> Lanes {
    let (mut halves, mut out) = ([f16::ZERO; LANES], [0.0; LANES]);
    halves.convert_from_f32_slice(&x);
    halves.convert_to_f32_slice(&mut out);
    out
}

/// The nearest level of each element, in `low..=high`.
#[inline(always)]
fn levels(block: &[f32; BLOCK], inverse: f32, offset: f32, low: f32, high: f32) -> [f32; BLOCK] {
    block.map(|x| level(x, inverse, offset, low, high))
}

#[inline(always)]
fn level(x: f32, inverse: f32, offset: f32, low: f32, high: f32) -> f32 {
    let level = (x - offset) * inverse;
    let level = if level > low { level } else { low };
    let level = if level < high { level } else { high };
    (level + ROUND) - ROUND
}

#[inline(always)]
fn squared_error(block: &[f32; BLOCK], quants: &[f32; BLOCK], scale: f32, offset: f32) -> f32 {
    block.iter().zip(quants).map(|(x, q)| (x - (q * scale + offset)).powi(2)).sum()
}

/// 1 / x, and 0 for a block of zeros.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

#[inline(always)]
fn pack(quants: &[f32; BLOCK], out: &mut [u8]) {
    let (low, high) = quants.split_at(BLOCK / 2);
    for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
        *out = low as u8 | (high as u8) << 4;
    }
}
