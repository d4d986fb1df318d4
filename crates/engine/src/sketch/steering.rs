//! How a session's gain follows what its steps draw: towards a budget, towards an error, or towards few draws that must be
//! repeated.

use crate::config::Budget;
use crate::sketch::SessionSketch;
use crate::verified::normal_quantile;

/// Share of a step's KV heads that a verified step is to draw again: a first draw that always suffices is larger than most
/// heads need, and each repeated one is read for nothing.
const REPEATED: f64 = 0.25;
/// Keys that each head draws at least for its own sake in a verified step, where epsilon of its weight or more is on indexed keys: from
/// fewer its variance could not be told.
const LEAST: f64 = 8.0;

impl SessionSketch {
    /// lambda of each query head, `shares` being the parts of their estimated weights that are on `keys` indexed keys, and `importance`
    /// how much their outputs count, none for all the same.
    pub fn lambdas(&self, keys: usize, shares: &[f64], importance: &[f32]) -> Vec<f64> {
        match self.budget {
            // The mean square of the error is about share / lambda times |v - o|^2 / |o|^2, which the gain stands for.
            Budget::Verified { epsilon, delta } => {
                let most = (epsilon / normal_quantile(delta)).powi(2);
                let of = |share: &f64| (self.gain * share / most).max(LEAST / share.max(epsilon));
                shares.iter().map(of).collect()
            }
            // The square of a head's error goes with share / lambda and what it draws with share * lambda, so that for a given number of keys the
            // sum of what all errors move, by their importance, is least where lambda goes with that.
            Budget::Fraction(_) | Budget::ByLength | Budget::Rooted { .. } if !importance.is_empty() => {
                importance.iter().map(|&importance| self.lambda(keys) * f64::from(importance)).collect()
            }
            _ => vec![self.lambda(keys); shares.len()],
        }
    }

    fn lambda(&self, keys: usize) -> f64 {
        self.gain * self.budget.of(keys) * keys as f64
    }

    /// Notes a layer's draw, which was expected to be of so many from `keys` of each of its KV heads; that of the first layer which draws begins a
    /// step and steers by what the one before expected.
    pub fn steer(&mut self, layer: usize, expected: f64, keys: usize) {
        if self.begins_step(layer) && self.possible > 0.0 {
            let spread = self.floor(keys) * self.possible;
            let ratio = (self.budget.of(keys) * self.possible - spread) / (self.noted - spread).max(1.0);
            self.turn(ratio.clamp(0.25, 4.0).powf(0.3));
        }
        self.note(expected, keys * self.layers[layer].heads.len());
    }

    /// Notes the errors that a layer's sample predicts for its heads, likewise.
    pub fn steer_by_error(&mut self, layer: usize, target: f64, errors: &[f64]) {
        if self.begins_step(layer) && self.possible > 0.0 {
            let mean = self.noted / self.possible;
            // In the ratio itself and not its logarithm, so that the mean settles at the target and not their geometric mean.
            self.turn((0.6 * (mean / target - 1.0)).clamp(-0.4, 0.4).exp());
        }
        // One head whose output nearly vanishes would else decide for all.
        self.note(errors.iter().map(|error| error.min(1.0)).sum(), errors.len());
    }

    /// Notes how many of a layer's KV heads had to draw again, likewise.
    pub fn steer_by_repeats(&mut self, layer: usize, repeated: usize) {
        if self.begins_step(layer) && self.possible > 0.0 {
            self.turn((0.5 * (self.noted / self.possible - REPEATED)).exp());
        }
        self.note(repeated as f64, self.layers[layer].heads.len());
    }

    fn turn(&mut self, factor: f64) {
        self.gain = (self.gain * factor).clamp(1e-4, 1e4);
        (self.noted, self.possible) = (0.0, 0.0);
    }

    fn note(&mut self, noted: f64, possible: usize) {
        self.noted += noted;
        self.possible += possible as f64;
    }
}
