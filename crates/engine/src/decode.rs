//! Attention of one token in one layer: tasks over heads, segments and ranges of rows, merged in a fixed order.

use std::cell::RefCell;
use std::ops::Range;
use std::time::{Duration, Instant};

use kv_store::SEGMENT_ROWS;
use lsh_attn::hash::{HashPlan, Hasher, LANES};
use lsh_attn::kernels::Kernels;
use lsh_attn::rows::Rows;
use lsh_attn::sampled::{Sample, SampleScratch, SampledQuery, attend_samples};
use lsh_attn::softmax::Partial;
use team::Team;

use crate::config::{SINKS, Shape};
use crate::draws::Draws;
use crate::index::LshIndex;
use crate::storage::Storage;

/// Consecutive rows that one task attends at most.
const TASK_ROWS: usize = 2048;
/// And at least: enough work to be worth handing to a thread.
const LEAST_TASK_ROWS: usize = 256;
/// Tasks that samples are shared out to for each thread, if there are as many: few, since the last sample of a task has no other beside
/// which its rows could come.
const TASKS_A_THREAD: usize = 4;

thread_local! {
    static SCRATCH: RefCell<SampleScratch> = RefCell::default();
    static LOGITS: RefCell<Vec<f32>> = RefCell::default();
}

/// A layer at one decoding step, its newest row stored already.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub shape: Shape,
    pub kernels: Kernels,
    pub storage: &'a Storage,
    pub layer: usize,
    pub tokens: usize,
    /// How many of the newest tokens it attends.
    pub window: usize,
    /// What caps scores softly, if anything does.
    pub score_cap: Option<f32>,
    /// Of the layer's query heads; empty where all are the same.
    pub importance: &'a [f32],
    /// Where drawn rows are noted, if they are.
    pub draws: Option<&'a Draws>,
}

impl Step<'_> {
    /// Tokens that exact attention reads.
    pub fn attended(&self) -> Range<usize> {
        self.tokens.saturating_sub(self.window)..self.tokens
    }

    /// Attention of `queries` queries over no keys yet.
    pub fn partial(&self, queries: usize) -> Partial {
        Partial::new(queries, self.shape.head_dim).with_cap(self.score_cap)
    }

    /// Notes rows of a segment that `queries` query heads draw.
    pub fn note_drawn(&self, segment: usize, rows: impl IntoIterator<Item = usize>, queries: usize) {
        if let Some(draws) = self.draws {
            draws.note(self.layer, segment, rows, queries);
        }
    }

    /// K of the step's own token, `[head_dim]`.
    pub fn newest_key(&self, kv_head: usize) -> Vec<f32> {
        let newest = self.tokens - 1;
        let mut key = vec![0.0; self.shape.head_dim];
        let rows = self.storage.rows(self.layer, kv_head, newest / SEGMENT_ROWS);
        rows.key(newest % SEGMENT_ROWS, &mut key);
        key
    }
}

/// Rows that a step read in one layer, summed over query heads, and where its time went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowsRead {
    pub fixed: u64,
    pub sampled: u64,
    pub indexed: u64,
    /// Bytes of rows and summaries, where the policy counts them itself.
    pub bytes: u64,
    pub hash: Duration,
    /// Summed over threads.
    pub retrieve: Duration,
}

/// A part of a step's work.
enum Task {
    /// All query heads of a KV head over consecutive rows of a segment.
    Rows { kv_head: usize, segment: usize, rows: Range<usize> },
    /// Query heads of a KV head, each over the rows of a segment that it samples: a segment's first query, the next one, ...,
    /// the next segment's first.
    Samples { kv_head: usize, samples: Range<usize> },
}

/// Attends all rows, or those of the layer's window.
pub(crate) fn exact(team: &Team<'_>, step: Step<'_>, q: &[f32], out: &mut [f32]) -> RowsRead {
    let mut tasks = Vec::new();
    for kv_head in 0..step.shape.kv_heads {
        push_rows(&mut tasks, kv_head, step.attended());
    }
    run(team, step, None, &[], &scaled(step.shape, q), &tasks, out)
}

/// Attends the static set and the sample.
pub(crate) fn sampled(
    team: &Team<'_>,
    step: Step<'_>,
    index: &LshIndex,
    q: &[f32],
    out: &mut [f32],
) -> RowsRead {
    let layer = index.layer(step.layer);
    let q = scaled(step.shape, q);
    let mut tasks = Vec::new();
    for kv_head in 0..step.shape.kv_heads {
        let head = layer.head(kv_head);
        push_rows(&mut tasks, kv_head, 0..SINKS.min(step.tokens));
        push_rows(&mut tasks, kv_head, head.end().max(SINKS)..step.tokens);
        // Segment by segment, so that the rows which several query heads draw are read from memory once.
        let samples = head.segments.len() * step.shape.group();
        let share = (samples * step.shape.kv_heads / (TASKS_A_THREAD * team.threads())).max(1);
        tasks.extend(
            (0..samples)
                .step_by(share)
                .map(|first| Task::Samples { kv_head, samples: first..samples.min(first + share) }),
        );
    }
    let started = Instant::now();
    let codes = hash_queries(step, &layer.plan, &q);
    let hash = started.elapsed();
    RowsRead { hash, ..run(team, step, Some(index), &codes, &q, &tasks, out) }
}

