//! The `lsh` index of a session: for each layer its hash functions, for each KV head and segment its tables.

use std::sync::atomic::{AtomicBool, Ordering};

use kv_store::{Counts, SEGMENT_ROWS, StoreError};
use lsh_attn::hash::HashPlan;
use lsh_attn::inclusion::InclusionTable;
use lsh_attn::kernels::Kernels;
use lsh_attn::mix::derive_seed;
use lsh_attn::segment_index::SegmentIndex;
use rayon::ThreadPool;
use rayon::prelude::*;
use team::Team;

use crate::EngineError;
use crate::config::{SINKS, Shape, WINDOW};
use crate::decode::Step;
use crate::storage::{Centres, Storage, count_lsh};

/// Rows that gather behind the window, attended exactly, before they are indexed together: hashing works on
/// 16 keys at once, and a run of tables should not be tiny.
const FLUSH_ROWS: usize = 256;

/// Tables of every layer and KV head.
#[derive(Debug)]
pub(crate) struct LshIndex {
    k: usize,
    l: usize,
    pub inclusion: InclusionTable,
    layers: Vec<LayerIndex>,
}

/// Hash functions of a layer, and the segments of its KV heads.
#[derive(Debug)]
pub(crate) struct LayerIndex {
    pub plan: HashPlan,
    heads: Vec<HeadIndex>,
    /// Rows beyond the window that a build leaves to the next flush. It differs from layer to layer, so that
    /// a step rarely has to flush more than one.
    slack: usize,
}

/// The segments of one KV head, in order; all but the last are full.
#[derive(Debug, Default)]
pub(crate) struct HeadIndex {
    pub segments: Vec<SegmentIndex>,
}

impl LshIndex {
    pub fn new(shape: Shape, k: usize, l: usize, seed: u64) -> LshIndex {
        let layer = |layer: usize| LayerIndex {
            plan: HashPlan::new(shape.head_dim, k, l, derive_seed(seed, layer as u64)),
            heads: (0..shape.kv_heads).map(|_| HeadIndex::default()).collect(),
            slack: layer * FLUSH_ROWS / shape.layers,
        };
        LshIndex {
            k,
            l,
            inclusion: InclusionTable::new(k, l),
            layers: (0..shape.layers).map(layer).collect(),
        }
    }

    /// Bits a table, and tables.
    pub fn parameters(&self) -> (usize, usize) {
        (self.k, self.l)
    }

    pub fn layer(&self, layer: usize) -> &LayerIndex {
        &self.layers[layer]
    }

    /// Indexes every layer up to its window and slack.
    pub fn build(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        storage: &Storage,
        lengths: &[usize],
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        let jobs: Vec<_> = self
            .layers
            .iter_mut()
            .enumerate()
            .flat_map(|(number, LayerIndex { plan, heads, slack })| {
                let (plan, end) = (&*plan, lengths[number].saturating_sub(WINDOW + *slack));
                heads.iter_mut().enumerate().map(move |(head, index)| (number, head, plan, end, index))
            })
            .collect();
        let finished = pool.install(|| {
            jobs.into_par_iter().with_max_len(1).all(|(layer, head, plan, end, index)| {
                index.extend(kernels, plan, storage, (layer, head), end);
                !cancel.load(Ordering::Relaxed)
            })
        });
        if finished { Ok(()) } else { Err(EngineError::Cancelled) }
    }

    /// Indexes the rows that have gathered behind the window of a step's layer, once there are enough.
    pub fn keep_up(&mut self, team: &Team<'_>, step: Step<'_>) {
        let LayerIndex { plan, heads, .. } = &mut self.layers[step.layer];
        let end = step.tokens.saturating_sub(WINDOW);
        if end >= heads[0].end().max(SINKS) + FLUSH_ROWS {
            let mut jobs: Vec<_> = heads.iter_mut().enumerate().collect();
            team.each_mut(&mut jobs, |(head, index)| {
                index.extend(step.kernels, plan, step.storage, (step.layer, *head), end);
            });
        }
    }

