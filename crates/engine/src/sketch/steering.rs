//! How a session's gain follows what its steps draw: towards a budget, towards an error, or towards few draws that must be
//! repeated.

use crate::config::Budget;
use crate::sketch::SessionSketch;
use crate::verified::normal_quantile;

/// Share of a step's KV heads that a verified step is to draw again: a first draw that always suffices is larger than most
/// heads need, and each repeated one is read for nothing.
const REPEATED: f64 = 0.25;

impl SessionSketch {
    /// lambda of each query head, `shares` being the parts of their estimated weights that are on `keys` indexed keys.
    pub fn lambdas(&self, keys: usize, shares: &[f64]) -> Vec<f64> {
        match self.budget {
            // The mean square of the error is about share / lambda times |v - o|^2 / |o|^2, which the gain stands for.
            Budget::Verified { epsilon, delta } => {
                let most = (epsilon / normal_quantile(delta)).powi(2);
                shares.iter().map(|share| self.gain * share / most).collect()
            }
            _ => vec![self.gain * self.budget.of(keys) * keys as f64; shares.len()],
        }
    }

    /// Notes a layer's draw, which was expected to be of so many from `keys` of each of its KV heads; the first layer's begins a step
    /// and steers by what the one before expected.
    pub fn steer(&mut self, layer: usize, expected: f64, keys: usize) {
        if layer == 0 && self.possible > 0.0 {
            let spread = self.floor(keys) * self.possible;
            let ratio = (self.budget.of(keys) * self.possible - spread) / (self.noted - spread).max(1.0);
            self.turn(ratio.clamp(0.25, 4.0).powf(0.3));
        }
        self.note(expected, keys * self.layers[layer].heads.len());
    }

    /// Notes the errors that a layer's sample predicts for its heads, likewise.
    pub fn steer_by_error(&mut self, layer: usize, target: f64, errors: &[f64]) {
        if layer == 0 && self.possible > 0.0 {
            let mean = self.noted / self.possible;
            // Errors go with lambda's root, or a little more steeply.
            self.turn((mean / target).clamp(0.5, 2.0).powf(0.6));
        }
        // One head whose output nearly vanishes would else decide for all.
        self.note(errors.iter().map(|error| error.min(1.0)).sum(), errors.len());
    }

    /// Notes how many of a layer's KV heads had to draw again, likewise.
    pub fn steer_by_repeats(&mut self, layer: usize, repeated: usize) {
        if layer == 0 && self.possible > 0.0 {
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
