//! Residual correction: what codes of keys and values say of all keys, and the sample corrects.
//!
//! `num = sum over all keys of w^ v^  +  sum over the sample of (w v - w^ v^) / pi`, and den likewise without v. The estimate is
//! unbiased, since what is added for all keys is taken away again in expectation (a difference estimator, Cochran 1977, or control
//! variates); its variance is that of `w v - w^ v^`. The sample's `w v / pi` is what [`crate::sketch::attend_drawn`] sums; here is the rest.

use crate::hash::{LANES, Lanes};
use crate::kernels::Kernels;
use crate::rows::{Rows, widen};
use crate::sketch::{BLOCK_KEYS, SketchPlan, middle, value_code};
use crate::softmax::Partial;

/// Codes of values, block by block beside those of keys.
#[derive(Clone, Copy, Debug)]
pub struct ValueBlocks<'a>(pub &'a [u8]);

impl ValueBlocks<'_> {
    /// Appends codes of the values of `rows`, whole blocks of them, to `blocks`. Rotated as keys, and not centred.
    ///
    /// # Panics
    /// If rows are not whole blocks.
    pub fn encode(kernels: Kernels, plan: &SketchPlan, rows: Rows<'_>, blocks: &mut Vec<u8>) {
        assert!(rows.len().is_multiple_of(BLOCK_KEYS), "{} rows are not whole blocks", rows.len());
        let dim = plan.dim();
        let mut values = vec![0.0; BLOCK_KEYS * dim];
        let mut work = Vec::new();
        for first in (0..rows.len()).step_by(BLOCK_KEYS) {
            for (lane, value) in values.chunks_exact_mut(dim).enumerate() {
                rows.value(first + lane, value);
            }
            plan.rotate(kernels, &mut work, |lane, j| values[lane * dim + j]);
            let at = blocks.len();
            blocks.resize(at + plan.value_block_bytes(), 0);
            kernels.value_encode(plan.value_bits(), &work, &mut blocks[at..]);
        }
    }
}

/// Estimated weights of a block's keys times the factors of their values, in 7 bits: quant * scale each.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValueWeights {
    pub(crate) quants: [i8; BLOCK_KEYS],
    pub(crate) scale: f32,
    /// The codes' middle times the sum of the quants.
    pub(crate) zero: f32,
}

/// Sums of w^ and w^ v^ over all keys, less those of drawn keys over pi, for queries of a KV head or of all. Both may be
/// negative. v^ are still rotated.
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    padded_dim: usize,
    den: Vec<f64>,
    /// `[queries, padded_dim]`
    num: Vec<f32>,
}

impl Residual {
    /// Of no keys.
    pub fn new(plan: &SketchPlan, queries: usize) -> Residual {
        let padded_dim = plan.padded_dim();
        Residual { padded_dim, den: vec![0.0; queries], num: vec![0.0; queries * padded_dim] }
    }

    /// Adds all keys of some blocks: `weights` and `totals` as [`Kernels::sketch_weights`] makes them, and the codes of values.
    pub fn add(
        &mut self,
        kernels: Kernels,
        plan: &SketchPlan,
        values: ValueBlocks<'_>,
        weights: &[u16],
        totals: &[f32],
    ) {
        kernels.value_sums(plan.value_bits(), self.padded_dim, values.0, weights, &mut self.num);
        for (den, &total) in self.den.iter_mut().zip(totals) {
            *den += f64::from(total);
        }
    }

    /// Sums of w^ for each query.
    pub fn totals(&self) -> &[f64] {
        &self.den
    }