    pub fn truncate(&mut self, tokens: usize) {
        self.layers.iter_mut().flat_map(|layer| &mut layer.heads).for_each(|head| head.truncate(tokens));
    }

    /// Stores the centres of segments that are new: what the tables cannot be made again without.
    pub fn store_centres(&self, storage: &mut Storage) -> Result<(), StoreError> {
        for (layer, LayerIndex { heads, .. }) in self.layers.iter().enumerate() {
            for (head, index) in heads.iter().enumerate() {
                for (segment, tables) in index.segments.iter().enumerate() {
                    if storage.centre(Centres::Lsh, layer, head, segment).is_none() {
                        storage.write_centre(Centres::Lsh, (layer, head, segment), tables.centre())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes which centres the store may have.
    pub fn count(&self, counts: &mut Counts) {
        let heads = self.layers.iter().flat_map(|layer| &layer.heads);
        for segment in 0..heads.map(|head| head.segments.len()).min().unwrap_or(0) {
            count_lsh(counts, segment);
        }
    }

    /// Where each layer's tables end.
    pub fn ends(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.heads[0].end()).collect()
    }

    /// Makes tables again, up to `ends`, around the centres that the store has.
    pub fn restore(&mut self, kernels: Kernels, pool: &ThreadPool, storage: &Storage, ends: &[usize]) {
        let jobs: Vec<_> = self
            .layers
            .iter_mut()
            .zip(ends)
            .enumerate()
            .flat_map(|(number, (LayerIndex { plan, heads, .. }, &end))| {
                let plan = &*plan;
                heads.iter_mut().enumerate().map(move |(head, index)| (number, head, plan, end, index))
            })
            .collect();
        pool.install(|| {
            jobs.into_par_iter().with_max_len(1).for_each(|(layer, head, plan, end, index)| {
                let segment = |segment| {
                    let centre = storage.centre(Centres::Lsh, layer, head, segment)?;
                    let mut tables = SegmentIndex::around(first_row(segment), centre);
                    let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
                    tables.extend(kernels, plan, storage.rows(layer, head, segment), end);
                    Some(tables)
                };
                index.segments = (0..end.div_ceil(SEGMENT_ROWS)).map_while(segment).collect();
            });
        });
    }

    pub fn bytes(&self) -> u64 {
        let segments = self.layers.iter().flat_map(|layer| &layer.heads).flat_map(|head| &head.segments);
        segments.map(|segment| segment.bytes() as u64).sum()
    }

    /// Tokens that every layer has indexed.
    pub fn tokens(&self) -> usize {
        self.layers.iter().flat_map(|layer| &layer.heads).map(HeadIndex::end).min().unwrap_or(0)
    }
}

impl LayerIndex {
    pub fn head(&self, head: usize) -> &HeadIndex {
        &self.heads[head]
    }
}

impl HeadIndex {
    /// Position after the last indexed row; 0 while nothing is.
    pub fn end(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT_ROWS;
        self.segments.last().map_or(0, |last| full + last.end())
    }

    fn extend(
        &mut self,
        kernels: Kernels,
        plan: &HashPlan,
        storage: &Storage,
        (layer, head): (usize, usize),
        end: usize,
    ) {
        for segment in self.segments.len().saturating_sub(1)..end.div_ceil(SEGMENT_ROWS) {
            let first = first_row(segment);
            let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
            if end <= first {
                return;
            }
            if segment == self.segments.len() {
                self.segments.push(SegmentIndex::new(first));
            }
            self.segments[segment].extend(kernels, plan, storage.rows(layer, head, segment), end);
        }
    }

    /// Forgets every segment that reaches beyond `tokens`; the next build or step indexes its rows again.
    fn truncate(&mut self, tokens: usize) {
        if self.end() > tokens {
            self.segments.truncate(tokens / SEGMENT_ROWS);
        }
    }
}

/// The first row of a segment that is in its tables.
fn first_row(segment: usize) -> usize {
    if segment == 0 { SINKS } else { 0 }
}
