//! Drawing keys by their estimated weights, and attending those that were drawn.

use crate::kernels::Kernels;
use crate::rows::Rows;
use crate::sketch::{BLOCK_KEYS, SketchPlan, SketchQueries};
use crate::softmax::Partial;

/// Drawn rows whose K and V stay in the first-level cache while every query of the group takes them.
const CHUNK: usize = 32;

/// Consecutive blocks, and what [`Kernels::sketch_sums`] made of them for some queries.
#[derive(Clone, Copy, Debug)]
pub struct Scanned<'a> {
    /// How keys are coded.
    pub plan: &'a SketchPlan,
    /// The codes.
    pub blocks: &'a [u8],
    /// The queries of a KV head.
    pub queries: SketchQueries<'a>,
    /// `[blocks, queries]`
    pub sums: &'a [f32],
}

/// How keys are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// lambda / Z of each query.
    pub coefficients: &'a [f32],
    /// Least probability of every key.
    pub floor: f32,
    /// Where on the line of probabilities the first step lands, uniform in [0, 1).
    pub start: f64,
    /// Id of the first block's first key within its segment.
    pub first: usize,
}

/// Sums of w^ over all blocks, for each query, in f64.
pub fn totals(sums: &[f32], queries: usize) -> Vec<f64> {
    let mut totals = vec![0.0; queries];
    for block in sums.chunks_exact(queries) {
        for (total, &sum) in totals.iter_mut().zip(block) {
            *total += f64::from(sum);
        }
    }
    totals
}

/// Probabilities are counted in units of 2^-24, so that their sums along the line are exact.
const ONE: u32 = 1 << 24;

/// Draws keys of consecutive blocks by systematic sampling (Madow 1949): their probabilities are lengths on a line, and a
/// key is drawn where a step of length one lands on it. Appends ids, ascending, and ln pi of each; returns the expected
/// number of keys. Only a block on which a step lands is looked at key by key.
pub fn draw(
    kernels: Kernels,
    scanned: Scanned<'_>,
    how: Draw<'_>,
    ids: &mut Vec<u16>,
    ln_pi: &mut Vec<f32>,
) -> f64 {
    let Scanned { plan, blocks, queries, sums } = scanned;
    let Draw { coefficients, floor, start, first } = how;
    let group = coefficients.len();
    let mut weights = vec![[0.0f32; BLOCK_KEYS]; group];
    let mut position = (start * f64::from(ONE)) as u32;
    let mut expected = 0u64;
    for (number, (block, sums)) in
        blocks.chunks_exact(plan.block_bytes()).zip(sums.chunks_exact(group)).enumerate()
    {
        let sampled: f32 = sums.iter().zip(coefficients).map(|(sum, coefficient)| sum * coefficient).sum();
        // No key of a block shorter than one is longer than one, so none of them is cut to 1.
        let length = units((sampled + BLOCK_KEYS as f32 * floor).min(1.0));
        if position + length < ONE {
            position += length;
            expected += u64::from(length);
            continue;
        }
        kernels.sketch_weights(plan.bits(), plan.padded_dim(), block, queries, &mut weights);
        // Every key is written down, and stays if a step lands on it: no branch that nothing could foresee.
        let mut landed = [(0u16, 0u32); BLOCK_KEYS + 1];
        let mut count = 0;
        for (key, length) in lengths(&weights, coefficients, floor).into_iter().enumerate() {
            position += length;
            expected += u64::from(length);
            landed[count] = (key as u16, length);
            count += (position / ONE) as usize;
            position %= ONE;
        }
        for &(key, length) in &landed[..count] {
            ids.push((first + number * BLOCK_KEYS) as u16 + key);
            ln_pi.push((length as f32 / ONE as f32).ln());
        }
    }
    expected as f64 / f64::from(ONE)
}

/// pi of each key of a block, in units.
#[inline]
fn lengths(weights: &[[f32; BLOCK_KEYS]], coefficients: &[f32], floor: f32) -> [u32; BLOCK_KEYS] {
    let mut pi = [floor; BLOCK_KEYS];
    for (weights, coefficient) in weights.iter().zip(coefficients) {
        for (pi, weight) in pi.iter_mut().zip(weights) {
            *pi += weight * coefficient;
        }
    }
    pi.map(|pi| units(pi.min(1.0)))
}

/// A number of [0, 1] in units.
#[inline]
fn units(x: f32) -> u32 {
    // By way of i32, for which there is an instruction.
    (x * ONE as f32) as i32 as u32
}

/// Adds drawn keys to every query of `partial`, with logits s_i - ln pi_i.
///
/// `q` is `[queries, head_dim]`, scaled; `rows` are the segment's from its start; `scores` is scratch space.
pub fn attend_drawn(
    kernels: Kernels,
    q: &[f32],
    rows: Rows<'_>,
    (ids, ln_pi): (&[u16], &[f32]),
    scores: &mut Vec<f32>,
    partial: &mut Partial,
) {
    for first in (0..ids.len()).step_by(CHUNK) {
        let (from, ln_pi) = (&ids[first..], &ln_pi[first..]);
        let count = CHUNK.min(from.len());
        scores.clear();
        scores.resize(q.len() / rows.head_dim() * count, 0.0);
        kernels.dot_gathered(q, rows, from, scores);
        partial.cap(kernels, scores);
        for scores in scores.chunks_exact_mut(count) {
            for (score, ln_pi) in scores.iter_mut().zip(ln_pi) {
                *score -= ln_pi;
            }
        }
        partial.add_gathered(kernels, rows, &from[..count], scores);
    }
}
