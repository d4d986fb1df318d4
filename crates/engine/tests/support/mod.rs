//! Texts for sessions: numbers in the place of a model's queries, keys and values.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::atomic::AtomicBool;

use engine::{Attention, RowType, Session, SessionConfig, Shape};
use lsh_attn::mix::{derive_seed, mix64};

/// A session of two threads with rows of bf16, where nothing else is said.
pub fn config(shape: Shape) -> SessionConfig {
    SessionConfig {
        shape,
        attention: Attention::default(),
        rows: RowType::Bf16,
        threads: 2,
        seed: 3,
        directory: std::env::temp_dir(),
    }
}

/// Tokens of text: q, k and v of any layer and position, roughly normal, by seed.
pub struct Text {
    pub shape: Shape,
    pub seed: u64,
}

impl Text {
    fn numbers(&self, what: u64, layer: usize, position: usize, count: usize, scale: f32) -> Vec<f32> {
        let seed = derive_seed(derive_seed(self.seed, what), (layer * 1_000_003 + position) as u64);
        let uniform = |index: u64| (mix64(derive_seed(seed, index)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..count as u64).map(|index| scale * (uniform(2 * index) + uniform(2 * index + 1))).collect()
    }

    pub fn q(&self, layer: usize, position: usize) -> Vec<f32> {
        self.numbers(0, layer, position, self.shape.q_len(), 6.0)
    }

    pub fn k(&self, layer: usize, position: usize) -> Vec<f32> {
        self.numbers(1, layer, position, self.shape.kv_len(), 2.0)
    }

    pub fn v(&self, layer: usize, position: usize) -> Vec<f32> {
        self.numbers(2, layer, position, self.shape.kv_len(), 2.0)
    }

    pub fn prefill(&self, session: &mut Session, tokens: std::ops::Range<usize>) -> Vec<Vec<f32>> {
        (0..self.shape.layers)
            .map(|layer| {
                let all =
                    |part: &dyn Fn(usize) -> Vec<f32>| tokens.clone().flat_map(part).collect::<Vec<_>>();
                let (q, k, v) = (
                    all(&|token| self.q(layer, token)),
                    all(&|token| self.k(layer, token)),
                    all(&|token| self.v(layer, token)),
                );
                let mut out = vec![0.0; q.len()];
                session.prefill(layer, &q, &k, &v, &mut out, &AtomicBool::new(false)).expect("prefill");
                out
            })
            .collect()
    }

    /// The outputs of all layers for one token.
    pub fn decode(&self, session: &mut Session, token: usize) -> Vec<f32> {
        let mut outputs = Vec::new();
        for layer in 0..self.shape.layers {
            let mut out = vec![0.0; self.shape.q_len()];
            let (q, k, v) = (self.q(layer, token), self.k(layer, token), self.v(layer, token));
            session.decode(layer, &q, &k, &v, &mut out).expect("decode");
            outputs.extend(out);
        }
        outputs
    }
}
