//! How far a step's output is from exact attention, estimated from the sample that it was made of.
//!
//! With o = num/den of a sample with inclusion probabilities pi_i, and Z its denominator, the error is to first order
//! `sum_i (I_i/pi_i - 1) w_i (v_i - o) / Z` (the delta method for a ratio; Sarndal et al. 1992, section 5.6). Under draws that are
//! independent given pi, its mean square is `sum_i (1 - pi_i)/pi_i w_i^2 |v_i - o|^2 / Z^2`, and
//!
//! `V = sum over the sample of (1 - pi_i)/pi_i^2 w_i^2 |v_i - o|^2 / Z^2`
//!
//! has that as its mean whichever way keys are drawn, as long as pi is right. A systematic draw's own mean square is less where keys
//! that are near each other have like terms, and could be more where terms have a period: docs/verified.md has
//! what was measured.

use lsh_attn::kernels::Kernels;
use lsh_attn::rows::Rows;
use lsh_attn::soft_cap::soft_cap;
use lsh_attn::softmax::Partial;

/// Squares of one query head's relative error: |o - exact o|^2 / |o|^2.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    /// V / |o|^2.
    pub variance: f64,
    /// The squares of its terms: few large terms say less than many small ones.
    pub term_squares: f64,
}

impl Spread {
    pub fn add(&mut self, other: Spread) {
        self.variance += other.variance;
        self.term_squares += other.term_squares;
    }

    /// The relative error that is predicted: the root of its estimated mean square.
    pub fn predicted(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The upper end of an interval of |o - exact o| / |exact o| that holds with probability 1 - delta, `z` being
    /// [`normal_quantile`] of delta; infinite where the sample says too little.
    ///
    /// Of all quadratic forms of normal variables with a given mean, that of one variable reaches furthest at such probabilities
    /// (Szekely and Bakirov 2003, delta up to 0.215), so that z roots of V are enough in any number of dimensions. The sample has
    /// so many keys that matter as its terms have: with few of them, Student's quantile for as many degrees of freedom
    /// takes the place of z.
    pub fn bound(&self, z: f64) -> f64 {
        if self.variance == 0.0 {
            return 0.0;
        }
        let freedom = self.variance * self.variance / self.term_squares;
        let relative_to_own = student_quantile(z, freedom) * self.predicted();
        // |exact o| >= |o| - |o - exact o|.
        if relative_to_own < 1.0 { relative_to_own / (1.0 - relative_to_own) } else { f64::INFINITY }
    }
}

/// The z that a standard normal variable exceeds in size with probability `delta`, within 0.0005 (Hastings 1955, sheet 68).
pub(crate) fn normal_quantile(delta: f64) -> f64 {
    let t = (-2.0 * (delta / 2.0).ln()).sqrt();
    let above = 2.515517 + t * (0.802853 + t * 0.010328);
    t - above / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
}

/// Student's quantile at the same probability as the normal `z` (Wallace 1959, inverted): within 1% from 4 degrees of
/// freedom on, and too large with fewer.
fn student_quantile(z: f64, freedom: f64) -> f64 {
    let scaled = z * (8.0 * freedom + 3.0) / (8.0 * freedom + 1.0);
    (freedom * (scaled * scaled / freedom).exp_m1()).sqrt()
}

/// A step's output in one KV head: what terms of the error are relative to.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// ln Z of each query.
    ln_z: Vec<f32>,
    /// 1 / |o|^2 of each query.
    inverse_squares: Vec<f64>,
    /// `[queries, head_dim]`
    o: Vec<f32>,
    score_cap: Option<f32>,
}

impl Output {
    /// That of the queries of `whole`, which has all parts.
    pub fn new(whole: &Partial, queries: usize, head_dim: usize) -> Output {
        let mut o = vec![0.0; queries * head_dim];
        whole.finish(&mut o);
        let square = |o: &[f32]| o.iter().map(|&o| f64::from(o) * f64::from(o)).sum::<f64>();
        Output {
            ln_z: (0..queries).map(|query| whole.max(query) + whole.den(query).ln()).collect(),
            inverse_squares: o
                .chunks_exact(head_dim)
                .map(|o| 1.0 / square(o).max(f64::MIN_POSITIVE))
                .collect(),
            o,
            score_cap: whole.score_cap(),
        }
    }

    /// What drawn keys add to each query's [`Spread`]. `q` is `[queries, head_dim]`, scaled; `rows` are the segment's; terms
    /// in f32, sums in f64.
    pub fn spreads(
        &self,
        kernels: Kernels,
        q: &[f32],
        rows: Rows<'_>,
        (ids, ln_pi): (&[u16], &[f32]),
    ) -> Vec<Spread> {
        let d = rows.head_dim();
        let mut spreads = vec![Spread::default(); self.ln_z.len()];
        let mut scores = vec![0.0; spreads.len() * ids.len()];
        if ids.is_empty() {
            return spreads;
        }
        kernels.dot_gathered(q, rows, ids, &mut scores);
        if let Some(cap) = self.score_cap {
            soft_cap(kernels, cap, &mut scores);
        }
        let mut value = vec![0.0; d];
        for (key, (&id, &ln_pi)) in ids.iter().zip(ln_pi).enumerate() {
            rows.value(usize::from(id), &mut value);
            let left_out = f64::from(-ln_pi.exp_m1());
            for (query, spread) in spreads.iter_mut().enumerate() {
                let weight = f64::from(scores[query * ids.len() + key] - ln_pi - self.ln_z[query]).exp();
                let o = &self.o[query * d..][..d];
                let term = left_out
                    * weight
                    * weight
                    * f64::from(square_distance(&value, o))
                    * self.inverse_squares[query];
                spread.add(Spread { variance: term, term_squares: term * term });
            }
        }
        spreads
    }
}

/// |a - b|^2 in f32, 8 sums side by side, which the compiler keeps in vectors.
fn square_distance(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += (a - b) * (a - b);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests;
