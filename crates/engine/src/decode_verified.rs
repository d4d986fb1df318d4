//! A `sketch` step whose error is estimated from its own sample, and one that draws again until the error is small enough.

use std::time::Duration;

use kv_store::SEGMENT_ROWS;
use lsh_attn::sketch::BLOCK_KEYS;
use lsh_attn::softmax::Partial;
use team::Team;

use crate::decode::{Step, attend_rows};
use crate::decode_sketch::{Drawn, Task};
use crate::sketch::LayerSketch;
use crate::verified::{Output, Spread, normal_quantile};

/// Draws of a KV head before all of its keys are read.
const ROUNDS: u64 = 6;
/// A draw of this share of the keys costs as much as reading all of them: rows in order come from memory faster.
const WORTH_ALL: f64 = 1.0 / 3.0;
/// How much more than seems needed the next draw asks for, and the least and most that it does at once.
const MARGIN: f64 = 1.2;
const RAISE: (f64, f64) = (2.0, 16.0);

/// A layer's static set and sample, one part a task.
pub(crate) struct Assessed<'a> {
    pub step: Step<'a>,
    pub layer: &'a LayerSketch,
    /// `[heads, head_dim]`, scaled.
    pub q: &'a [f32],
    pub tasks: &'a [Task],
    /// The static set of each KV head.
    pub fixed: &'a [Partial],
    /// lambda / Z of each query head.
    pub coefficients: Vec<f32>,
    pub parts: Vec<Drawn>,
}

/// What it took to have a layer's errors small enough.
pub(crate) struct Settled {
    /// The end of each query head's interval; 0 where all keys were read.
    pub errors: Vec<f64>,
    /// Rows of repeated draws, summed over query heads.
    pub sampled: u64,
    pub retrieve: Duration,
    /// KV heads that drew more than once.
    pub repeated: usize,
}

