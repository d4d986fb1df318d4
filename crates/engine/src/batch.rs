//! Several sessions a step further in one call: one token each, whose dense products read every weight once for all.

use std::sync::atomic::{AtomicBool, Ordering};

use dense::{Cores, DenseKernels, Transformer};
use team::Team;

use crate::{EngineError, Session};

/// What attending costs beside the rows of its text, in rows: a short text is not free.
const FIXED_ROWS: usize = 1024;

/// How much longer than its fair part a thread may work, as a share, before a session is taken by all threads.
const IMBALANCE: f64 = 0.1;

/// A session of a batch, and the token that it takes.
#[derive(Debug)]
pub struct BatchRow<'a> {
    /// Appends the token, attended under its own policy.
    pub session: &'a mut Session,
    /// The token.
    pub token: u32,
    /// Makes this session alone stop soon, with [`EngineError::Cancelled`].
    pub cancel: &'a AtomicBool,
}

/// A row on its way through the layers.
struct Member<'r, 'a> {
    row: &'r mut BatchRow<'a>,
    failure: Option<EngineError>,
}

/// Takes one token of each session through the model, and writes the logits `[rows, vocabulary]` of the next ones. What a session gets is
/// the same to the bit as [`Session::decode_token`]'s, whoever is beside it. The threads are those of the first session.
///
/// Each session has an outcome of its own: one that fails stays behind, and the others go on. Its layers may then differ in length until
/// [`Session::truncate`], and its logits mean nothing.
///
/// # Panics
/// If `logits` has another length.
pub fn decode_batch(
    model: &Transformer,
    rows: &mut [BatchRow<'_>],
    logits: &mut [f32],
) -> Vec<Result<(), EngineError>> {
    let vocabulary = model.vocabulary();
    assert_eq!(logits.len(), rows.len() * vocabulary, "logits of a batch");
    let mut members: Vec<Member<'_, '_>> = rows
        .iter_mut()
        .map(|row| Member { failure: row.session.check_step(model, &[row.token]).err(), row })
        .collect();
    step(model, &mut members, logits);
    members
        .into_iter()
        .map(|Member { row, failure }| match failure {
            Some(failure) => Err(failure),
            None => row.session.push_tokens(&[row.token]),
        })
        .collect()
}

fn step(model: &Transformer, members: &mut [Member<'_, '_>], logits: &mut [f32]) {
    let Some(first) = members.iter().position(|member| member.failure.is_none()) else { return };
    let session = &mut *members[first].row.session;
    let (pool, kernels) = (session.pool(), DenseKernels::from(session.kernels()));
    let mut scratch = std::mem::take(&mut session.scratch);
    // Who has failed already has a row all the same, of any token that the model knows.
    let token = |member: &Member<'_, '_>| if member.failure.is_none() { member.row.token } else { 0 };
    let tokens: Vec<u32> = members.iter().map(token).collect();
    let positions: Vec<usize> = members.iter().map(|member| member.row.session.tokens()).collect();
    let (_, heads, kv_heads, head_dim) = model.attention();
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    let shares = Shares::of(&positions, pool.current_num_threads());

    let residuals: Result<Vec<Vec<f32>>, AllFailed> = Team::assemble(&pool, |team| {
        let residuals = model.forward_batch(
            Cores { team, kernels },
            &tokens,
            &positions,
            &mut scratch,
            logits,
            |layer, q, k, v, out| {
                let rows = q.chunks_exact(wide).zip(k.chunks_exact(narrow)).zip(v.chunks_exact(narrow));
                let mut tasks: Vec<_> = members
                    .iter_mut()
                    .zip(rows)
                    .zip(out.chunks_exact_mut(wide))
                    .map(|((member, ((q, k), v)), out)| Some((member, (q, k, v), out)))
                    .collect();
                for &number in &shares.together {
                    if let Some((member, rows, out)) = tasks[number].take() {
                        member.attend(team, layer, rows, out);
                    }
                }
                let mut alone: Vec<_> =
                    shares.alone.iter().filter_map(|&number| tasks[number].take()).collect();
                team.each_mut(&mut alone, |(member, rows, out)| {
                    Team::alone(|team| member.attend(team, layer, *rows, out));
                });
                drop(alone);
                if members.iter().all(|member| member.failure.is_some()) { Err(AllFailed) } else { Ok(()) }
            },
        )?;
        Ok(residuals.map(<[f32]>::to_vec).collect())
    });
    members[first].row.session.scratch = scratch;
    for (member, residual) in members.iter_mut().zip(residuals.unwrap_or_default()) {
        if member.failure.is_none() {
            let session = &mut *member.row.session;
            session.scratch.set_residual(residual);
            session.residual_of = session.tokens();
        }
    }
}

/// Nobody is left to go on for.
struct AllFailed;

impl Member<'_, '_> {
    /// Appends the row's token to a layer and attends it, unless the row has failed before.
    fn attend(&mut self, team: &Team<'_>, layer: usize, rows: (&[f32], &[f32], &[f32]), out: &mut [f32]) {
        if self.failure.is_none() && self.row.cancel.load(Ordering::Relaxed) {
            self.failure = Some(EngineError::Cancelled);
        }
        if self.failure.is_none() {
            self.failure = self.row.session.decode_with(team, layer, rows, out).err();
        }
        if self.failure.is_some() {
            out.fill(0.0);
        }
    }
}

/// How the sessions of a batch are attended: numbers of those that all threads attend together, one after the other, and of those
/// that a thread attends by itself, the longest first. It has no part in what comes out.
#[derive(Debug, Default, PartialEq)]
struct Shares {
    together: Vec<usize>,
    alone: Vec<usize>,
}

impl Shares {
    /// As many alone as leave no thread much longer at work than the others.
    fn of(lengths: &[usize], threads: usize) -> Shares {
        let cost = |number: usize| lengths[number] + FIXED_ROWS;
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&number| std::cmp::Reverse(cost(number)));
        let balanced = |rest: &[usize]| {
            let mut loads = vec![0; threads];
            for &number in rest {
                if let Some(least) = loads.iter_mut().min() {
                    *least += cost(number);
                }
            }
            let fair = loads.iter().sum::<usize>() as f64 / threads as f64;
            loads.into_iter().max().unwrap_or(0) as f64 <= fair * (1.0 + IMBALANCE)
        };
        let together = (0..order.len()).find(|&first| balanced(&order[first..])).unwrap_or(order.len());
        let alone = order.split_off(together);
        Shares { together: order, alone }
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn no_thread_is_left_with_most_of_the_work() {
        let shares = |lengths: &[usize], threads| {
            let Shares { together, alone } = Shares::of(lengths, threads);
            (together, alone)
        };
        assert_eq!(shares(&[8000], 2), (vec![0], vec![]));
        assert_eq!(shares(&[8000], 1), (vec![], vec![0]));
        assert_eq!(shares(&[8000; 4], 2), (vec![], vec![0, 1, 2, 3]));
        assert_eq!(shares(&[8000; 3], 2), (vec![0], vec![1, 2]));
        assert_eq!(shares(&[100, 90_000, 100, 100, 100], 2), (vec![1], vec![0, 2, 3, 4]));
        assert_eq!(shares(&[], 2), (vec![], vec![]));
    }
}
