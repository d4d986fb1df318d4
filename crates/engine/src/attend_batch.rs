//! Several sessions attended together in one layer, one token each.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};

use team::Team;

use crate::step::Rows;
use crate::{EngineError, Session};

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
    let (mut members, inputs): (Vec<_>, Vec<_>) = rows
        .iter_mut()
        .map(|AttendRow { session, q, k, v, out, cancel }| {
            let failure = session.check_files(layer).err();
            (Member { session, cancel, failure }, ((*q, *k, *v), &mut **out))
        })
        .unzip();
    let turn = |(member, (rows, out))| Turn { member, rows, out };
    let turns = members.iter_mut().zip(inputs).map(turn).collect();
    crew.lead(|team| attend_turns(team, layer, turns));
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

/// Attends a layer for everyone, the longest text first. A thread leads a session, and one that finds none left helps the others.
pub(crate) fn attend_turns(team: &Team<'_>, layer: usize, mut turns: Vec<Turn<'_, '_>>) {
    turns.sort_by_key(|turn| Reverse(turn.member.session.tokens()));
    team.lead_each(&mut turns, |team, turn| turn.attend(team, layer));
}
