//! The `lsh` index of a session: for each layer its hash functions, for each KV head and segment its tables.

use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use kv_store::{Counts, SEGMENT_ROWS, StoreError};
use lsh_attn::hash::HashPlan;
use lsh_attn::inclusion::InclusionTable;
use lsh_attn::kernels::Kernels;
use lsh_attn::mix::derive_seed;
use lsh_attn::segment_index::{SegmentIndex, SegmentView};
use lsh_attn::stored_runs::{StoredRuns, encode};
use rayon::ThreadPool;
use rayon::prelude::*;
use team::Team;

use crate::EngineError;
use crate::config::{Attention, SINKS, Shape, WINDOW};
use crate::decode::Step;
use crate::storage::{Centres, Storage, count_lsh, count_runs};

/// Rows that gather behind the window, attended exactly, before they are indexed together: hashing works on
/// 16 keys at once, and a run of tables should not be tiny.
pub(crate) const FLUSH_ROWS: usize = 256;

/// Rows whose tables are stored together, or as many as a table has buckets. Opening hashes fewer, whatever the length.
const STORED_ROWS: usize = 1024;

/// Stored runs of a segment; one more, and they are stored as one. Each is asked for every table's bucket.
pub(crate) const MOST_RUNS: usize = 5;

/// Regions whose runs are put together at once, before they are written one after the other.
const BATCH: usize = 16;

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
    /// Those of the last rows in memory, where they grow, the others in the store.
    Growing(SegmentIndex, StoredRows),
    /// In the store as one run, once all regions of the segment are full; its centre and first row are here.
    Stored { first: usize, centre: Vec<f32>, stored: StoredRows },
}

