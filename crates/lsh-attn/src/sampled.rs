//! The `lsh` estimator: attention of one query over a segment's sampled keys, each weighted by 1/u.
//!
//! Horvitz and Thompson (1952): with exact inclusion probabilities u_i, the sums over the sample of
//! e^(s_i) / u_i and e^(s_i) / u_i v_i are unbiased for those over all keys. They enter the softmax as logits
//! s_i - ln u_i.

use crate::collisions::Collisions;
use crate::inclusion::InclusionTable;
use crate::kernels::Kernels;
use crate::rows::Rows;
use crate::segment_index::SegmentView;
use crate::softmax::Partial;

/// Sampled rows whose logits are held at once.
const CHUNK: usize = 64;

/// One query head of a step.
#[derive(Clone, Copy, Debug)]
pub struct SampledQuery<'a> {
    /// `[head_dim]`, scaled by 1/sqrt(d).
    pub q: &'a [f32],
    /// Codes `[tables]` of the query.
    pub codes: &'a [u16],
}

/// Scratch space of [`retrieve`] and [`attend_retrieved`], kept by a thread between calls.
#[derive(Debug, Default)]
pub struct SampleScratch {
    collisions: Collisions,
    ids: Vec<u16>,
    /// Scores before their cap, from which angles follow.
    products: Vec<f32>,
    logits: Vec<f32>,
}

impl SampleScratch {
    /// The keys that [`retrieve`] found last, numbers of rows in their segment.
    pub fn ids(&self) -> &[u16] {
        &self.ids
    }
}

/// Finds the keys of a segment that `query` samples, for [`attend_retrieved`]; returns how many there are.
pub fn retrieve(
    kernels: Kernels,
    index: SegmentView<'_>,
    query: SampledQuery<'_>,
    scratch: &mut SampleScratch,
) -> usize {
    let SampleScratch { collisions, ids, .. } = scratch;
    ids.clear();
    index.sample(kernels, query.codes, collisions, ids);
    ids.len()
}

/// Adds the keys that [`retrieve`] found to `partial`, which is of one query.
///
/// `rows` are the segment's rows from its start.
pub fn attend_retrieved(
    kernels: Kernels,
    inclusion: &InclusionTable,
    index: SegmentView<'_>,
    rows: Rows<'_>,
    query: SampledQuery<'_>,
    scratch: &mut SampleScratch,
    partial: &mut Partial,
) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let q_norm = dot(query.q, query.q).sqrt();
    let q_centre = dot(query.q, index.centre());
    let SampleScratch { ids, products, logits, .. } = scratch;
    // In chunks: the V of a row is still in a near cache when its weight is known.
    for first in (0..ids.len()).step_by(CHUNK) {
        let (from, count) = (&ids[first..], CHUNK.min(ids.len() - first));
        logits.clear();
        logits.resize(count, 0.0);
        kernels.dot_gathered(query.q, rows, from, logits);
        products.clone_from(logits);
        partial.cap(kernels, logits);
        for ((logit, product), &id) in logits.iter_mut().zip(&*products).zip(from) {
            let cosine = (product - q_centre) / (q_norm * index.norm(id)).max(f32::MIN_POSITIVE);
            *logit -= inclusion.ln_u(cosine);
        }
        partial.add_gathered(kernels, rows, &from[..count], logits);
    }
}
