//! Several sessions a step further in one call: one token each, whose dense products read every weight once for many.

use std::sync::atomic::AtomicBool;

use dense::{Cores, DenseKernels, Transformer};
use team::Team;

use crate::attend_batch::{Member, Turn, attend_turns};
use crate::{EngineError, Session};

/// Tokens for each thread that a part of a batch has at least. With fewer, its products would wait for weights, which every part reads
/// for itself; of so many, multiplications take longer than that.
const TOKENS_A_THREAD: usize = 2;

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
    let (mut members, tokens): (Vec<_>, Vec<_>) = rows
        .iter_mut()
        .map(|BatchRow { session, token, cancel }| {
            let failure = session.check_step(model, &[*token]).err();
            (Member { session, cancel, failure }, *token)
        })
        .unzip();
    step(model, &mut members, &tokens, logits);
    members
        .into_iter()
        .zip(tokens)
        .map(|(Member { session, failure, .. }, token)| match failure {
            Some(failure) => Err(failure),
            None => session.push_tokens(&[token]),
        })
        .collect()
}

/// Takes all members through the model, in parts that go through its layers by themselves, each led by a thread: one part's threads do not
/// wait for the other's at the end of each product, and the one multiplies while the other waits for rows.
fn step(model: &Transformer, members: &mut [Member<'_>], tokens: &[u32], logits: &mut [f32]) {
    let Some(first) = members.iter().find(|member| member.failure.is_none()) else { return };
    let (pool, kernels) = (first.session.pool(), DenseKernels::from(first.session.kernels()));
    let threads = pool.current_num_threads();
    let parts = (members.len() / (TOKENS_A_THREAD * threads)).clamp(1, threads);
    let size = members.len().div_ceil(parts);
    let logits = logits.chunks_mut(size * model.vocabulary());
    let mut parts: Vec<_> = members.chunks_mut(size).zip(tokens.chunks(size)).zip(logits).collect();
    Team::assemble(&pool, |team| {
        team.lead_each(&mut parts, |team, ((members, tokens), logits)| {
            step_part(model, Cores { team, kernels }, members, tokens, logits);
        });
    });
}

fn step_part(
    model: &Transformer,
    cores: Cores<'_>,
    members: &mut [Member<'_>],
    tokens: &[u32],
    logits: &mut [f32],
) {
    let Some(first) = members.iter().position(|member| member.failure.is_none()) else { return };
    let mut scratch = std::mem::take(&mut members[first].session.scratch);
    // Who has failed already has a row all the same, of any token that the model knows.
    let token = |(member, &token): (&Member<'_>, &u32)| if member.failure.is_none() { token } else { 0 };
    let tokens: Vec<u32> = members.iter().zip(tokens).map(token).collect();
    let positions: Vec<usize> = members.iter().map(|member| member.session.tokens()).collect();
    let (_, heads, kv_heads, head_dim) = model.attention();
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);

    let residuals: Result<Vec<Vec<f32>>, AllFailed> = model
        .forward_batch(cores, &tokens, &positions, &mut scratch, logits, |layer, q, k, v, out| {
            let rows = q.chunks_exact(wide).zip(k.chunks_exact(narrow)).zip(v.chunks_exact(narrow));
            let turns = members
                .iter_mut()
                .zip(rows)
                .zip(out.chunks_exact_mut(wide))
                .map(|((member, ((q, k), v)), out)| Turn { member, rows: (q, k, v), out })
                .collect();
            attend_turns(cores.team, layer, turns);
            if members.iter().all(|member| member.failure.is_some()) { Err(AllFailed) } else { Ok(()) }
        })
        .map(|residuals| residuals.map(<[f32]>::to_vec).collect());
    members[first].session.scratch = scratch;
    for (member, residual) in members.iter_mut().zip(residuals.unwrap_or_default()) {
        if member.failure.is_none() {
            let session = &mut *member.session;
            session.scratch.set_residual(residual);
            session.residual_of = session.tokens();
        }
    }
}

/// Nobody is left to go on for.
struct AllFailed;
