//! Rotary position embedding of a token's queries and keys.

/// How heads rotate: the angle of pair i at position p is `p theta^(-2i/dimensions) / factors[i]`.
#[derive(Clone, Debug)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that rotate, an even number; the rest pass through.
    pub dimensions: usize,
    /// Which elements make a pair.
    pub pairs: RopePairs,
    /// Divisors per pair, or empty for all ones.
    pub factors: Vec<f64>,
    /// What rotated elements are multiplied with besides (YaRN's attention factor).
    pub magnitude: f64,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// 2i and 2i + 1, as GGUF stores llama.
    Interleaved,
    /// i and i + dimensions / 2.
    Halves,
}

/// The frequency of each pair, in f64: at position 100,000 an angle in f32 is off by 0.004.
#[derive(Debug)]
pub(crate) struct Rope {
    frequencies: Vec<f64>,
    pairs: RopePairs,
    magnitude: f64,
}

impl Rope {
    pub fn new(config: &RopeConfig) -> Rope {
        let frequency = |pair: usize| {
            let factor = config.factors.get(pair).copied().unwrap_or(1.0);
            config.theta.powf(-2.0 * pair as f64 / config.dimensions as f64) / factor
        };
        Rope {
            frequencies: (0..config.dimensions / 2).map(frequency).collect(),
            pairs: config.pairs,
            magnitude: config.magnitude,
        }
    }

    /// Cosine and sine of each pair at a position.
    pub fn angles(&self, position: usize) -> Vec<(f32, f32)> {
        let turn = |&frequency: &f64| {
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            ((self.magnitude * cosine) as f32, (self.magnitude * sine) as f32)
        };
        self.frequencies.iter().map(turn).collect()
    }

    /// Turns the pairs of each head in `x` by a position's angles.
    pub fn rotate(&self, x: &mut [f32], head_dim: usize, angles: &[(f32, f32)]) {
        let turned =
            |a: f32, b: f32, (cosine, sine): (f32, f32)| (a * cosine - b * sine, a * sine + b * cosine);
        for head in x.chunks_exact_mut(head_dim) {
            match self.pairs {
                RopePairs::Interleaved => {
                    for (pair, &angle) in head.chunks_exact_mut(2).zip(angles) {
                        (pair[0], pair[1]) = turned(pair[0], pair[1], angle);
                    }
                }
                RopePairs::Halves => {
                    let (first, second) = head[..2 * angles.len()].split_at_mut(angles.len());
                    for ((a, b), &angle) in first.iter_mut().zip(second).zip(angles) {
                        (*a, *b) = turned(*a, *b, angle);
                    }
                }
            }
        }
    }
}
