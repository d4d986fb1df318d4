//! The `sketch` index of a session: for each layer its rotation, for each KV head and segment its codes, and how many keys
//! a step draws.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_store::{Counts, SEGMENT_ROWS, StoreError};
use lsh_attn::kernels::Kernels;
use lsh_attn::mix::derive_seed;
use lsh_attn::rows::Rows;
use lsh_attn::sketch::{BLOCK_KEYS, SketchIndex, SketchPlan, ValueBlocks};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::EngineError;
use crate::config::{Attention, Budget, SINKS, Shape, WINDOW};
use crate::storage::{Centres, Codes, Storage, count_sketch};

mod steering;

/// Rows below which a segment's own mean is no good centre: it takes the one of the segment before, and the first segment
/// waits, its rows attended exactly.
const CENTRE_ROWS: usize = 512;

/// Least probability of every key: a key whose estimate is wrong then weighs at most so much more than it should.
const FLOOR: f64 = 5e-4;

/// Codes of every layer and KV head.
#[derive(Debug)]
pub(crate) struct SessionSketch {
    bits: u32,
    /// Whether values have codes too.
    residual: bool,
    budget: Budget,
    pub seed: u64,
    layers: Vec<LayerSketch>,
    /// lambda for each key of the budget: what a draw multiplies shares of the softmax with, the same for all layers and
    /// heads, and steered slowly so that the mean draw is the budget. Where an error is asked for, it is steered towards that.
    gain: f64,
    /// What steers it: keys that the running step is expected to draw, and those that it could; or a sum of errors, and of how many
    /// heads; or KV heads that drew again, and all.
    noted: f64,
    possible: f64,
    /// What steers the kinds of budget that are not in use: a gain means something else in each.
    aside: [[f64; 3]; 3],
    /// The layer that was noted last.
    last: Option<usize>,
    /// The error of each query head in the layer attended last, as its sample has it; none where no error is asked for.
    errors: Vec<f64>,
}

/// Rotation of a layer, and the segments of its KV heads.
#[derive(Debug)]
pub(crate) struct LayerSketch {
    pub plan: SketchPlan,
    pub heads: Vec<HeadSketch>,
}

/// The segments of one KV head, in order; all but the last are full. Their codes are in the store.
#[derive(Debug, Default)]
pub(crate) struct HeadSketch {
    pub segments: Vec<SketchIndex>,
}

impl SessionSketch {
    /// An empty one with codes of so many bits, of values too with `residual`.
    pub fn new(shape: Shape, (bits, residual): (u32, bool), budget: Budget, seed: u64) -> SessionSketch {
        let layer = |layer: usize| LayerSketch {
            plan: SketchPlan::new(shape.head_dim, bits, derive_seed(seed, layer as u64)),
            heads: (0..shape.kv_heads).map(|_| HeadSketch::default()).collect(),
        };
        // As though a third of every head's weight were on indexed keys.
        let gain = 3.0 / shape.group() as f64;
        SessionSketch {
            bits,
            residual,
            budget,
            seed,
            layers: (0..shape.layers).map(layer).collect(),
            gain,
            noted: 0.0,
            possible: 0.0,
            aside: [[gain, 0.0, 0.0]; 3],
            last: None,
            errors: Vec::new(),
        }
    }

    /// Without codes of layers that attend a window alone.
    pub fn without_local(mut self, attention: &Attention) -> SessionSketch {
        for (number, layer) in self.layers.iter_mut().enumerate() {
            if attention.is_local(number) {
                layer.heads.clear();
            }
        }
        self
    }

    /// Bits of a code element.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether values have codes too.
    pub fn residual(&self) -> bool {
        self.residual
    }

    pub fn set_budget(&mut self, budget: Budget) {
        let kind = |budget| match budget {
            Budget::Fraction(_) | Budget::ByLength | Budget::Rooted { .. } => 0,
            Budget::TargetError(_) => 1,
            Budget::Verified { .. } => 2,
        };
        let (before, after) = (kind(self.budget), kind(budget));
        if before != after {
            self.aside[before] = self.steering();
            self.set_steering(self.aside[after]);
        }
        self.budget = budget;
        self.errors.clear();
    }

    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The error of each query head in the layer attended last, relative to its output: what was predicted, or the end of its
    /// interval where steps are verified. None where the budget is a number of keys.
    pub fn errors(&self) -> &[f64] {
        &self.errors
    }

    pub fn set_errors(&mut self, errors: Vec<f64>) {
        self.errors = errors;
    }

    pub fn layer(&self, layer: usize) -> &LayerSketch {
        &self.layers[layer]
    }

    /// Least probability of every one of a head's `keys`: at most a quarter of the budget goes this way.
    pub fn floor(&self, keys: usize) -> f64 {
        FLOOR.min(self.budget.of(keys) / 4.0)
    }

