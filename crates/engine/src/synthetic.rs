//! Synthetic keys, values and queries of one layer, spread as those of trained models.
//!
//! Independent Gaussian keys would make attention flat, and independent values its output nearly zero, so that errors
//! relative to it say nothing. These have what was seen in SmolLM2's layers: keys in a cone around a large common part; a
//! deviation from it that is a slow walk over topics plus noise, so that scores differ by a few units, neighbours more
//! alike than strangers; a few keys that a query was made for; a first key that takes what attention is left over; values
//! with a common part and one that goes with the topics.

use lsh_attn::mix::{derive_seed, mix64, normals};
use rayon::prelude::*;

use crate::config::Shape;

/// Directions in which texts drift.
const TOPICS: usize = 24;
/// How much of a topic's strength stays from one token to the next.
const MEMORY: f32 = 0.98;
/// Share of a key's deviation that is its topics', the rest being its own.
const TOPIC_SHARE: f32 = 0.35;
/// Standard deviation of scores over keys.
const SCORE_SPREAD: f32 = 2.5;
/// Of a thousand keys, those that lean towards the queries more than chance has it.
const FOUND_PER_MILLE: u64 = 2;

/// Rows of one layer, and queries that come after them.
pub struct Synthetic {
    shape: Shape,
    /// `[tokens, kv_heads * head_dim]`
    pub keys: Vec<f32>,
    /// `[tokens, kv_heads * head_dim]`
    pub values: Vec<f32>,
    directions: Vec<Directions>,
}

/// What the keys of one KV head have in common.
struct Directions {
    common: Vec<f32>,
    topics: Vec<Vec<f32>>,
    value_topics: Vec<Vec<f32>>,
    value_common: Vec<f32>,
}

impl Synthetic {
    /// Rows of `tokens` tokens.
    pub fn new(shape: Shape, tokens: usize, seed: u64) -> Synthetic {
        let (d, width) = (shape.head_dim, shape.kv_len());
        let directions: Vec<Directions> =
            (0..shape.kv_heads).map(|head| Directions::new(d, derive_seed(seed, head as u64))).collect();
        let heads: Vec<(Vec<f32>, Vec<f32>)> = directions
            .par_iter()
            .enumerate()
            .map(|(head, directions)| directions.rows(d, tokens, derive_seed(seed, 1000 + head as u64)))
            .collect();
        let (mut keys, mut values) = (vec![0.0; tokens * width], vec![0.0; tokens * width]);
        for (head, (k, v)) in heads.iter().enumerate() {
            for token in 0..tokens {
                let to = token * width + head * d;
                keys[to..][..d].copy_from_slice(&k[token * d..][..d]);
                values[to..][..d].copy_from_slice(&v[token * d..][..d]);
            }
        }
        Synthetic { shape, keys, values, directions }
    }

    /// Queries `[heads * head_dim]` of step `number`.
    pub fn queries(&self, number: u64) -> Vec<f32> {
        let Shape { heads, head_dim: d, .. } = self.shape;
        let mut out = Vec::with_capacity(heads * d);
        for head in 0..heads {
            let directions = &self.directions[head / self.shape.group()];
            let seed = derive_seed(number + 17, head as u64);
            let noise = normals(seed, d + TOPICS);
            let mut q: Vec<f32> = noise[..d].iter().map(|x| x * (1.0 - TOPIC_SHARE)).collect();
            for (topic, strength) in directions.topics.iter().zip(&noise[d..]) {
                for (q, t) in q.iter_mut().zip(topic) {
                    *q += strength * TOPIC_SHARE.sqrt() * t * (d as f32 / TOPICS as f32).sqrt();
                }
            }
            // Away from the common part, as sinks need it: most scores are below the first key's.
            let length = q.iter().map(|x| x * x).sum::<f32>().sqrt();
            let scale = SCORE_SPREAD * d as f32 / length / (d as f32).sqrt();
            out.extend(q.iter().zip(&directions.common).map(|(q, c)| scale * (q - 0.05 * c)));
        }
        out
    }
}

impl Directions {
    fn new(d: usize, seed: u64) -> Directions {
        let unit = |index: u64| {
            let mut x = normals(derive_seed(seed, index), d);
            let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
            x.iter_mut().for_each(|x| *x /= length);
            x
        };
        let scaled = |index: u64, size: f32| unit(index).iter().map(|x| x * size).collect();
        Directions {
            common: scaled(0, 2.0 * (d as f32).sqrt()),
            topics: (1..=TOPICS as u64).map(unit).collect(),
            value_topics: (101..=100 + TOPICS as u64).map(unit).collect(),
            value_common: scaled(200, 0.5 * (d as f32).sqrt()),
        }
    }

    /// Keys and values `[tokens, d]`.
    fn rows(&self, d: usize, tokens: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let (mut keys, mut values) = (Vec::with_capacity(tokens * d), Vec::with_capacity(tokens * d));
        let mut strengths = normals(derive_seed(seed, u64::MAX), TOPICS);
        let step = (1.0 - MEMORY * MEMORY).sqrt();
        let own = (1.0 - TOPIC_SHARE).sqrt();
        let size = (TOPIC_SHARE * d as f32 / TOPICS as f32).sqrt();
        for token in 0..tokens as u64 {
            let noise = normals(derive_seed(seed, token), 2 * d + TOPICS);
            for (strength, x) in strengths.iter_mut().zip(&noise[2 * d..]) {
                *strength = MEMORY * *strength + step * x;
            }
            let found = mix64(derive_seed(seed ^ 5, token)) % 1000 < FOUND_PER_MILLE;
            let reach = if found { 2.0 } else { 1.0 };
            let mut key: Vec<f32> = self.common.iter().zip(&noise).map(|(c, x)| c + own * x).collect();
            let mut value: Vec<f32> =
                self.value_common.iter().zip(&noise[d..]).map(|(c, x)| c + own * x).collect();
            for ((topic, of_values), strength) in self.topics.iter().zip(&self.value_topics).zip(&strengths) {
                for (k, t) in key.iter_mut().zip(topic) {
                    *k += reach * size * strength * t;
                }
                for (v, t) in value.iter_mut().zip(of_values) {
                    *v += size * strength * t;
                }
            }
            if token == 0 {
                key.iter_mut().zip(&self.common).for_each(|(k, c)| *k = -3.0 * c);
            }
            keys.extend(key);
            values.extend(value);
        }
        (keys, values)
    }
}