/// Codes `[heads, tables]` of all queries.
pub(crate) fn hash_queries(step: Step<'_>, plan: &HashPlan, q: &[f32]) -> Vec<u16> {
    let d = step.shape.head_dim;
    let mut codes = vec![0; step.shape.heads * plan.tables()];
    let mut hasher = Hasher::new(plan);
    for first in (0..step.shape.heads).step_by(LANES) {
        let count = LANES.min(step.shape.heads - first);
        let hashed = hasher.hash(step.kernels, plan, count, |lane, j| q[(first + lane) * d + j]);
        for (table, lanes) in hashed.iter().enumerate() {
            for (lane, &code) in lanes[..count].iter().enumerate() {
                codes[(first + lane) * plan.tables() + table] = code;
            }
        }
    }
    codes
}

/// All query heads of a KV head over consecutive rows, which may be in several segments. `q` is of all heads.
pub(crate) fn attend_rows(step: Step<'_>, kv_head: usize, rows: Range<usize>, q: &[f32]) -> Partial {
    let (group, d) = (step.shape.group(), step.shape.head_dim);
    let mut partial = step.partial(group);
    for rows in stored(step, kv_head, rows) {
        let q = &q[kv_head * group * d..][..group * d];
        LOGITS.with_borrow_mut(|logits| partial.add_rows(step.kernels, q, rows, logits));
    }
    partial
}

/// Consecutive rows of a KV head, segment by segment.
pub(crate) fn stored(step: Step<'_>, kv_head: usize, rows: Range<usize>) -> impl Iterator<Item = Rows<'_>> {
    let segments = rows.start / SEGMENT_ROWS..rows.end.div_ceil(SEGMENT_ROWS);
    segments.filter(move |_| rows.start < rows.end).map(move |segment| {
        let first = segment * SEGMENT_ROWS;
        let within = rows.start.max(first) - first..rows.end.min(first + SEGMENT_ROWS) - first;
        step.storage.rows(step.layer, kv_head, segment).slice(within)
    })
}

/// The queries times 1/sqrt(d).
pub(crate) fn scaled(shape: Shape, q: &[f32]) -> Vec<f32> {
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    q.iter().map(|q| q * scale).collect()
}

/// Cuts `range` of a KV head into tasks within segments.
fn push_rows(tasks: &mut Vec<Task>, kv_head: usize, range: Range<usize>) {
    // Not by the number of threads, on which the order of sums must not depend.
    let task_rows = (range.len() / 4).clamp(LEAST_TASK_ROWS, TASK_ROWS);
    let mut start = range.start;
    while start < range.end {
        let segment = start / SEGMENT_ROWS;
        let first = start % SEGMENT_ROWS;
        let end = (range.end - segment * SEGMENT_ROWS).min(SEGMENT_ROWS).min(first + task_rows);
        tasks.push(Task::Rows { kv_head, segment, rows: first..end });
        start = segment * SEGMENT_ROWS + end;
    }
}

fn run(
    team: &Team<'_>,
    step: Step<'_>,
    index: Option<&LshIndex>,
    codes: &[u16],
    q: &[f32],
    tasks: &[Task],
    out: &mut [f32],
) -> RowsRead {
    let (group, d) = (step.shape.group(), step.shape.head_dim);
    let attend = |task: &Task| match task {
        Task::Rows { kv_head, segment, rows } => {
            let first = segment * SEGMENT_ROWS;
            let partial = attend_rows(step, *kv_head, first + rows.start..first + rows.end, q);
            let fixed = (rows.len() * group) as u64;
            (vec![(kv_head * group, partial)], RowsRead { fixed, ..RowsRead::default() })
        }
        Task::Samples { kv_head, samples } => {
            let index = index.expect("only a step with an index samples");
            let layer = index.layer(step.layer);
            let head = |number: usize| kv_head * group + number % group;
            let sample = |number: usize| {
                let (segment, head) = (number / group, head(number));
                let codes = &codes[head * layer.plan.tables()..][..layer.plan.tables()];
                Sample {
                    query: SampledQuery { q: &q[head * d..][..d], codes },
                    index: layer.head(*kv_head).segments[segment]
                        .view(step.storage, (step.layer, *kv_head, segment)),
                    rows: step.storage.rows(step.layer, *kv_head, segment),
                }
            };
            let of_task: Vec<Sample<'_>> = samples.clone().map(sample).collect();
            let (mut parts, mut read) = (Vec::with_capacity(of_task.len()), RowsRead::default());
            let mut done = |number: usize, ids: &[u16], partial| {
                let number = samples.start + number;
                step.note_drawn(number / group, ids.iter().map(|&id| usize::from(id)), 1);
                read.sampled += ids.len() as u64;
                parts.push((head(number), partial));
            };
            let retrieve = SCRATCH.with_borrow_mut(|scratch| {
                let empty = || step.partial(1);
                attend_samples(step.kernels, &index.inclusion, &of_task, scratch, empty, &mut done)
            });
            let indexed =
                of_task.iter().map(|sample| (sample.index.end() - sample.index.first()) as u64).sum();
            (parts, RowsRead { indexed, retrieve, ..read })
        }
    };
    let done = team.map(tasks.len(), |number| attend(&tasks[number]));

    let mut whole = Partial::new(step.shape.heads, d);
    let mut read = RowsRead::default();
    for (parts, counts) in &done {
        parts.iter().for_each(|(first, part)| whole.merge(*first, part));
        read.fixed += counts.fixed;
        read.sampled += counts.sampled;
        read.indexed += counts.indexed;
        read.retrieve += counts.retrieve;
    }
    whole.finish(out);
    read
}
