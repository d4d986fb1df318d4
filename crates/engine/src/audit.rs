//! What a policy's steps are compared with: exact attention of the same queries over the same rows, and the bytes that it reads.

use std::f32::consts::PI;

use lsh_attn::collisions::Collisions;
use lsh_attn::sketch::BLOCK_KEYS;
use team::Team;

use crate::config::{Budget, Shape};
use crate::decode::{self, RowsRead, Step, hash_queries, scaled};
use crate::decode_compare::scores;
use crate::index::LshIndex;
use crate::session::Index;

/// Sums over the steps since an audit began.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// |o - exact o|^2 `[layers, heads]`, o the attention's output of a query head.
    pub error_squares: Vec<f64>,
    /// |exact o|^2 `[layers, heads]`.
    pub exact_squares: Vec<f64>,
    /// Bytes of rows and index that the policy reads. A row counts once, however many query heads of its KV head use it.
    pub bytes_read: f64,
    /// Bytes of rows that exact attention reads.
    pub exact_bytes: f64,
    /// What steps that estimate their own error said of it, where there were any.
    pub coverage: Coverage,
}

/// Rounding of sums in f32, which intervals know nothing of.
const ROUNDING: f64 = 1e-5;

/// Estimated and real relative errors of query heads' outputs, one of each a step, layer and query head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coverage {
    /// How many there were.
    pub head_steps: u64,
    /// Of these, |o - exact o| > epsilon |exact o|, where steps are verified.
    pub violations: u64,
    /// And those where it was more than was estimated: predicted, or the end of the interval.
    pub outside: u64,
    /// Sum of the estimates.
    pub estimated: f64,
    /// Sum of |o - exact o| / |exact o|.
    pub real: f64,
}

impl Audit {
    pub(crate) fn new(shape: Shape) -> Audit {
        let heads = shape.layers * shape.heads;
        Audit {
            error_squares: vec![0.0; heads],
            exact_squares: vec![0.0; heads],
            bytes_read: 0.0,
            exact_bytes: 0.0,
            coverage: Coverage::default(),
        }
    }

    /// Compares `out`, which a step of some policy has computed from `index`, with exact attention.
    pub(crate) fn note(
        &mut self,
        team: &Team<'_>,
        step: Step<'_>,
        index: &Index,
        read: RowsRead,
        q: &[f32],
        out: &[f32],
    ) {
        let Shape { heads, kv_heads, head_dim: d, .. } = step.shape;
        let mut exact = vec![0.0; out.len()];
        decode::exact(team, step, q, &mut exact);
        let (estimates, budget) = match index {
            Index::Sketch(sketch) => (sketch.errors(), sketch.budget()),
            _ => (&[][..], Budget::ByLength),
        };
        for (head, (out, exact)) in out.chunks_exact(d).zip(exact.chunks_exact(d)).enumerate() {
            let square = |x: f32| f64::from(x) * f64::from(x);
            let at = step.layer * heads + head;
            let error = out.iter().zip(exact).map(|(o, e)| square(o - e)).sum::<f64>();
            let whole = exact.iter().map(|&e| square(e)).sum::<f64>();
            self.error_squares[at] += error;
            self.exact_squares[at] += whole;
            if let Some(&estimate) = estimates.get(head) {
                self.coverage.note(budget, estimate, (error / whole.max(f64::MIN_POSITIVE)).sqrt());
            }
        }
        let row_bytes = step.storage.row_type().row_bytes(d);
        self.exact_bytes += (step.attended().len() * kv_heads * row_bytes) as f64;
        // Rows that all queries of a KV head share.
        let shared = ((read.fixed + read.sampled) as usize / step.shape.group() * row_bytes) as f64;
        self.bytes_read += match index {
            _ if read.bytes > 0 => read.bytes as f64,
            Index::None => shared,
            Index::Sketch(sketch) => {
                let block = sketch.block_bytes(step.layer) as f64 / BLOCK_KEYS as f64;
                shared + read.indexed as f64 / step.shape.group() as f64 * block
            }
            Index::Lsh(index) => {
                let fixed = (read.fixed as usize / step.shape.group() * row_bytes) as f64;
                fixed + lsh_bytes(step, index, &scaled(step.shape, q))
            }
        };
    }
}

impl Coverage {
    fn note(&mut self, budget: Budget, estimate: f64, real: f64) {
        self.head_steps += 1;
        if let Budget::Verified { epsilon, .. } = budget {
            self.violations += u64::from(real > epsilon + ROUNDING);
        }
        self.outside += u64::from(real > estimate + ROUNDING);
        self.estimated += estimate;
        self.real += real;
    }
}

/// Bytes of the rows that a step's queries draw by `lsh`, of their norms, and of the buckets. How many ids are in these follows
/// from the angles: L (1 - theta/pi)^K of a key's are expected there. Tables count as one run.
fn lsh_bytes(step: Step<'_>, index: &LshIndex, q: &[f32]) -> f64 {
    let Shape { kv_heads, head_dim: d, .. } = step.shape;
    let group = step.shape.group();
    let layer = index.layer(step.layer);
    let (tables, bits) = (layer.plan.tables(), layer.plan.bits_per_table() as i32);
    let codes = hash_queries(step, &layer.plan, q);
    let (mut collisions, mut ids) = (Collisions::default(), Vec::new());
    let mut bytes = 0.0;
    for kv_head in 0..kv_heads {
        for (number, segment) in layer.head(kv_head).segments.iter().enumerate() {
            let segment = segment.view(step.storage, (step.layer, kv_head, number));
            let mut drawn = vec![false; segment.end()];
            let own = &q[kv_head * group * d..][..group * d];
            let first = number * kv_store::SEGMENT_ROWS;
            let scores = scores(step, kv_head, first + segment.first()..first + segment.end(), own);
            let keys: Vec<u16> = (segment.first()..segment.end()).map(|key| key as u16).collect();
            let mut norms = Vec::new();
            segment.norms_of(&keys, &mut norms);
            for (query, q) in own.chunks_exact(d).enumerate() {
                ids.clear();
                let codes = &codes[(kv_head * group + query) * tables..][..tables];
                segment.sample(step.kernels, codes, &mut collisions, &mut ids, || ());
                ids.iter().for_each(|&id| drawn[usize::from(id)] = true);
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let (q_norm, q_centre) = (dot(q, q).sqrt(), dot(q, segment.centre()));
                let scores = &scores[query * keys.len()..][..keys.len()];
                let expected = scores.iter().zip(&norms).map(|(score, norm)| {
                    let cosine = (score - q_centre) / (q_norm * norm).max(f32::MIN_POSITIVE);
                    f64::from((1.0 - cosine.clamp(-1.0, 1.0).acos() / PI).powi(bits))
                });
                // An id takes 2 bytes, and the two ends of a bucket 4.
                bytes += tables as f64 * (4.0 + 2.0 * expected.sum::<f64>());
            }
            bytes += (drawn.into_iter().filter(|&drawn| drawn).count() * (4 * d + 2)) as f64;
        }
    }
    bytes
}
