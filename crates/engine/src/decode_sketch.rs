//! A step under the `sketch` policy: the static set, a scan of all codes, and the rows that are drawn.

use std::cell::RefCell;
use std::ops::Range;
use std::time::{Duration, Instant};

use kv_store::SEGMENT_ROWS;
use lsh_attn::kernels::prefetch;
use lsh_attn::mix::{derive_seed, mix64};
use lsh_attn::sketch::{BLOCK_KEYS, Draw, QueryCodes, Residual, SketchIndex, ValueBlocks, attend_drawn};
use lsh_attn::soft_cap::before_soft_cap;
use lsh_attn::softmax::Partial;
use team::Team;

use crate::config::{Budget, SINKS};
use crate::decode::{RowsRead, Step, attend_rows, scaled, stored};
use crate::decode_verified::Assessed;
use crate::sketch::{HeadSketch, LayerSketch, SessionSketch};
use crate::storage::Codes;

/// Blocks that one task scans and draws from: 8,192 keys. It does not depend on the number of threads, so neither does the
/// sample.
const TASK_BLOCKS: usize = 512;

/// Blocks of it that are scanned at a time: the last pieces of a layer end at about the same time on all of many threads.
const SCAN_BLOCKS: usize = 256;

#[derive(Default)]
struct Scratch {
    ids: Vec<u16>,
    ln_pi: Vec<f32>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Weights of a step's keys, for the thread that leads: as large as they were last, so that nothing clears them first.
    static WEIGHTS: RefCell<Vec<u16>> = RefCell::default();
}

/// Consecutive blocks of a segment.
pub(crate) struct Task {
    pub kv_head: usize,
    pub segment: usize,
    pub blocks: Range<usize>,
}

/// What a task drew and attended.
pub(crate) struct Drawn {
    /// All queries of the KV head.
    pub partial: Partial,
    /// What codes of values add, where there are any.
    pub residual: Option<Residual>,
    pub count: usize,
    /// How many keys were expected.
    pub expected: f64,
    pub drawing: Duration,
    /// Ids and ln pi, where the step's error is to be estimated from them.
    pub keys: (Vec<u16>, Vec<f32>),
}

impl Task {
    /// The codes of the task's blocks.
    fn codes<'a>(&self, step: Step<'a>, layer: &LayerSketch) -> &'a [u8] {
        let bytes = layer.plan.block_bytes();
        let codes =
            step.storage.codes(Codes::Keys, layer.plan.bits(), (step.layer, self.kv_head, self.segment));
        &codes[self.blocks.start * bytes..self.blocks.end * bytes]
    }

    /// The codes of its values.
    fn values<'a>(&self, step: Step<'a>, layer: &LayerSketch) -> ValueBlocks<'a> {
        let bytes = layer.plan.value_block_bytes();
        let codes =
            step.storage.codes(Codes::Values, layer.plan.bits(), (step.layer, self.kv_head, self.segment));
        ValueBlocks(&codes[self.blocks.start * bytes..self.blocks.end * bytes])
    }

    pub fn index<'a>(&self, layer: &'a LayerSketch) -> &'a SketchIndex {
        &layer.heads[self.kv_head].segments[self.segment]
    }
}

