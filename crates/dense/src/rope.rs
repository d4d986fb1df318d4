//! Rotary position embedding of a token's queries and keys.

/// How heads rotate: the angle of pair i at position p is `p theta^(-2i/dimensions) / factors[i]`.
#[derive(Clone, Debug)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that rotate, an even number; the rest pass through.
    pub dimensions: usize,
    /// Divisors per pair, or empty for all ones.
    pub factors: Vec<f32>,
}

/// The frequency of each pair, in f64: at position 100,000 an angle in f32 is off by 0.004.
#[derive(Debug)]
pub(crate) struct Rope(Vec<f64>);

impl Rope {
    pub fn new(config: &RopeConfig) -> Rope {
        let frequency = |pair: usize| {
            let factor = config.factors.get(pair).map_or(1.0, |&factor| f64::from(factor));
            config.theta.powf(-2.0 * pair as f64 / config.dimensions as f64) / factor
        };
        Rope((0..config.dimensions / 2).map(frequency).collect())
    }

    /// Cosine and sine of each pair at a position.
    pub fn angles(&self, position: usize) -> Vec<(f32, f32)> {
        let turn = |&frequency: &f64| {
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            (cosine as f32, sine as f32)
        };
        self.0.iter().map(turn).collect()
    }

    /// Turns the pairs (2i, 2i + 1) of each head in `x`, as GGUF's llama stores them.
    pub fn rotate(x: &mut [f32], head_dim: usize, angles: &[(f32, f32)]) {
        for head in x.chunks_exact_mut(head_dim) {
            for (pair, &(cosine, sine)) in head.chunks_exact_mut(2).zip(angles) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cosine - b * sine;
                pair[1] = a * sine + b * cosine;
            }
        }
    }
}