impl Assessed<'_> {
    /// Static set and sample of all heads.
    pub fn whole(&self) -> Partial {
        let group = self.step.shape.group();
        let mut whole = Partial::new(self.step.shape.heads, self.step.shape.head_dim);
        for (kv_head, fixed) in self.fixed.iter().enumerate() {
            whole.merge(kv_head * group, fixed);
        }
        for (task, drawn) in self.tasks.iter().zip(&self.parts) {
            whole.merge(task.kv_head * group, &drawn.partial);
        }
        whole
    }

    /// The relative error of each query head as its sample predicts it.
    pub fn predicted(&self, team: &Team<'_>) -> Vec<f64> {
        let all: Vec<usize> = (0..self.fixed.len()).collect();
        self.spreads(team, &all).iter().map(Spread::predicted).collect()
    }

    /// Has every KV head draw again, each time a new and larger sample in the place of the one before, until the intervals of its
    /// query heads are at most `epsilon`. `attend` draws a task's keys by the coefficients of all heads in a numbered round.
    pub fn settle(
        &mut self,
        team: &Team<'_>,
        epsilon: f64,
        delta: f64,
        attend: impl Fn(usize, &[f32], u64) -> Drawn + Sync,
    ) -> Settled {
        let group = self.step.shape.group();
        let z = normal_quantile(delta);
        let mut settled = Settled {
            errors: vec![0.0; self.step.shape.heads],
            sampled: 0,
            retrieve: Duration::ZERO,
            repeated: 0,
        };
        let mut open: Vec<usize> = (0..self.fixed.len()).collect();
        for round in 1.. {
            let spreads = self.spreads(team, &open);
            let (mut again, mut all) = (Vec::new(), Vec::new());
            for (&kv_head, spreads) in open.iter().zip(spreads.chunks_exact(group)) {
                let heads = kv_head * group..(kv_head + 1) * group;
                let errors = spreads.iter().map(|spread| spread.bound(z));
                let mut holds = true;
                for (head, error) in heads.zip(errors) {
                    settled.errors[head] = error;
                    if error > epsilon {
                        holds = false;
                        let raise = MARGIN * (error / epsilon).powi(2);
                        self.coefficients[head] *= raise.clamp(RAISE.0, RAISE.1) as f32;
                    }
                }
                match holds {
                    true => {}
                    false if round == ROUNDS || self.drawn_share(kv_head) > WORTH_ALL => all.push(kv_head),
                    false => again.push(kv_head),
                }
            }
            if round == 1 {
                settled.repeated = again.len() + all.len();
            }
            for &kv_head in &all {
                settled.errors[kv_head * group..][..group].fill(0.0);
            }
            let redone: Vec<usize> = (0..self.tasks.len())
                .filter(|&task| {
                    let kv_head = &self.tasks[task].kv_head;
                    again.contains(kv_head) || all.contains(kv_head)
                })
                .collect();
            let parts = team.map(redone.len(), |number| {
                let task = redone[number];
                if all.contains(&self.tasks[task].kv_head) {
                    self.attend_all(&self.tasks[task])
                } else {
                    attend(task, &self.coefficients, round)
                }
            });
            for (task, part) in redone.into_iter().zip(parts) {
                settled.sampled += (part.count * group) as u64;
                settled.retrieve += part.drawing;
                self.parts[task] = part;
            }
            open = again;
            if open.is_empty() {
                break;
            }
        }
        settled
    }

    /// Every key of a task.
    fn attend_all(&self, task: &Task) -> Drawn {
        let first = task.index(self.layer).first();
        let own = first + task.blocks.start * BLOCK_KEYS..first + task.blocks.end * BLOCK_KEYS;
        let start = task.segment * SEGMENT_ROWS;
        let rows = start + own.start..start + own.end;
        let count = rows.len();
        self.step.note_drawn(task.segment, own, self.step.shape.group());
        Drawn {
            partial: attend_rows(self.step, task.kv_head, rows, self.q),
            residual: None,
            count,
            expected: count as f64,
            drawing: Duration::ZERO,
            keys: Default::default(),
        }
    }

    /// Share of a KV head's indexed keys that its sample was expected to have.
    fn drawn_share(&self, kv_head: usize) -> f64 {
        let (mut expected, mut keys) = (0.0, 0);
        for (task, drawn) in self.tasks.iter().zip(&self.parts).filter(|(task, _)| task.kv_head == kv_head) {
            expected += drawn.expected;
            keys += task.blocks.len() * BLOCK_KEYS;
        }
        expected / keys.max(1) as f64
    }

    /// Spreads of all query heads of some KV heads, in their order.
    fn spreads(&self, team: &Team<'_>, kv_heads: &[usize]) -> Vec<Spread> {
        let Step { shape, kernels, storage, layer, .. } = self.step;
        let (group, d) = (shape.group(), shape.head_dim);
        let outputs: Vec<Output> = kv_heads
            .iter()
            .map(|&kv_head| {
                let mut whole = self.fixed[kv_head].clone();
                let own = self.tasks.iter().zip(&self.parts).filter(|(task, _)| task.kv_head == kv_head);
                own.for_each(|(_, drawn)| whole.merge(0, &drawn.partial));
                Output::new(&whole, group, d)
            })
            .collect();
        let place = |task: &Task| kv_heads.iter().position(|&kv_head| kv_head == task.kv_head);
        let tasks: Vec<(usize, usize)> =
            (0..self.tasks.len()).filter_map(|number| Some((number, place(&self.tasks[number])?))).collect();
        let parts = team.map(tasks.len(), |number| {
            let (number, place) = tasks[number];
            let task = &self.tasks[number];
            let (ids, ln_pi) = &self.parts[number].keys;
            let rows = storage.rows(layer, task.kv_head, task.segment);
            let q = &self.q[task.kv_head * group * d..][..group * d];
            outputs[place].spreads(kernels, q, rows, (ids, ln_pi))
        });
        let mut spreads = vec![Spread::default(); kv_heads.len() * group];
        for ((_, place), part) in tasks.into_iter().zip(parts) {
            spreads[place * group..].iter_mut().zip(part).for_each(|(spread, more)| spread.add(more));
        }
        spreads
    }
}
