//! The `sketch` index of a session: for each layer its rotation, for each KV head and segment its codes, and how many keys
//! a step draws.

use std::sync::atomic::{AtomicBool, Ordering};

use kv_store::{RowStore, SEGMENT_ROWS};
use lsh_attn::kernels::Kernels;
use lsh_attn::mix::derive_seed;
use lsh_attn::rows::mean_key;
use lsh_attn::sketch::{BLOCK_KEYS, SketchIndex, SketchPlan};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::EngineError;
use crate::config::{Budget, SINKS, Shape, WINDOW};
use crate::decode::Step;

/// Rows below which a segment's own mean is no good centre: it takes the one of the segment before, and the first segment
/// waits, its rows attended exactly.
const CENTRE_ROWS: usize = 512;

/// Least probability of every key: a key whose estimate is wrong then weighs at most so much more than it should.
const FLOOR: f64 = 5e-4;

/// Codes of every layer and KV head.
#[derive(Debug)]
pub(crate) struct SessionSketch {
    bits: u32,
    budget: Budget,
    pub seed: u64,
    layers: Vec<LayerSketch>,
    /// lambda for each key of the budget: what a draw multiplies shares of the softmax with, the same for all layers and
    /// heads, and steered slowly so that the mean draw is the budget.
    gain: f64,
    /// Keys that the running step is expected to draw, and those that it could.
    expected: f64,
    indexed: f64,
}

/// Rotation of a layer, and the segments of its KV heads.
#[derive(Debug)]
pub(crate) struct LayerSketch {
    pub plan: SketchPlan,
    pub heads: Vec<HeadSketch>,
}

/// The segments of one KV head, in order; all but the last are full.
#[derive(Debug, Default)]
pub(crate) struct HeadSketch {
    pub segments: Vec<SketchIndex>,
}

impl SessionSketch {
    pub fn new(shape: Shape, bits: u32, budget: Budget, seed: u64) -> SessionSketch {
        let layer = |layer: usize| LayerSketch {
            plan: SketchPlan::new(shape.head_dim, bits, derive_seed(seed, layer as u64)),
            heads: (0..shape.kv_heads).map(|_| HeadSketch::default()).collect(),
        };
        SessionSketch {
            bits,
            budget,
            seed,
            layers: (0..shape.layers).map(layer).collect(),
            // As though a third of every head's weight were on indexed keys.
            gain: 3.0 / shape.group() as f64,
            expected: 0.0,
            indexed: 0.0,
        }
    }

    pub fn has(&self, bits: u32) -> bool {
        self.bits == bits
    }

    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub fn layer(&self, layer: usize) -> &LayerSketch {
        &self.layers[layer]
    }

    /// lambda of a head with `keys` indexed keys.
    pub fn lambda(&self, keys: usize) -> f64 {
        self.gain * self.budget.of(keys) * keys as f64
    }

    /// Least probability of every one of a head's `keys`: at most a quarter of the budget goes this way.
    pub fn floor(&self, keys: usize) -> f64 {
        FLOOR.min(self.budget.of(keys) / 4.0)
    }

    /// Notes a layer's draw from `keys` of each of its KV heads; the first layer's begins a step and steers by what the one
    /// before expected.
    pub fn steer(&mut self, layer: usize, expected: f64, keys: usize) {
        if layer == 0 && self.indexed > 0.0 {
            let spread = self.floor(keys) * self.indexed;
            let ratio = (self.budget.of(keys) * self.indexed - spread) / (self.expected - spread).max(1.0);
            self.gain = (self.gain * ratio.clamp(0.25, 4.0).powf(0.3)).clamp(1e-4, 1e4);
            (self.expected, self.indexed) = (0.0, 0.0);
        }
        self.expected += expected;
        self.indexed += (keys * self.layers[layer].heads.len()) as f64;
    }

    /// Indexes every layer up to its window.
    pub fn build(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        store: &RowStore,
        lengths: &[usize],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        let jobs: Vec<_> = self
            .layers
            .iter_mut()
            .enumerate()
            .flat_map(|(number, LayerSketch { plan, heads })| {
                let (plan, end) = (&*plan, lengths[number].saturating_sub(WINDOW));
                heads.iter_mut().enumerate().map(move |(head, index)| (number, head, plan, end, index))
            })
            .collect();
        let finished = pool.install(|| {
            jobs.into_par_iter().with_max_len(1).all(|(layer, head, plan, end, index)| {
                index.extend(kernels, plan, store, (layer, head), end);
                !cancel.load(Ordering::Relaxed)
            })
        });
        if finished { Ok(()) } else { Err(EngineError::Cancelled) }
    }

    /// Indexes the rows that have left the window of a step's layer, once they make a block.
    pub fn keep_up(&mut self, step: Step<'_>) {
        let LayerSketch { plan, heads } = &mut self.layers[step.layer];
        let end = step.tokens.saturating_sub(WINDOW);
        if end >= heads[0].end().max(SINKS) + BLOCK_KEYS {
            for (head, index) in heads.iter_mut().enumerate() {
                index.extend(step.kernels, plan, step.store, (step.layer, head), end);
            }
        }
    }

    pub fn truncate(&mut self, tokens: usize) {
        for LayerSketch { plan, heads } in &mut self.layers {
            heads.iter_mut().for_each(|head| head.truncate(plan, tokens));
        }
    }

    pub fn bytes(&self) -> u64 {
        let segments = self.layers.iter().flat_map(|layer| &layer.heads).flat_map(|head| &head.segments);
        segments.map(|segment| segment.bytes() as u64).sum()
    }

    /// Tokens that every layer has indexed.
    pub fn tokens(&self) -> usize {
        self.layers.iter().flat_map(|layer| &layer.heads).map(HeadSketch::end).min().unwrap_or(0)
    }
}

impl HeadSketch {
    /// Position after the last indexed row; 0 while nothing is.
    pub fn end(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT_ROWS;
        self.segments.last().map_or(0, |last| full + last.end())
    }

    fn extend(
        &mut self,
        kernels: Kernels,
        plan: &SketchPlan,
        store: &RowStore,
        (layer, head): (usize, usize),
        end: usize,
    ) {
        for segment in self.segments.len().saturating_sub(1)..end.div_ceil(SEGMENT_ROWS) {
            // A segment's last rows are a whole block: sinks take a few from the first one's beginning, which a later block's
            // rows must not share.
            let first = if segment == 0 { SINKS.next_multiple_of(BLOCK_KEYS) } else { 0 };
            let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
            let rows = store.rows(layer, head, segment);
            if segment == self.segments.len() {
                let own = end.saturating_sub(first) >= CENTRE_ROWS;
                let centre = match self.segments.last() {
                    Some(before) if !own => before.centre().to_vec(),
                    _ if own => mean_key(&rows[first * 2 * plan.dim()..end * 2 * plan.dim()], plan.dim()),
                    _ => return,
                };
                self.segments.push(SketchIndex::new(first, centre));
            }
            self.segments[segment].extend(kernels, plan, rows, end);
        }
    }

    fn truncate(&mut self, plan: &SketchPlan, tokens: usize) {
        if self.end() <= tokens {
            return;
        }
        self.segments.truncate(tokens.div_ceil(SEGMENT_ROWS));
        if let Some(last) = self.segments.len().checked_sub(1) {
            self.segments[last].truncate(plan, tokens - last * SEGMENT_ROWS);
        }
        // A first segment of few rows would keep a centre that it could not have had.
        if self.end() < CENTRE_ROWS {
            self.segments.clear();
        }
    }
}