/// The runs of a segment that are stored: how many rows each has, and how many it has room for. The latter is the most that
/// any layer has, since layers are indexed up to different rows, and the store's columns have equally many elements in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredRows {
    rows: Vec<usize>,
    rooms: Vec<usize>,
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

    /// Forgets every segment that reaches beyond `tokens`. Layers which keep one that others forget take its tables back into
    /// memory, as the store has runs of all or of none.
    pub fn truncate(&mut self, pool: &ThreadPool, storage: &Storage, tokens: usize) {
        self.layers.iter_mut().flat_map(|layer| &mut layer.heads).for_each(|head| head.truncate(tokens));
        let segments = || self.heads().map(|head| head.segments.len());
        for segment in segments().min().unwrap_or(0)..segments().max().unwrap_or(0) {
            self.gather(pool, storage, segment);
        }
    }

    /// Stores the centres of segments that are new, without which tables could not be made again, and tables: those of rows
    /// that have become many, and all of a full segment as one run. They are read from there from then on.
    pub fn store(&mut self, pool: &ThreadPool, storage: &mut Storage) -> Result<(), StoreError> {
        let segments = self.heads().map(|head| head.segments.len()).min().unwrap_or(0);
        // A build that was cancelled leaves heads of a layer at different rows, until the next one.
        let even = |heads: &[HeadIndex]| heads.iter().all(|head| head.end() == heads[0].end());
        let even = self.layers.iter().all(|layer| even(&layer.heads));
        for segment in self.first_growing()..segments {
            self.store_centres(storage, segment)?;
            let unstored = self.growing(segment).map(|(_, index, _)| index.rows_here()).max().unwrap_or(0);
            let full = self.growing(segment).all(|(_, index, _)| index.end() == SEGMENT_ROWS);
            let uniform = self.growing(segment).is_sorted_by(|(.., a), (.., b)| a.rooms == b.rooms);
            let many = STORED_ROWS.max(1 << self.k);
            if !even || storage.run_groups(0).is_none() || !full && uniform && unstored < many {
                continue;
            }
            let rooms = self.growing(segment).next().map_or(&[][..], |(.., stored)| &stored.rooms);
            let groups = |rooms: &[usize]| rooms.iter().filter_map(|&room| storage.run_groups(room)).sum();
            let (mut at, more): (usize, usize) = (groups(rooms), groups(&[unstored]));
            if full || !uniform || rooms.len() == MOST_RUNS || at + more > storage.most_groups() {
                self.gather(pool, storage, segment);
                storage.drop_runs(segment)?;
                at = 0;
            }
            self.store_run(pool, storage, segment, at)?;
            if full {
                self.layers.iter_mut().flat_map(|layer| &mut layer.heads).for_each(|head| head.seal(segment));
            }
        }
        Ok(())
    }

    fn store_centres(&self, storage: &mut Storage, segment: usize) -> Result<(), StoreError> {
        for ((layer, head), index, _) in self.growing(segment) {
            if storage.centre(Centres::Lsh, layer, head, segment).is_none() {
                storage.write_centre(Centres::Lsh, (layer, head, segment), index.centre())?;
            }
        }
        Ok(())
    }

    /// Takes the stored tables of a segment back into memory.
    fn gather(&mut self, pool: &ThreadPool, storage: &Storage, segment: usize) {
        pool.install(|| {
            self.growing_mut(segment).into_par_iter().with_max_len(1).for_each(
                |((layer, head), index, stored)| {
                    index.gather(stored.runs(storage, (layer, head, segment)));
                    *stored = StoredRows::default();
                },
            );
        });
    }

    /// Stores the tables in memory of each region of a segment as a run from group `at` on.
    fn store_run(
        &mut self,
        pool: &ThreadPool,
        storage: &mut Storage,
        segment: usize,
        at: usize,
    ) -> Result<(), StoreError> {
        let (k, l) = self.parameters();
        let room = self.growing(segment).map(|(_, index, _)| index.rows_here()).max().unwrap_or(0);
        for batch in self.growing_mut(segment).chunks_mut(BATCH) {
            let runs: Vec<Vec<u16>> = pool.install(|| {
                let runs = batch.par_iter_mut().with_max_len(1).map(|(_, index, _)| {
                    index.gather(StoredRuns::NONE);
                    encode(k, l, index.run(), index.norms_here(), room)
                });
                runs.collect()
            });
            for (((layer, head), index, stored), run) in batch.iter_mut().zip(runs) {
                storage.write_run((*layer, *head, segment), at, &run)?;
                stored.rows.push(index.rows_here());
                stored.rooms.push(room);
                index.release();
            }
        }
        Ok(())
    }

    /// The first segment that is not stored in one run; all regions have as many that are.
    fn first_growing(&self) -> usize {
        let stored = |segment: &&Segment| matches!(segment, Segment::Stored { .. });
        self.heads().next().map_or(0, |head| head.segments.iter().take_while(stored).count())
    }

    fn heads(&self) -> impl Iterator<Item = &HeadIndex> {
        self.layers.iter().flat_map(|layer| &layer.heads)
    }

    /// What grows of a segment, in all regions that have it: layer and head, index, and what of it is stored.
    fn growing(&self, segment: usize) -> impl Iterator<Item = ((usize, usize), &SegmentIndex, &StoredRows)> {
        let heads = self.layers.iter().enumerate().flat_map(|(layer, LayerIndex { heads, .. })| {
            heads.iter().enumerate().map(move |(head, index)| ((layer, head), index))
        });
        heads.filter_map(move |(place, head)| match head.segments.get(segment) {
            Some(Segment::Growing(index, stored)) => Some((place, index, stored)),
            _ => None,
        })
    }

    fn growing_mut(&mut self, segment: usize) -> Vec<((usize, usize), &mut SegmentIndex, &mut StoredRows)> {
        let heads = self.layers.iter_mut().enumerate().flat_map(|(layer, LayerIndex { heads, .. })| {
            heads.iter_mut().enumerate().map(move |(head, index)| ((layer, head), index))
        });
        let growing = heads.filter_map(|(place, head)| match head.segments.get_mut(segment) {
            Some(Segment::Growing(index, stored)) => Some((place, index, stored)),
            _ => None,
        });
        growing.collect()
    }

    /// Notes what the store has of the index: of each segment what every KV head has or, with `most`, what any has.
    pub fn count(&self, storage: &Storage, counts: &mut Counts, most: bool) {
        for segment in 0..self.heads().map(|head| head.segments.len()).min().unwrap_or(0) {
            count_lsh(counts, segment);
            let groups = |head: &HeadIndex| -> usize {
                let rooms = &head.segments[segment].stored().rooms;
                rooms.iter().filter_map(|&room| storage.run_groups(room)).sum()
            };
            let groups = self.heads().map(groups);
            let groups = if most { groups.max() } else { groups.min() };
            count_runs(counts, segment, groups.unwrap_or(0));
        }
    }

    /// Of each segment with stored runs that grows, its number and how many rows each layer has in each of them.
    pub fn stored_rows(&self) -> Vec<(usize, Vec<usize>)> {
        let segments = self.heads().map(|head| head.segments.len()).min().unwrap_or(0);
        let mut stored = Vec::new();
        for segment in self.first_growing()..segments {
            let layer = |layer: &LayerIndex| {
                layer
                    .heads
                    .first()
                    .map(|head| head.segments[segment].stored().rows.clone())
                    .unwrap_or_default()
            };
            let rows: Vec<Vec<usize>> = self.layers.iter().map(layer).collect();
            for run in 0..rows.iter().map(Vec::len).max().unwrap_or(0) {
                let of_layers = rows.iter().map(|rows| rows.get(run).copied().unwrap_or(0));
                stored.push((segment, of_layers.collect()));
            }
        }
        stored
    }

    /// Where each layer's tables end.
    pub fn ends(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.heads.first().map_or(0, HeadIndex::end)).collect()
    }

    /// Takes up the tables that the store has, with `stored` as [`LshIndex::stored_rows`] said, and makes those of later rows
    /// again, up to `ends`, around the centres that the store has. False if the store has other tables.
    pub fn restore(
        &mut self,
        kernels: Kernels,
        pool: &ThreadPool,
        storage: &Storage,
        ends: &[usize],
        stored: &[(usize, Vec<usize>)],
    ) -> bool {
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
            jobs.into_par_iter().with_max_len(1).all(|(layer, head, plan, end, index)| {
                for segment in 0..end.div_ceil(SEGMENT_ROWS) {
                    let place = (layer, head, segment);
                    let first = first_row(segment);
                    let Some(centre) = storage.centre(Centres::Lsh, layer, head, segment) else { break };
                    let end = (end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS);
                    let runs = stored.iter().filter(|(number, _)| *number == segment);
                    let runs = StoredRows::of_layer(layer, runs.map(|(_, rows)| rows.as_slice()));
                    let room = [SEGMENT_ROWS - first];
                    if runs.rows.is_empty() && storage.runs(place, &room).is_some() {
                        let stored = StoredRows { rows: room.to_vec(), rooms: room.to_vec() };
                        index.segments.push(Segment::Stored { first, centre, stored });
                        continue;
                    }
                    let Some(stored) = storage.runs(place, &runs.rooms) else { return false };
                    let norms = stored.iter().zip(&runs.rows).flat_map(|((_, norms), &rows)| &norms[..rows]);
                    let norms: Vec<f16> = norms.copied().collect();
                    if first + norms.len() > end {
                        return false;
                    }
                    let mut tables = SegmentIndex::resumed(first, centre, norms);
                    tables.extend(kernels, plan, storage.rows(layer, head, segment), end);
                    index.segments.push(Segment::Growing(tables, runs));
                }
                true
            })
        })
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