pub(crate) fn sketched(
    team: &Team<'_>,
    step: Step<'_>,
    sketch: &mut SessionSketch,
    q: &[f32],
    out: &mut [f32],
) -> RowsRead {
    let layer = sketch.layer(step.layer);
    let (group, d) = (step.shape.group(), step.shape.head_dim);
    let q = scaled(step.shape, q);
    let started = Instant::now();
    let mut codes = QueryCodes::default();
    codes.encode(step.kernels, &layer.plan, &q);
    let mut read = RowsRead { hash: started.elapsed(), ..RowsRead::default() };
    let tasks = tasks(layer);
    // Estimates are relative to the newest key's weight, so that they need not wait for the static set.
    let newest: Vec<Vec<f32>> = (0..step.shape.kv_heads).map(|kv_head| step.newest_key(kv_head)).collect();
    let references: Vec<f32> =
        (0..step.shape.heads).map(|head| dot(&q[head * d..][..d], &newest[head / group])).collect();
    let kv_heads = step.shape.kv_heads;
    let all_keys: usize = tasks.iter().map(|task| task.blocks.len() * BLOCK_KEYS).sum();
    let keys = all_keys / kv_heads;
    let started = Instant::now();
    let mut buffer = WEIGHTS.take();
    buffer.resize(all_keys * group, 0);
    let mut first: Vec<First<'_>> = Vec::new();
    let block_weights = group * BLOCK_KEYS;
    let mut rest = buffer.as_mut_slice();
    for kv_head in 0..kv_heads {
        for (number, task) in tasks.iter().enumerate().filter(|(_, task)| task.kv_head == kv_head) {
            // What values' codes add is summed up over a task.
            let piece = if sketch.residual() { TASK_BLOCKS } else { SCAN_BLOCKS };
            for from in (0..task.blocks.len()).step_by(piece) {
                let blocks = from..task.blocks.len().min(from + piece);
                let weights =
                    rest.split_off_mut(..blocks.len() * block_weights).expect("a place for each key");
                first.push(First::Scan(Scan {
                    task: number,
                    blocks,
                    last: false,
                    weights,
                    totals: vec![0.0; group],
                    residual: None,
                }));
            }
        }
        if let Some(First::Scan(scan)) = first.last_mut() {
            scan.last = true;
        }
        first.push(First::Static { kv_head, attended: None });
    }
    team.each_mut(&mut first, |part| match part {
        First::Static { kv_head, attended } => {
            *attended = Some(attend_static(step, &layer.heads[*kv_head], *kv_head, &q));
        }
        First::Scan(Scan { task, blocks, last, weights, totals, residual }) => {
            let task = &tasks[*task];
            if *last {
                // A short walk, over before any prefetcher has seen it: it comes while codes are scanned.
                for rows in static_rows(step, &layer.heads[task.kv_head]) {
                    stored(step, task.kv_head, rows).for_each(prefetch::rows);
                }
            }
            let heads = task.kv_head * group..(task.kv_head + 1) * group;
            let centre = task.index(layer).centre();
            let relative = |head: usize| dot(&q[head * d..][..d], centre) - references[head];
            let offsets: Vec<f32> =
                heads.clone().map(|head| relative(head) * std::f32::consts::LOG2_E).collect();
            let queries = codes.queries(heads.start, &offsets);
            let (bits, padded_dim) = (layer.plan.bits(), layer.plan.padded_dim());
            let bytes = layer.plan.block_bytes();
            let codes = &task.codes(step, layer)[blocks.start * bytes..blocks.end * bytes];
            step.kernels.sketch_weights(bits, padded_dim, codes, queries, weights, totals);
            if sketch.residual() {
                let values = task.values(step, layer);
                let residual = residual.insert(Residual::new(&layer.plan, group));
                residual.add(step.kernels, &layer.plan, values, weights, totals);
            }
        }
    });
    read.retrieve += started.elapsed() * team.threads() as u32;
    let mut weight = vec![0.0; step.shape.heads];
    let mut fixed_weight = vec![0.0; step.shape.heads];
    let mut indexed = vec![0.0; step.shape.heads];
    let mut fixed: Vec<Partial> = Vec::with_capacity(kv_heads);
    let mut residuals: Vec<Option<Residual>> = vec![None; tasks.len()];
    for part in first {
        match part {
            First::Static { kv_head, attended } => {
                let (partial, rows) = attended.expect("the region is over");
                read.fixed += (rows * group) as u64;
                for query in 0..group {
                    let head = kv_head * group + query;
                    // Estimates are of scores as they were before a cap.
                    let before = |cap| before_soft_cap(cap, partial.max(query));
                    let max = step.score_cap.map_or(partial.max(query), before);
                    let relative = f64::from(max - references[head]);
                    fixed_weight[head] = f64::from(partial.den(query)) * relative.exp();
                    weight[head] += fixed_weight[head];
                }
                fixed.push(partial);
            }
            First::Scan(Scan { task, totals, residual, .. }) => {
                let first = tasks[task].kv_head * group;
                for (query, &total) in totals.iter().enumerate() {
                    weight[first + query] += f64::from(total);
                    indexed[first + query] += f64::from(total);
                }
                residuals[task] = residual;
            }
        }
    }
    let mut rest = buffer.as_slice();
    let of_task =
        |task: &Task| rest.split_off(..task.blocks.len() * block_weights).expect("what was written");
    let weights: Vec<&[u16]> = tasks.iter().map(of_task).collect();
    let shares: Vec<f64> = indexed.iter().zip(&weight).map(|(indexed, weight)| indexed / weight).collect();
    let lambdas = sketch.lambdas(keys, &shares, step.importance);
    let coefficients: Vec<f32> =
        lambdas.iter().zip(&weight).map(|(lambda, weight)| (lambda / weight) as f32).collect();
    let seed = derive_seed(derive_seed(sketch.seed, step.tokens as u64), step.layer as u64);

    let floor = sketch.floor(keys) as f32;
    let keep = matches!(sketch.budget(), Budget::TargetError(_) | Budget::Verified { .. });
    let attend = |number: usize, coefficients: &[f32], round: u64| {
        let (task, weights, residual) = (&tasks[number], weights[number], &residuals[number]);
        let heads = task.kv_head * group;
        let random = mix64(derive_seed(seed ^ round << 32, number as u64));
        let how = Draw {
            coefficients: &coefficients[heads..][..group],
            floor,
            start: (random >> 11) as f64 / (1u64 << 53) as f64,
            first: task.index(layer).first() + task.blocks.start * BLOCK_KEYS,
        };
        let rows = step.storage.rows(step.layer, task.kv_head, task.segment);
        let mut partial = step.partial(group);
        SCRATCH.with_borrow_mut(|Scratch { ids, ln_pi, scores }| {
            ids.clear();
            ln_pi.clear();
            let started = Instant::now();
            let expected = step.kernels.draw_keys(weights, how, ids, ln_pi);
            let drawing = started.elapsed();
            step.note_drawn(task.segment, ids.iter().map(|&id| usize::from(id)), group);
            let q = &q[heads * d..][..group * d];
            attend_drawn(step.kernels, q, rows, (ids, ln_pi), scores, &mut partial);
            let residual = residual.clone().map(|mut residual| {
                let drawn = (ids.as_slice(), ln_pi.as_slice());
                let codes = (task.values(step, layer), weights);
                residual.take_away(step.kernels, &layer.plan, codes, how.first, drawn);
                residual
            });
            let kept = if keep { (ids.clone(), ln_pi.clone()) } else { Default::default() };
            Drawn { partial, residual, count: ids.len(), expected, drawing, keys: kept }
        })
    };
    let parts = team.map(tasks.len(), |number| attend(number, &coefficients, 0));
    for drawn in &parts {
        read.sampled += (drawn.count * group) as u64;
        read.retrieve += drawn.drawing;
    }
    read.indexed = (keys * step.shape.heads) as u64;
    let mut sample = Assessed { step, layer, q: &q, tasks: &tasks, fixed: &fixed, coefficients, parts };
    match sketch.budget() {
        Budget::Fraction(_) | Budget::ByLength | Budget::Rooted { .. } => {
            let expected = sample.parts.iter().map(|drawn| drawn.expected).sum();
            let whole = sample.whole();
            if sketch.residual() {
                let mut rest = Residual::new(&layer.plan, step.shape.heads);
                for (task, drawn) in tasks.iter().zip(&sample.parts) {
                    let residual = drawn.residual.as_ref().expect("every task has its values scanned");
                    rest.merge(task.kv_head * group, residual);
                }
                rest.finish(step.kernels, &layer.plan, &whole, (&references, &fixed_weight), out);
            } else {
                whole.finish(out);
            }
            sketch.steer(step.layer, expected, keys);
        }
        Budget::TargetError(target) => {
            let errors = sample.predicted(team);
            sample.whole().finish(out);
            sketch.steer_by_error(step.layer, target, &errors);
            sketch.set_errors(errors);
        }
        Budget::Verified { epsilon, delta } => {
            let settled = sample.settle(team, epsilon, delta, attend);
            sample.whole().finish(out);
            read.sampled += settled.sampled;
            read.retrieve += settled.retrieve;
            sketch.steer_by_repeats(step.layer, settled.repeated);
            sketch.set_errors(settled.errors);
        }
    }
    WEIGHTS.set(buffer);
    read
}

