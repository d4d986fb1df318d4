//! Inclusion probabilities of the `lsh` proposal: how likely a key at angle theta collides with the query in at
//! least two of L tables of K bits.
//!
//! One bit agrees with probability 1 - theta/pi (Goemans and Williamson 1995), a table with p = (1 - theta/pi)^K,
//! and at least two of L tables with u = 1 - (1 - p)^(L - 1) (1 - p + L p) (MagicPIG, section 4).

use std::f64::consts::PI;

use crate::kernels::Kernels;

/// Intervals of the table. With 2,048 the linear interpolation of ln u is within 1e-3 for cosines from -0.9 up;
/// below, u falls to 0 at cosine -1 and ln u with it.
const INTERVALS: usize = 2048;

/// Places in the table: a power of two, so that no place needs to be compared with the end.
pub(crate) const NODES: usize = 4096;

/// ln u of a key that is never drawn in practice: keeps the arithmetic finite at theta = pi, where u is 0.
const LN_U_FLOOR: f64 = -69.0;

/// ln u for a key at `cosine` to the query, in f64 from the closed form.
pub fn ln_inclusion(cosine: f64, bits_per_table: usize, tables: usize) -> f64 {
    let theta = cosine.clamp(-1.0, 1.0).acos();
    let p = (1.0 - theta / PI).powi(bits_per_table as i32);
    let others = tables as f64 - 1.0;
    let u = if p * others < 1e-6 {
        // The closed form cancels to second order here; this is its leading term.
        0.5 * (others + 1.0) * others * p * p
    } else if p < 1.0 {
        // (1-p)^(L-1) (1 + (L-1) p) is the probability of at most one collision.
        -(others * (-p).ln_1p() + (others * p).ln_1p()).exp_m1()
    } else {
        1.0
    };
    u.ln().max(LN_U_FLOOR)
}

/// ln u by table lookup, for one K and L.
///
/// The table runs over sin(theta/2) = sqrt((1 - cos theta) / 2), a square root away from the cosine: ln u is
/// smooth in it where theta is small, and in the cosine itself it is not.
#[derive(Clone, Debug)]
pub struct InclusionTable {
    /// Value at the start of each interval and one beyond, so that no lookup is at the edge; then zeroes.
    nodes: Box<[f32; NODES]>,
}

impl InclusionTable {
    /// The table for K = `bits_per_table` and L = `tables`.
    pub fn new(bits_per_table: usize, tables: usize) -> InclusionTable {
        let mut nodes = Box::new([0.0; NODES]);
        for (index, node) in nodes[..INTERVALS + 2].iter_mut().enumerate() {
            let sine = (index.min(INTERVALS) as f64) / INTERVALS as f64;
            *node = ln_inclusion(1.0 - 2.0 * sine * sine, bits_per_table, tables) as f32;
        }
        InclusionTable { nodes }
    }

    /// Turns cosines into ln u; outside [-1, 1], and NaN, they are taken as the nearest end.
    pub fn ln_u(&self, kernels: Kernels, cosines: &mut [f32]) {
        kernels.ln_inclusion(&self.nodes, cosines);
    }
}

/// The value of `nodes` at one cosine.
#[inline(always)]
pub(crate) fn interpolate(nodes: &[f32; NODES], cosine: f32) -> f32 {
    let half_sine = (0.5 - 0.5 * cosine).max(0.0).sqrt().min(1.0);
    let place = half_sine * INTERVALS as f32;
    let index = place as i32 as usize;
    let (low, high) = (nodes[index % NODES], nodes[(index + 1) % NODES]);
    low + (place - index as i32 as f32) * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ln_u(table: &InclusionTable, cosine: f32) -> f32 {
        let mut x = [cosine];
        table.ln_u(Kernels::detect().expect("a kernel"), &mut x);
        x[0]
    }

    #[test]
    fn closed_form_agrees_with_the_binomial_sum() {
        for (k, l) in [(1, 2), (8, 75), (10, 150), (16, 1000)] {
            for cosine in [-0.99, -0.5, 0.0, 0.3, 0.9] {
                let p = (1.0 - f64::acos(cosine) / PI).powi(k as i32);
                // P(X >= 2) summed from the terms, smallest trouble with cancellation.
                let mut term = (1.0 - p).powi(l as i32 - 2) * (l * (l - 1) / 2) as f64 * p * p;
                let mut sum = 0.0;
                for collisions in 2..=l {
                    sum += term;
                    term *= (l - collisions) as f64 / (collisions + 1) as f64 * p / (1.0 - p);
                }
                let got = ln_inclusion(cosine, k, l).exp();
                assert!((got - sum).abs() <= 1e-6 * sum + 2e-30, "K {k} L {l} cos {cosine}: {got} {sum}");
            }
        }
    }

    #[test]
    fn table_interpolates_within_its_tolerance() {
        for (k, l) in [(4, 20), (8, 75), (10, 150), (12, 150), (16, 200)] {
            let table = InclusionTable::new(k, l);
            for step in 0..=20_000 {
                let cosine = -1.0 + step as f32 / 10_000.0;
                let exact = ln_inclusion(f64::from(cosine), k, l);
                if cosine >= -0.9 {
                    let error = (f64::from(ln_u(&table, cosine)) - exact).abs();
                    assert!(error < 1e-3, "K {k} L {l} cos {cosine}: {error}");
                }
            }
        }
    }

    #[test]
    fn ends_and_nonsense_stay_finite() {
        let table = InclusionTable::new(10, 150);
        for cosine in [-1.0, 1.0, -1.5, 1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert!(ln_u(&table, cosine).is_finite(), "{cosine}");
        }
        assert_eq!(ln_u(&table, 1.0), 0.0);
    }
}
