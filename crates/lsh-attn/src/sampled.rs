//! The `lsh` estimator: attention of one query over a segment's sampled keys, each weighted by 1/u.
//!
//! Horvitz and Thompson (1952): with exact inclusion probabilities u_i, the sums over the sample of
//! e^(s_i) / u_i and e^(s_i) / u_i v_i are unbiased for those over all keys. They enter the softmax as logits
//! s_i - ln u_i.

use std::time::{Duration, Instant};

use crate::collisions::Collisions;
use crate::inclusion::InclusionTable;
use crate::kernels::{Kernels, prefetch};
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

/// What one query samples of one segment.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Who samples.
    pub query: SampledQuery<'a>,
    /// From what.
    pub index: SegmentView<'a>,
    /// The segment's rows from its start.
    pub rows: Rows<'a>,
}

/// Scratch space of [`attend_samples`], kept by a thread between calls.
#[derive(Debug, Default)]
pub struct SampleScratch {
    collisions: Collisions,
    found: Vec<u16>,
    next: Vec<u16>,
    terms: Terms,
}

/// Numbers for each key of a sample, or of a chunk of it.
#[derive(Debug, Default)]
struct Terms {
    norms: Vec<f32>,
    /// Scores before their cap, then the cosines that follow from them, then ln u.
    ln_u: Vec<f32>,
    logits: Vec<f32>,
}

/// Finds the keys of each of `samples` and adds them to a partial of their own, which `empty` makes; hands out its number, the
/// keys' numbers in their segment, and the partial. Returns the time that went into finding keys.
///
/// Counting collisions keeps a core busy and leaves the memory idle, and rows come as fast as memory brings them: so the rows
/// of a sample are asked for while the next one's keys are found.
pub fn attend_samples(
    kernels: Kernels,
    inclusion: &InclusionTable,
    samples: &[Sample<'_>],
    scratch: &mut SampleScratch,
    empty: impl Fn() -> Partial,
    mut done: impl FnMut(usize, &[u16], Partial),
) -> Duration {
    let SampleScratch { collisions, found, next, terms } = scratch;
    let mut finding = Duration::ZERO;
    found.clear();
    for number in 0..=samples.len() {
        let before = number.checked_sub(1).map(|before| samples[before]);
        if let Some(sample) = samples.get(number) {
            let started = Instant::now();
            next.clear();
            let mut share = found.chunks(found.len().div_ceil(sample.query.codes.len()).max(1));
            sample.index.sample(kernels, sample.query.codes, collisions, next, || {
                if let (Some(before), Some(ids)) = (before, share.next()) {
                    prefetch::gathered(before.rows, ids);
                }
            });
            finding += started.elapsed();
        }
        if let Some(before) = before {
            let mut partial = empty();
            attend(kernels, inclusion, before, found, terms, &mut partial);
            done(number - 1, found, partial);
        }
        std::mem::swap(found, next);
    }
    finding
}

/// Adds the keys `ids` of a sample to `partial`, which is of one query.
fn attend(
    kernels: Kernels,
    inclusion: &InclusionTable,
    sample: Sample<'_>,
    ids: &[u16],
    terms: &mut Terms,
    partial: &mut Partial,
) {
    let Sample { query, index, rows } = sample;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let q_norm = dot(query.q, query.q).sqrt();
    let q_centre = dot(query.q, index.centre());
    let Terms { norms, ln_u, logits } = terms;
    index.norms_of(ids, norms);
    // In chunks: the V of a row is still in a near cache when its weight is known.
    for (first, norms) in (0..ids.len()).step_by(CHUNK).zip(norms.chunks(CHUNK)) {
        let from = &ids[first..];
        logits.clear();
        logits.resize(norms.len(), 0.0);
        kernels.dot_gathered(query.q, rows, from, logits);
        ln_u.clear();
        let cosine =
            |(product, norm): (&f32, &f32)| (product - q_centre) / (q_norm * norm).max(f32::MIN_POSITIVE);
        ln_u.extend(logits.iter().zip(norms).map(cosine));
        inclusion.ln_u(kernels, ln_u);
        partial.cap(kernels, logits);
        for (logit, ln_u) in logits.iter_mut().zip(&*ln_u) {
            *logit -= ln_u;
        }
        partial.add_gathered(kernels, rows, &from[..norms.len()], logits);
    }
}
