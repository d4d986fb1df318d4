//! Drawing keys by their estimated weights, and attending those that were drawn.

use crate::kernels::Kernels;
use crate::rows::Rows;
use crate::softmax::Partial;

/// Drawn rows whose K and V stay in the first-level cache while every query of the group takes them.
const CHUNK: usize = 32;

/// How [`Kernels::draw_keys`] draws.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// lambda / Z of each query.
    pub coefficients: &'a [f32],
    /// Least probability of every key, in [0, 1).
    pub floor: f32,
    /// Where on the line of probabilities the first step lands, uniform in [0, 1).
    pub start: f64,
    /// Id of the first block's first key within its segment.
    pub first: usize,
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
