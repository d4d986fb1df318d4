//! Queries as the scan takes them: rotated, in 8 bits.

use crate::hash::{LANES, Lanes};
use crate::kernels::Kernels;
use crate::rounding::round;
use crate::sketch::{SketchPlan, middle};

/// Rotated queries of a step, rounded to 8 bits each with a scale of its own.
#[derive(Clone, Debug, Default)]
pub struct QueryCodes {
    padded_dim: usize,
    /// `[queries, padded_dim]`
    quants: Vec<i8>,
    /// Units of an estimate's base-2 logarithm for one unit of the integer product.
    scales: Vec<f32>,
    /// What the integer product is for a query at a right angle to the key: the codes' middle times the sum of the query.
    zeros: Vec<f32>,
}

/// The queries of one KV head against the keys of one segment: w^ = 2^(scale * factor * (product - zero) + offset).
#[derive(Clone, Copy, Debug)]
pub struct SketchQueries<'a> {
    /// `[queries, padded_dim]`
    pub quants: &'a [i8],
    /// `[queries]`
    pub scales: &'a [f32],
    /// `[queries]`
    pub zeros: &'a [f32],
    /// `[queries]`: q.c log2(e), less the reference that estimates are relative to.
    pub offsets: &'a [f32],
}

impl QueryCodes {
    /// Codes of the queries `q` `[queries, dim]`, which are scaled by 1/sqrt(d) already.
    pub fn encode(&mut self, kernels: Kernels, plan: &SketchPlan, q: &[f32]) {
        let (dim, padded) = (plan.dim(), plan.padded_dim());
        let queries = q.len() / dim;
        self.padded_dim = padded;
        self.quants.clear();
        self.scales.clear();
        self.zeros.clear();
        let mut work: Vec<Lanes> = Vec::new();
        for first in (0..queries).step_by(LANES) {
            let count = LANES.min(queries - first);
            plan.rotate(
                kernels,
                &mut work,
                |lane, j| if lane < count { q[(first + lane) * dim + j] } else { 0.0 },
            );
            let mut greatest = [0.0f32; LANES];
            for x in &work {
                for (greatest, x) in greatest.iter_mut().zip(x.0) {
                    *greatest = greatest.max(x.abs());
                }
            }
            let inverse = greatest.map(|greatest| if greatest > 0.0 { 127.0 / greatest } else { 0.0 });
            let mut sums = [0i32; LANES];
            self.quants.resize((first + count) * padded, 0);
            for (j, x) in work.iter().enumerate() {
                let quants: [i32; LANES] = std::array::from_fn(|lane| round(x.0[lane] * inverse[lane]));
                for (sum, quant) in sums.iter_mut().zip(quants) {
                    *sum += quant;
                }
                for (lane, quant) in quants.into_iter().take(count).enumerate() {
                    self.quants[(first + lane) * padded + j] = quant as i8;
                }
            }
            for (greatest, sum) in greatest.into_iter().zip(sums).take(count) {
                self.scales.push(greatest / 127.0 * std::f32::consts::LOG2_E);
                self.zeros.push(middle(plan.bits()) * sum as f32);
            }
        }
    }

    /// Queries `first..first + offsets.len()`.
    pub fn queries<'a>(&'a self, first: usize, offsets: &'a [f32]) -> SketchQueries<'a> {
        let count = offsets.len();
        SketchQueries {
            quants: &self.quants[first * self.padded_dim..][..count * self.padded_dim],
            scales: &self.scales[first..][..count],
            zeros: &self.zeros[first..][..count],
            offsets,
        }
    }
}
