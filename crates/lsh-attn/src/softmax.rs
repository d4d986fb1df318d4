//! Partial softmax attention in the log domain: parts over disjoint keys merge without loss.
//!
//! For each query a part keeps the greatest logit m, `den = sum e^(l - m)` and `num = sum e^(l - m) v`
//! (Milakov and Gimelshein 2018). A logit is the score s_i, softly capped where the model does that, less ln pi_i where
//! key i was sampled with probability pi_i.

use crate::kernels::Kernels;
use crate::rows::Rows;
use crate::soft_cap::soft_cap;

/// Bytes of rows whose logits are held at once when consecutive rows are added: their K and V take half of a first-level
/// cache and stay there between the two passes.
const BLOCK_BYTES: usize = 16 << 10;

/// Attention of a group of queries over some of the keys, not yet normalised.
#[derive(Clone, Debug)]
pub struct Partial {
    head_dim: usize,
    cap: Option<f32>,
    max: Vec<f32>,
    den: Vec<f32>,
    /// `[queries, head_dim]`
    num: Vec<f32>,
}

impl Partial {
    /// Attention of `queries` queries over no keys.
    pub fn new(queries: usize, head_dim: usize) -> Partial {
        Partial {
            head_dim,
            cap: None,
            max: vec![f32::NEG_INFINITY; queries],
            den: vec![0.0; queries],
            num: vec![0.0; queries * head_dim],
        }
    }

    /// The same, of scores that are capped softly.
    pub fn with_cap(self, cap: Option<f32>) -> Partial {
        Partial { cap, ..self }
    }

    /// What caps scores softly, if anything does.
    pub fn score_cap(&self) -> Option<f32> {
        self.cap
    }

    /// Products with keys as scores: capped, where they are to be.
    pub fn cap(&self, kernels: Kernels, scores: &mut [f32]) {
        if let Some(cap) = self.cap {
            soft_cap(kernels, cap, scores);
        }
    }

    /// Adds consecutive rows for every query. `q` is `[queries, head_dim]`, already scaled by 1/sqrt(d).
    pub fn add_rows(&mut self, kernels: Kernels, q: &[f32], rows: Rows<'_>, logits: &mut Vec<f32>) {
        let queries = self.max.len();
        for block in rows.chunks(BLOCK_BYTES / rows.row_bytes()) {
            logits.clear();
            logits.resize(queries * block.len(), 0.0);
            kernels.dot_block(q, block, logits);
            self.cap(kernels, logits);
            for (query, logits) in logits.chunks_exact_mut(block.len()).enumerate() {
                self.weigh(kernels, query, logits);
            }
            kernels.add_block(&mut self.num, block, logits);
        }
    }

    /// Adds the rows named by `ids` for every query, given their logits `[queries, ids]`, which are used up.
    pub fn add_gathered(&mut self, kernels: Kernels, rows: Rows<'_>, ids: &[u16], logits: &mut [f32]) {
        if ids.is_empty() {
            return;
        }
        for (query, logits) in logits.chunks_exact_mut(ids.len()).enumerate() {
            self.weigh(kernels, query, logits);
        }
        kernels.add_gathered(&mut self.num, rows, ids, logits);
    }

    /// Turns logits into weights relative to the greatest logit so far, and rescales what is there to it.
    fn weigh(&mut self, kernels: Kernels, query: usize, logits: &mut [f32]) {
        let max = self.max[query].max(kernels.max(logits));
        self.rescale(query, max);
        self.den[query] += kernels.exp_sum(logits, max);
    }

    fn rescale(&mut self, query: usize, max: f32) {
        let old = self.max[query];
        if max == old {
            return;
        }
        let scale = (old - max).exp();
        self.max[query] = max;
        self.den[query] *= scale;
        for x in &mut self.num[query * self.head_dim..][..self.head_dim] {
            *x *= scale;
        }
    }

    /// Adds the keys of `other`, whose query `i` is this one's query `first + i`.
    pub fn merge(&mut self, first: usize, other: &Partial) {
        for query in 0..other.max.len() {
            if other.max[query] == f32::NEG_INFINITY {
                continue;
            }
            self.rescale(first + query, self.max[first + query].max(other.max[query]));
            let scale = (other.max[query] - self.max[first + query]).exp();
            self.den[first + query] += scale * other.den[query];
            let d = self.head_dim;
            let mine = &mut self.num[(first + query) * d..][..d];
            for (mine, theirs) in mine.iter_mut().zip(&other.num[query * d..][..d]) {
                *mine += scale * theirs;
            }
        }
    }

    /// num / den of every query into `out` `[queries, head_dim]`; zero where there were no keys.
    pub fn finish(&self, out: &mut [f32]) {
        for ((out, num), &den) in
            out.chunks_exact_mut(self.head_dim).zip(self.num.chunks_exact(self.head_dim)).zip(&self.den)
        {
            let scale = if den > 0.0 { 1.0 / den } else { 0.0 };
            for (out, num) in out.iter_mut().zip(num) {
                *out = num * scale;
            }
        }
    }

    /// ln of numerator's and denominator's scale: e^max times [`Partial::den`] is the denominator itself.
    pub fn max(&self, query: usize) -> f32 {
        self.max[query]
    }

    /// The denominator of a query, relative to e^[`Partial::max`].
    pub fn den(&self, query: usize) -> f32 {
        self.den[query]
    }

    /// The numerator of a query `[head_dim]`, relative to e^[`Partial::max`].
    pub fn num(&self, query: usize) -> &[f32] {
        &self.num[query * self.head_dim..][..self.head_dim]
    }
}

/// What softmax at a temperature weighs scores with: `out[i] = exp((scores[i] - max) / temperature)`, each within 1e-5 relative of the exact
/// one; where the exponent is below -87, at most 2e-38.
///
/// # Panics
/// If `out` has another length than `scores`.
pub fn weigh(kernels: Kernels, scores: &[f32], max: f32, temperature: f32, out: &mut [f32]) {
    assert_eq!(scores.len(), out.len(), "a weight for each score");
    for (out, score) in out.iter_mut().zip(scores) {
        *out = (score - max) / temperature;
    }
    kernels.exp_sum(out, 0.0);
}