/// What the threads do first: attend a KV head's static set, or estimate the weights of a task's keys.
enum First<'a> {
    Static {
        kv_head: usize,
        /// With the number of rows.
        attended: Option<(Partial, usize)>,
    },
    Scan(Scan<'a>),
}

/// What codes say of the keys of consecutive blocks.
struct Scan<'a> {
    /// The number of the task that they are drawn in.
    task: usize,
    /// Of its blocks.
    blocks: Range<usize>,
    /// Whether its KV head's static set comes next.
    last: bool,
    /// `[blocks, group, 16]`, bf16
    weights: &'a mut [u16],
    /// Their sums, `[group]`.
    totals: Vec<f32>,
    /// What values' codes add, where there are any.
    residual: Option<Residual>,
}

/// The rows that a KV head's index leaves out: the first ones and the newest.
fn static_rows(step: Step<'_>, head: &HeadSketch) -> [Range<usize>; 2] {
    let tail = head.end().max(SINKS).min(step.tokens)..step.tokens;
    let first = head.segments.first().map_or(0, SketchIndex::first).max(SINKS).min(tail.start);
    [0..first, tail]
}

/// All queries of a KV head over them.
fn attend_static(step: Step<'_>, head: &HeadSketch, kv_head: usize, q: &[f32]) -> (Partial, usize) {
    let [first, tail] = static_rows(step, head);
    let rows = first.len() + tail.len();
    let mut partial = attend_rows(step, kv_head, first, q);
    partial.merge(0, &attend_rows(step, kv_head, tail, q));
    (partial, rows)
}

/// Of head dimensions, in eight sums, which the compiler keeps in a register or two.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sums.into_iter().chain(rest).sum()
}

fn tasks(layer: &LayerSketch) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (kv_head, head) in layer.heads.iter().enumerate() {
        for (segment, index) in head.segments.iter().enumerate() {
            let blocks = (index.end() - index.first()) / BLOCK_KEYS;
            for first in (0..blocks).step_by(TASK_BLOCKS) {
                tasks.push(Task { kv_head, segment, blocks: first..blocks.min(first + TASK_BLOCKS) });
            }
        }
    }
    tasks
}

const _: () = assert!(SEGMENT_ROWS.is_multiple_of(BLOCK_KEYS * TASK_BLOCKS));
