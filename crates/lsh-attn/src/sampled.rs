//! The `lsh` estimator: attention of one query over a segment's sampled keys, each weighted by 1/u.
//!
//! Horvitz and Thompson (1952): with exact inclusion probabilities u_i, the sums over the sample of
//! e^(s_i) / u_i and e^(s_i) / u_i v_i are unbiased for those over all keys. They enter the softmax as logits
//! s_i - ln u_i.

use crate::collisions::Collisions;
use crate::inclusion::InclusionTable;
use crate::kernels::Kernels;
use crate::segment_index::SegmentIndex;
use crate::softmax::Partial;

/// One query head of a step.
#[derive(Clone, Copy, Debug)]
pub struct SampledQuery<'a> {
    /// `[head_dim]`, scaled by 1/sqrt(d).
    pub q: &'a [f32],
    /// Codes `[tables]` of the query.
    pub codes: &'a [u16],
}

/// Scratch space of [`attend_sampled`], kept by a thread between calls.
#[derive(Debug, Default)]
pub struct SampleScratch {
    collisions: Collisions,
    ids: Vec<u16>,
    logits: Vec<f32>,
}

/// Adds the keys of a segment that `query` samples to query 0 of `partial`; returns how many there were.
///
/// `rows` are the segment's rows from its start, `[n, 2 * head_dim]`.
pub fn attend_sampled(
    kernels: Kernels,
    inclusion: &InclusionTable,
    index: &SegmentIndex,
    rows: &[u16],
    query: SampledQuery<'_>,
    scratch: &mut SampleScratch,
    partial: &mut Partial,
) -> usize {
    let SampleScratch { collisions, ids, logits } = scratch;
    ids.clear();
    index.sample(query.codes, collisions, ids);
    logits.clear();
    logits.resize(ids.len(), 0.0);
    kernels.dot_gathered(query.q, rows, 2 * query.q.len(), ids, logits);

    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let q_norm = dot(query.q, query.q).sqrt();
    let q_centre = dot(query.q, index.centre());
    for (logit, &id) in logits.iter_mut().zip(ids.iter()) {
        let cosine = (*logit - q_centre) / (q_norm * index.norm(id)).max(f32::MIN_POSITIVE);
        *logit -= inclusion.ln_u(cosine);
    }
    partial.add_gathered(kernels, 0, rows, ids, logits);
    ids.len()
}
