//! The `lsh` index of a session: for each layer its hash functions, for each KV head and segment its tables.

use std::sync::atomic::{AtomicBool, Ordering};

use kv_store::{Counts, SEGMENT_ROWS, StoreError};
use lsh_attn::hash::HashPlan;
use lsh_attn::inclusion::InclusionTable;
use lsh_attn::kernels::Kernels;
use lsh_attn::mix::derive_seed;
use lsh_attn::segment_index::{SegmentIndex, SegmentView};
use rayon::ThreadPool;
use rayon::prelude::*;
use team::Team;

use crate::EngineError;
use crate::config::{Attention, SINKS, Shape, WINDOW};
use crate::decode::Step;
use crate::storage::{Centres, Storage, count_lsh, count_tables};

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
    pub segments: Vec<Segment>,
}

/// Where the tables of a segment are.
#[derive(Debug)]
pub(crate) enum Segment {
    /// In memory, where they grow.
    Growing(SegmentIndex),
    /// In the store, once the segment is full; its centre and first row are here.
    Stored { first: usize, centre: Vec<f32> },
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

    /// Without tables of layers that attend a window alone.
    pub fn without_local(mut self, attention: &Attention) -> LshIndex {
        for (number, layer) in self.layers.iter_mut().enumerate() {
            if attention.is_local(number) {
                layer.heads.clear();
            }
        }
        self
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

    /// Stores the centres of segments that are new, without which tables could not be made again, and the tables of those
    /// that are full, which are read from there from then on.
    pub fn store(&mut self, storage: &mut Storage) -> Result<(), StoreError> {
        for (layer, LayerIndex { heads, .. }) in self.layers.iter_mut().enumerate() {
            for (head, index) in heads.iter_mut().enumerate() {
                for (number, segment) in index.segments.iter_mut().enumerate() {
                    let Segment::Growing(tables) = segment else { continue };
                    let place = (layer, head, number);
                    if storage.centre(Centres::Lsh, layer, head, number).is_none() {
                        storage.write_centre(Centres::Lsh, place, tables.centre())?;
                    }
                    if tables.end() == SEGMENT_ROWS {
                        storage.write_tables(place, tables)?;
                        let (first, centre) = (tables.first(), tables.centre().to_vec());
                        if storage.tables(place, first, &centre).is_some() {
                            *segment = Segment::Stored { first, centre };
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes what the store has of the index: of each segment what every KV head has or, with `most`, what any has.
    pub fn count(&self, counts: &mut Counts, most: bool) {
        let heads = || self.layers.iter().flat_map(|layer| &layer.heads);
        for segment in 0..heads().map(|head| head.segments.len()).min().unwrap_or(0) {
            count_lsh(counts, segment);
        }
        let stored = |head: &HeadIndex| {
            head.segments.iter().take_while(|segment| matches!(segment, Segment::Stored { .. })).count()
        };
        let stored = heads().map(stored);
        let stored = if most { stored.max() } else { stored.min() };
        for segment in 0..stored.unwrap_or(0) {
            count_tables(counts, segment, self.l, SEGMENT_ROWS - first_row(segment));
        }
    }

    /// Where each layer's tables end.
    pub fn ends(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.heads.first().map_or(0, HeadIndex::end)).collect()
    }

    /// Takes up the tables that the store has, and makes those of segments that are not full again, up to `ends`, around the
    /// centres that the store has.
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
                    let (first, centre) =
                        (first_row(segment), storage.centre(Centres::Lsh, layer, head, segment)?);
                    if storage.tables((layer, head, segment), first, &centre).is_some() {
                        return Some(Segment::Stored { first, centre });
                    }
                    let mut tables = SegmentIndex::around(first, centre);
                    let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
                    tables.extend(kernels, plan, storage.rows(layer, head, segment), end);
                    Some(Segment::Growing(tables))
                };
                index.segments = (0..end.div_ceil(SEGMENT_ROWS)).map_while(segment).collect();
            });
        });
    }

    pub fn bytes(&self) -> u64 {
        let segments = self.layers.iter().flat_map(|layer| {
            let segments = layer.heads.iter().flat_map(|head| &head.segments);
            segments.map(|segment| segment.bytes(&layer.plan) as u64)
        });
        segments.sum()
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

impl Segment {
    /// What sampling needs. `place` is the segment's own.
    pub fn view<'a>(&'a self, storage: &'a Storage, place: (usize, usize, usize)) -> SegmentView<'a> {
        match self {
            Segment::Growing(index) => index.view(),
            Segment::Stored { first, centre } => storage
                .tables(place, *first, centre)
                .expect("it was stored, and is dropped before what is stored is"),
        }
    }

    /// Position within the segment after the last indexed row.
    fn end(&self) -> usize {
        match self {
            Segment::Growing(index) => index.end(),
            Segment::Stored { .. } => SEGMENT_ROWS,
        }
    }

    /// Bytes of tables, norms and centre.
    fn bytes(&self, plan: &HashPlan) -> usize {
        match self {
            Segment::Growing(index) => index.bytes(),
            Segment::Stored { first, centre } => {
                let (rows, offsets) = (SEGMENT_ROWS - first, plan.buckets() + 1);
                2 * plan.tables() * (rows + offsets) + 2 * rows + 4 * centre.len()
            }
        }
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
                self.segments.push(Segment::Growing(SegmentIndex::new(first)));
            }
            if let Segment::Growing(index) = &mut self.segments[segment] {
                index.extend(kernels, plan, storage.rows(layer, head, segment), end);
            }
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