    /// Takes away drawn keys of blocks that were added, each over its pi. `ids`, ascending, count from `first`, the id of the
    /// first block's first key.
    pub fn take_away(
        &mut self,
        kernels: Kernels,
        plan: &SketchPlan,
        (values, weights): (ValueBlocks<'_>, &[u16]),
        first: usize,
        (ids, ln_pi): (&[u16], &[f32]),
    ) {
        let (bits, bytes) = (plan.value_bits(), plan.value_block_bytes());
        let mask = ((1u32 << bits) - 1) as u8;
        let mut rounded = vec![ValueWeights::default(); self.den.len()];
        let mut codes = vec![0u8; self.padded_dim];
        let mut current = None;
        for (&id, ln_pi) in ids.iter().zip(ln_pi) {
            let (number, key) =
                ((usize::from(id) - first) / BLOCK_KEYS, (usize::from(id) - first) % BLOCK_KEYS);
            let values = &values.0[number * bytes..][..bytes];
            let weights = &weights[number * self.den.len() * BLOCK_KEYS..];
            if current != Some(number) {
                current = Some(number);
                for (rounded, weights) in rounded.iter_mut().zip(weights.chunks_exact(BLOCK_KEYS)) {
                    *rounded = kernels.value_weights(bits, weights, values);
                }
            }
            for (dim, code) in codes.iter_mut().enumerate() {
                let (byte, shift) = value_code(bits, dim, key);
                *code = values[byte] >> shift & mask;
            }
            let inverse = (-ln_pi).exp();
            let nums = self.num.chunks_exact_mut(self.padded_dim);
            for (query, (den, num)) in self.den.iter_mut().zip(nums).enumerate() {
                *den -= f64::from(widen(weights[query * BLOCK_KEYS + key]) * inverse);
                let weight = f32::from(rounded[query].quants[key]) * rounded[query].scale * inverse;
                for (num, &code) in num.iter_mut().zip(&codes) {
                    *num -= weight * (f32::from(code) - middle(bits));
                }
            }
        }
    }

    /// Adds the keys of `other`, whose query `i` is this one's query `first + i`.
    pub fn merge(&mut self, first: usize, other: &Residual) {
        for (den, other) in self.den[first..].iter_mut().zip(&other.den) {
            *den += other;
        }
        for (num, other) in self.num[first * self.padded_dim..].iter_mut().zip(&other.num) {
            *num += other;
        }
    }

    /// Sums of w^ v^ `[queries, dim]`, rotated back.
    pub fn values(&self, kernels: Kernels, plan: &SketchPlan) -> Vec<f32> {
        let dim = plan.dim();
        let mut values = vec![0.0; self.den.len() * dim];
        let mut work = Vec::new();
        let groups = self.num.chunks(LANES * self.padded_dim).zip(values.chunks_mut(LANES * dim));
        for (num, values) in groups {
            work.clear();
            work.extend((0..self.padded_dim).map(|j| {
                let element = |lane: usize| num.get(lane * self.padded_dim + j).copied().unwrap_or(0.0);
                Lanes(std::array::from_fn(element))
            }));
            plan.unrotate(kernels, &mut work);
            for (lane, values) in values.chunks_exact_mut(dim).enumerate() {
                for (value, x) in values.iter_mut().zip(&work) {
                    *value = x.0[lane];
                }
            }
        }
        values
    }

    /// Corrected outputs `[queries, dim]`: of each query the quotient of the sums of `sampled`, which is the static set and the
    /// drawn keys, and these. Here weights are relative to e^`references[query]`, which `sampled` has a key of; `fixed` are the static
    /// set's sums of weights, likewise. No sum of all can be less than these: where correction makes it so, the output is the
    /// quotient of `sampled` alone.
    pub fn finish(
        &self,
        kernels: Kernels,
        plan: &SketchPlan,
        sampled: &Partial,
        (references, fixed): (&[f32], &[f64]),
        out: &mut [f32],
    ) {
        sampled.finish(out);
        let values = self.values(kernels, plan);
        let outputs = out.chunks_exact_mut(plan.dim()).zip(values.chunks_exact(plan.dim()));
        for (query, (out, values)) in outputs.enumerate() {
            // At most 1, since the greatest logit is no less than that of one of its keys.
            let relative = (references[query] - sampled.max(query)).exp();
            let den = sampled.den(query) + relative * self.den[query] as f32;
            if den <= relative * fixed[query] as f32 {
                continue;
            }
            for ((out, num), value) in out.iter_mut().zip(sampled.num(query)).zip(values) {
                *out = (num + relative * value) / den;
            }
        }
    }
}