    /// Notes that a layer draws, and whether a step begins with it. Layers draw in their order, so one that is not after the last
    /// begins another step: the first ones need not draw, be they dense or local.
    fn begins_step(&mut self, layer: usize) -> bool {
        let begins = self.last.is_none_or(|last| layer <= last);
        self.last = Some(layer);
        begins
    }

    /// Indexes every layer up to its window.
    pub fn build(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        storage: &mut Storage,
        lengths: &[usize],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        for layers in layer_groups(self.layers.len(), pool.current_num_threads()) {
            self.grow(kernels, pool, storage, layers, |layer| lengths[layer].saturating_sub(WINDOW))?;
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    /// Indexes the segments of a layer that its `tokens` tokens fill, as [`SessionSketch::build`] would: their centres are of the same rows.
    pub fn build_full(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        storage: &mut Storage,
        layer: usize,
        tokens: usize,
    ) -> Result<(), StoreError> {
        let end = tokens.saturating_sub(WINDOW) / SEGMENT_ROWS * SEGMENT_ROWS;
        if self.layers[layer].heads.first().is_none_or(|head| head.end() >= end) {
            return Ok(());
        }
        self.grow(kernels, pool, storage, layer..layer + 1, |_| end)
    }

    /// Indexes the rows of some layers up to the `end` of each.
    fn grow(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        storage: &mut Storage,
        layers: Range<usize>,
        end: impl Fn(usize) -> usize + Sync,
    ) -> Result<(), StoreError> {
        let jobs: Vec<_> = layers
            .flat_map(|layer| (0..self.layers[layer].heads.len()).map(move |head| (layer, head)))
            .collect();
        let rows = &*storage;
        let grown: Vec<_> = pool.install(|| {
            let grow = |&(layer, head): &(usize, usize)| {
                let LayerSketch { plan, heads } = &self.layers[layer];
                let rows = |segment| rows.rows(layer, head, segment);
                heads[head].grow(kernels, (plan, self.residual), rows, end(layer))
            };
            jobs.par_iter().with_max_len(1).map(grow).collect()
        });
        for ((layer, head), grown) in jobs.into_iter().zip(grown) {
            self.layers[layer].heads[head].take(storage, self.bits, (layer, head), grown)?;
        }
        Ok(())
    }

    /// Indexes the rows of a layer with `tokens` tokens that have left the window, once they make a block.
    pub fn keep_up(
        &mut self,
        kernels: Kernels,
        storage: &mut Storage,
        layer: usize,
        tokens: usize,
    ) -> Result<(), StoreError> {
        let LayerSketch { plan, heads } = &mut self.layers[layer];
        let end = tokens.saturating_sub(WINDOW);
        if end >= heads[0].end().max(SINKS) + BLOCK_KEYS {
            for (head, index) in heads.iter_mut().enumerate() {
                let grown = index.grow(
                    kernels,
                    (plan, self.residual),
                    |segment| storage.rows(layer, head, segment),
                    end,
                );
                index.take(storage, self.bits, (layer, head), grown)?;
            }
        }
        Ok(())
    }

    pub fn truncate(&mut self, tokens: usize) {
        self.layers.iter_mut().flat_map(|layer| &mut layer.heads).for_each(|head| head.truncate(tokens));
    }

    /// Notes what the store has of the index: of each segment the fewest or, with `most`, the most blocks that a KV head has.
    pub fn count(&self, counts: &mut Counts, most: bool) {
        let segments = |head: &HeadSketch| head.segments.len();
        for segment in 0..self.heads().map(segments).max().unwrap_or(0) {
            let blocks = self.heads().map(|head| head.segments.get(segment).map_or(0, SketchIndex::count));
            let blocks = if most { blocks.max() } else { blocks.min() };
            let everywhere = self.heads().all(|head| head.segments.len() > segment);
            if most || everywhere {
                count_sketch(counts, (self.bits, self.residual), segment, blocks.unwrap_or(0));
            }
        }
    }

    /// Takes up the index that the store has.
    pub fn restore(&mut self, storage: &Storage) {
        let bits = self.bits;
        for (number, LayerSketch { plan, heads }) in self.layers.iter_mut().enumerate() {
            for (head, index) in heads.iter_mut().enumerate() {
                let segment = |segment| {
                    let centre = storage.centre(Centres::Sketch, number, head, segment)?;
                    let count =
                        storage.codes(Codes::Keys, bits, (number, head, segment)).len() / plan.block_bytes();
                    Some(SketchIndex::with_blocks(first_row(segment), centre, count))
                };
                index.segments = (0..storage.store.segments()).map_while(segment).collect();
            }
        }
    }

    /// What steers the draws, for [`SessionSketch::set_steering`].
    pub fn steering(&self) -> [f64; 3] {
        [self.gain, self.noted, self.possible]
    }

    /// Goes on steering as another did.
    pub fn set_steering(&mut self, [gain, noted, possible]: [f64; 3]) {
        (self.gain, self.noted, self.possible) = (gain, noted, possible);
        // What was kept is of whole steps.
        self.last = None;
    }

    /// Bytes of a block's codes and factors, those of values included.
    pub fn block_bytes(&self, layer: usize) -> usize {
        let plan = &self.layers[layer].plan;
        plan.block_bytes() + if self.residual { plan.value_block_bytes() } else { 0 }
    }

    /// Bytes of codes, factors and centres.
    pub fn bytes(&self) -> u64 {
        let of = |(number, layer): (usize, &LayerSketch)| {
            let segment =
                |index: &SketchIndex| index.count() * self.block_bytes(number) + 4 * index.centre().len();
            layer.heads.iter().flat_map(|head| &head.segments).map(segment).sum::<usize>()
        };
        self.layers.iter().enumerate().map(of).sum::<usize>() as u64
    }

    fn heads(&self) -> impl Iterator<Item = &HeadSketch> {
        self.layers.iter().flat_map(|layer| &layer.heads)
    }

    /// Tokens that every layer has indexed.
    pub fn tokens(&self) -> usize {
        self.heads().map(HeadSketch::end).min().unwrap_or(0)
    }
}

impl HeadSketch {
    /// Position after the last indexed row; 0 while nothing is.
    pub fn end(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT_ROWS;
        self.segments.last().map_or(0, |last| full + last.end())
    }

    /// What indexing the rows up to `end` adds, which [`HeadSketch::take`] takes. `rows` are a segment's.
    fn grow<'a>(
        &self,
        kernels: Kernels,
        (plan, residual): (&SketchPlan, bool),
        rows: impl Fn(usize) -> Rows<'a>,
        end: usize,
    ) -> Vec<Growth> {
        let mut grown: Vec<Growth> = Vec::new();
        for segment in self.segments.len().saturating_sub(1)..end.div_ceil(SEGMENT_ROWS) {
            let first = first_row(segment);
            let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
            let rows = rows(segment);
            let mut index = match self.segments.get(segment) {
                Some(index) => index.clone(),
                None => {
                    let own = end.saturating_sub(first) >= CENTRE_ROWS;
                    let before = grown.last().map(|growth| &growth.index).or(self.segments.last());
                    let centre = match before {
                        Some(before) if !own => before.centre().to_vec(),
                        _ if own => rows.slice(first..end).mean_key(),
                        _ => break,
                    };
                    SketchIndex::new(first, centre)
                }
            };
            let (block, from) = (index.count(), index.end());
            let (mut codes, mut value_codes) = (Vec::new(), Vec::new());
            index.extend(kernels, plan, rows, end, &mut codes);
            if residual {
                ValueBlocks::encode(kernels, plan, rows.slice(from..index.end()), &mut value_codes);
            }
            grown.push(Growth { segment, index, block, codes, value_codes });
        }
        grown
    }

    /// Stores what was added. After an error the segments that could not be stored are as before.
    fn take(
        &mut self,
        storage: &mut Storage,
        bits: u32,
        (layer, head): (usize, usize),
        grown: Vec<Growth>,
    ) -> Result<(), StoreError> {
        for Growth { segment, index, block, codes, value_codes } in grown {
            let place = (layer, head, segment);
            storage.write_codes(Codes::Keys, bits, place, block, &codes)?;
            if !value_codes.is_empty() {
                storage.write_codes(Codes::Values, bits, place, block, &value_codes)?;
            }
            if segment < self.segments.len() {
                self.segments[segment] = index;
            } else {
                storage.write_centre(Centres::Sketch, place, index.centre())?;
                self.segments.push(index);
            }
        }
        Ok(())
    }

    /// Forgets rows that are in the window of a text of `tokens` tokens, or beyond it.
    fn truncate(&mut self, tokens: usize) {
        let end = tokens.saturating_sub(WINDOW);
        if self.end() <= end {
            return;
        }
        self.segments.truncate(end.div_ceil(SEGMENT_ROWS));
        if let Some(last) = self.segments.len().checked_sub(1) {
            self.segments[last].truncate(end - last * SEGMENT_ROWS);
        }
        // A first segment of few rows would keep a centre that it could not have had.
        if self.end() < CENTRE_ROWS {
            self.segments.clear();
        }
    }
}

/// Blocks that were added to a segment, and its index with them.
struct Growth {
    segment: usize,
    index: SketchIndex,
    /// Number of the first new block.
    block: usize,
    codes: Vec<u8>,
    /// None without residual correction.
    value_codes: Vec<u8>,
}

/// The first row of a segment that has a code. A segment's last rows are a whole block: sinks take a few from the first
/// one's beginning, which a later block's rows must not share.
fn first_row(segment: usize) -> usize {
    if segment == 0 { SINKS.next_multiple_of(BLOCK_KEYS) } else { 0 }
}

/// Layers that are indexed together: enough for all threads, and no more, since their codes wait in memory to be stored.
fn layer_groups(layers: usize, threads: usize) -> impl Iterator<Item = Range<usize>> {
    (0..layers).step_by(threads).map(move |first| first..layers.min(first + threads))
}
