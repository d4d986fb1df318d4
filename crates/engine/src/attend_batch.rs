//! Several sessions attended together in one layer: one token each, whose threads are shared out by what each has to do.

use std::sync::atomic::{AtomicBool, Ordering};

use team::Team;

use crate::step::Rows;
use crate::{EngineError, Session};

/// What attending costs beside the rows of its text, in rows: a short text is not free.
const FIXED_ROWS: usize = 1024;

/// How much longer than its fair part a thread may work, as a share, before a session is taken by all threads.
const IMBALANCE: f64 = 0.1;

/// A session that attends a token in one layer. q and k are rotated already.
#[derive(Debug)]
pub struct AttendRow<'a> {
    /// Appends k and v, and attends q under its own policy.
    pub session: &'a mut Session,
    /// `[heads * head_dim]`
    pub q: &'a [f32],
    /// `[kv_heads * head_dim]`
    pub k: &'a [f32],
    /// `[kv_heads * head_dim]`
    pub v: &'a [f32],
    /// `[heads * head_dim]`; zeros where the session fails.
    pub out: &'a mut [f32],
    /// Keeps this session alone from being attended, with [`EngineError::Cancelled`], unless it has begun.
    pub cancel: &'a AtomicBool,
}

/// Appends a token to `layer` of each session and attends it. What a session gets is the same to the bit as [`Session::decode`]'s, whoever is
/// beside it, and each has an outcome of its own. The threads are those of the first session. Each session's `attend_time` is its own
/// attention's, not the whole call's.
///
/// # Errors
/// If threads cannot be started; nobody is attended then.
pub fn attend_batch(
    layer: usize,
    rows: &mut [AttendRow<'_>],
) -> Result<Vec<Result<(), EngineError>>, EngineError> {
    let Some(first) = rows.first_mut() else { return Ok(Vec::new()) };
    let crew = first.session.crew()?;
    let lengths: Vec<usize> = rows.iter().map(|row| row.session.tokens()).collect();
    let shares = Shares::of(&lengths, crew.threads());
    let (mut members, inputs): (Vec<_>, Vec<_>) = rows
        .iter_mut()
        .map(|AttendRow { session, q, k, v, out, cancel }| {
            let failure = session.check_files(layer).err();
            (Member { session, cancel, failure }, ((*q, *k, *v), &mut **out))
        })
        .unzip();
    let turn = |(member, (rows, out))| Turn { member, rows, out };
    let turns = members.iter_mut().zip(inputs).map(turn).collect();
    crew.lead(|team| shares.attend(team, layer, turns));
    Ok(members.into_iter().map(|member| member.failure.map_or(Ok(()), Err)).collect())
}

/// A session on its way through the layers beside others.
pub(crate) struct Member<'s> {
    pub session: &'s mut Session,
    pub cancel: &'s AtomicBool,
    /// Why it stays behind.
    pub failure: Option<EngineError>,
}

/// What a member attends in a layer.
pub(crate) struct Turn<'t, 's> {
    pub member: &'t mut Member<'s>,
    pub rows: Rows<'t>,
    pub out: &'t mut [f32],
}

impl Turn<'_, '_> {
    /// Appends the row to a layer and attends it, unless the member has failed before.
    fn attend(&mut self, team: &Team<'_>, layer: usize) {
        let Turn { member: Member { session, cancel, failure }, rows, out } = self;
        if failure.is_none() && cancel.load(Ordering::Relaxed) {
            *failure = Some(EngineError::Cancelled);
        }
        if failure.is_none() {
            *failure = session.decode_with(team, layer, *rows, out).err();
        }
        if failure.is_some() {
            out.fill(0.0);
        }
    }
}

/// How sessions are attended beside each other: numbers of those that all threads attend together, one after the other, and of those
/// that a thread attends by itself, the longest first. It has no part in what comes out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Shares {
    together: Vec<usize>,
    alone: Vec<usize>,
}

impl Shares {
    /// As many alone as leave no thread much longer at work than the others.
    pub fn of(lengths: &[usize], threads: usize) -> Shares {
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

    /// Attends a layer for everyone, in the order of the lengths that the shares are of.
    pub fn attend(&self, team: &Team<'_>, layer: usize, turns: Vec<Turn<'_, '_>>) {
        let mut turns: Vec<_> = turns.into_iter().map(Some).collect();
        for &number in &self.together {
            if let Some(mut turn) = turns[number].take() {
                turn.attend(team, layer);
            }
        }
        let mut alone: Vec<_> = self.alone.iter().filter_map(|&number| turns[number].take()).collect();
        team.each_mut(&mut alone, |turn| Team::alone(|team| turn.attend(team, layer)));
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
