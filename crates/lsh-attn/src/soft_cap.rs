//! Soft caps: a score s becomes cap tanh(s / cap), which no score exceeds (Bello et al. 2016; Gemma 2).

use crate::kernels::Kernels;

/// Beyond it in size, 2 s / cap makes no difference to f32: tanh is 1 there.
const SATURATED: f32 = 40.0;

/// Caps all of `scores`. Each is within `cap * 1e-6` of the exact one.
pub fn soft_cap(kernels: Kernels, cap: f32, scores: &mut [f32]) {
    // tanh y = 1 - 2 / (e^(2 y) + 1)
    for score in scores.iter_mut() {
        *score = (*score * (2.0 / cap)).clamp(-SATURATED, SATURATED);
    }
    kernels.exp_sum(scores, 0.0);
    for score in scores {
        *score = cap - 2.0 * cap / (*score + 1.0);
    }
}

/// The score that a cap has made `capped` of; for one that is at the cap, some score that would be there.
pub fn before_soft_cap(cap: f32, capped: f32) -> f32 {
    cap * (capped / cap).clamp(-0.99999, 0.99999).atanh()
}

#[cfg(test)]
mod tests {
    use super::{before_soft_cap, soft_cap};
    use crate::kernels::{Isa, Kernels};

    #[test]
    fn caps_on_every_isa() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let kernels = Kernels::of(isa).expect("available");
            for cap in [0.5f32, 30.0, 50.0] {
                let scores: Vec<f32> = (-500..=500).map(|i| i as f32 * 0.317).chain([1e9, -1e9]).collect();
                let mut capped = scores.clone();
                soft_cap(kernels, cap, &mut capped);
                for (&score, &capped) in scores.iter().zip(&capped) {
                    let want = f64::from(cap) * (f64::from(score) / f64::from(cap)).tanh();
                    assert!((f64::from(capped) - want).abs() <= 1e-6 * f64::from(cap), "{isa} {cap} {score}");
                    if capped.abs() < 0.99 * cap {
                        assert!((before_soft_cap(cap, capped) - score).abs() < 1e-3 * cap, "{cap} {score}");
                    }
                }
                assert!(before_soft_cap(cap, cap).is_finite());
            }
        }
    }
}
