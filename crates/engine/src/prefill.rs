//! Exact causal attention of a chunk of tokens, of all before it or of a window, in parallel over KV heads and blocks of tokens.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use lsh_attn::kernels::Kernels;
use lsh_attn::prefill::{BLOCK_QUERIES, PrefillScratch, QueryBlock, attend_causal};
use lsh_attn::rows::Rows;
use team::Team;

use crate::EngineError;
use crate::config::Shape;
use crate::storage::Storage;

thread_local! {
    static SCRATCH: RefCell<PrefillScratch> = RefCell::default();
}

/// Tokens of one layer whose rows are stored already.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub shape: Shape,
    pub kernels: Kernels,
    pub storage: &'a Storage,
    pub layer: usize,
    pub position: usize,
    pub tokens: usize,
    pub window: usize,
    pub score_cap: Option<f32>,
}

/// `q` and `out` are `[tokens, heads * head_dim]`.
pub(crate) fn causal(
    team: &Team<'_>,
    chunk: Chunk<'_>,
    q: &[f32],
    out: &mut [f32],
    cancel: &AtomicBool,
) -> Result<(), EngineError> {
    let Shape { kv_heads, head_dim, .. } = chunk.shape;
    let (group, width) = (chunk.shape.group(), chunk.shape.q_len());
    let group_len = group * head_dim;
    let block_tokens = (BLOCK_QUERIES / group).clamp(1, chunk.tokens);
    let blocks = chunk.tokens.div_ceil(block_tokens);

    let segments: Vec<Vec<Rows<'_>>> =
        (0..kv_heads).map(|head| chunk.storage.segments(chunk.layer, head).collect()).collect();
    // A block's outputs lie together here, so that each task has a slice of its own.
    let mut outputs = vec![0.0; q.len()];
    let mut tasks = Vec::with_capacity(blocks * kv_heads);
    let mut rest = outputs.as_mut_slice();
    // Late blocks attend the most keys: first, so that no thread ends with a long one.
    for block in (0..blocks).rev() {
        let first = block * block_tokens;
        let tokens = block_tokens.min(chunk.tokens - first);
        for head in 0..kv_heads {
            let (task, others) = rest.split_at_mut(tokens * group_len);
            rest = others;
            tasks.push((first, tokens, head, task));
        }
    }
    team.each_mut(&mut tasks, |(first, tokens, head, out)| {
        let block = QueryBlock {
            q: &q[*first * width + *head * group_len..],
            stride: width,
            group,
            head_dim,
            tokens: *tokens,
            position: chunk.position + *first,
            window: chunk.window,
            score_cap: chunk.score_cap,
        };
        SCRATCH.with_borrow_mut(|scratch| {
            attend_causal(chunk.kernels, block, &segments[*head], out, scratch, cancel);
        });
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(EngineError::Cancelled);
    }
    for (first, _, head, task) in tasks {
        for (token, from) in task.chunks_exact(group_len).enumerate() {
            out[(first + token) * width + head * group_len..][..group_len].copy_from_slice(from);
        }
    }
    Ok(())
}