impl StoredRows {
    /// Of one layer, from the rows of all layers in each run.
    fn of_layer<'a>(layer: usize, runs: impl Iterator<Item = &'a [usize]>) -> StoredRows {
        let (rows, rooms) = runs.map(|rows| (rows[layer], rows.iter().copied().max().unwrap_or(0))).unzip();
        StoredRows { rows, rooms }
    }

    /// The runs of the segment `place`.
    fn runs<'a>(&'a self, storage: &'a Storage, place: (usize, usize, usize)) -> StoredRuns<'a> {
        storage.runs(place, &self.rooms).expect("they were stored, and are dropped before what is stored is")
    }
}

impl Segment {
    /// What sampling needs. `place` is the segment's own.
    pub fn view<'a>(&'a self, storage: &'a Storage, place: (usize, usize, usize)) -> SegmentView<'a> {
        match self {
            Segment::Growing(index, stored) => index.view(stored.runs(storage, place)),
            Segment::Stored { first, centre, stored } => {
                SegmentView::stored(*first, centre, stored.runs(storage, place))
            }
        }
    }

    /// Position within the segment after the last indexed row.
    fn end(&self) -> usize {
        match self {
            Segment::Growing(index, _) => index.end(),
            Segment::Stored { .. } => SEGMENT_ROWS,
        }
    }

    /// What is stored of its tables.
    fn stored(&self) -> &StoredRows {
        match self {
            Segment::Growing(_, stored) | Segment::Stored { stored, .. } => stored,
        }
    }

    /// Bytes of tables, norms and centre, wherever they are.
    fn bytes(&self, plan: &HashPlan) -> usize {
        let tables = |rows: usize| 2 * plan.tables() * (rows + plan.buckets() + 1);
        let stored: usize = self.stored().rows.iter().map(|&rows| tables(rows)).sum();
        match self {
            Segment::Growing(index, _) => index.bytes() + stored,
            Segment::Stored { first, centre, .. } => stored + 2 * (SEGMENT_ROWS - first) + 4 * centre.len(),
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
                self.segments.push(Segment::Growing(SegmentIndex::new(first), StoredRows::default()));
            }
            if let Segment::Growing(index, _) = &mut self.segments[segment] {
                index.extend(kernels, plan, storage.rows(layer, head, segment), end);
            }
        }
    }

    /// Takes note that a full segment is stored in one run.
    fn seal(&mut self, segment: usize) {
        if let Some(Segment::Growing(index, stored)) = self.segments.get(segment) {
            let (first, centre) = (index.first(), index.centre().to_vec());
            self.segments[segment] = Segment::Stored { first, centre, stored: stored.clone() };
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
