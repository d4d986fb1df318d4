//! Exact causal attention of many rows: flash attention by tiles (Dao et al. 2022), in f32 on bf16 rows.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernels::{GemmShape, Kernels};
use crate::rows::widen;

/// Keys of a tile: with 64 its K, V and the scores of a query block stay in the second-level cache.
const TILE_KEYS: usize = 64;

/// Query rows (tokens times query heads of the KV head) that share one pass over the keys. Widening and
/// transposing a tile costs about as much as the products of a dozen rows.
pub const BLOCK_QUERIES: usize = 192;

/// The queries of consecutive tokens for one KV head.
#[derive(Clone, Copy, Debug)]
pub struct QueryBlock<'a> {
    /// `[tokens, stride]`; a token's queries for this KV head are its first `group * head_dim` elements.
    pub q: &'a [f32],
    /// Elements from one token's queries to the next one's.
    pub stride: usize,
    /// Query heads of the KV head.
    pub group: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens in the block.
    pub tokens: usize,
    /// Position of the block's first token; token i attends keys 0..=position + i.
    pub position: usize,
}

/// Scratch space of [`attend_causal`], kept by a thread between calls.
#[derive(Debug, Default)]
pub struct PrefillScratch {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    max: Vec<f32>,
    den: Vec<f32>,
}

/// Attends a block of queries to all keys up to their own, into `out` `[tokens, group * head_dim]`.
///
/// `segments` are the KV head's rows in order, all but the last a multiple of 64 rows long. Returns false, with
/// `out` unfinished, once `cancel` is set. Accumulates in f32; differs from a float64 softmax by less than 1e-5
/// of the greatest |v|.
///
/// # Panics
/// If the segments hold fewer rows than the last token attends.
pub fn attend_causal(
    kernels: Kernels,
    block: QueryBlock<'_>,
    segments: &[&[u16]],
    out: &mut [f32],
    scratch: &mut PrefillScratch,
    cancel: &AtomicBool,
) -> bool {
    let d = block.head_dim;
    let count = block.tokens * block.group;
    assert_eq!(out.len(), count * d, "one output a query");
    load_queries(block, &mut scratch.queries);
    scratch.max.clear();
    scratch.max.resize(count, f32::NEG_INFINITY);
    scratch.den.clear();
    scratch.den.resize(count, 0.0);
    scratch.scores.resize(count * TILE_KEYS, 0.0);
    out.fill(0.0);

    let keys = block.position + block.tokens;
    let mut first = 0;
    for segment in segments {
        for rows in segment.chunks(TILE_KEYS * 2 * d) {
            if first >= keys {
                break;
            }
            if cancel.load(Ordering::Relaxed) {
                return false;
            }
            add_tile(kernels, block, first, rows, out, scratch);
            first += rows.len() / (2 * d);
        }
    }
    assert!(first >= keys, "{first} rows for {keys} keys");
    for (out, den) in out.chunks_exact_mut(d).zip(&scratch.den) {
        out.iter_mut().for_each(|x| *x /= den);
    }
    true
}

/// Queries `[tokens * group, head_dim]`, scaled by 1/sqrt(d).
fn load_queries(block: QueryBlock<'_>, queries: &mut Vec<f32>) {
    let width = block.group * block.head_dim;
    let scale = 1.0 / (block.head_dim as f32).sqrt();
    queries.clear();
    for token in 0..block.tokens {
        queries.extend(block.q[token * block.stride..][..width].iter().map(|q| q * scale));
    }
}

/// Adds up to [`TILE_KEYS`] keys, the first at position `first`.
fn add_tile(
    kernels: Kernels,
    block: QueryBlock<'_>,
    first: usize,
    rows: &[u16],
    out: &mut [f32],
    scratch: &mut PrefillScratch,
) {
    let d = block.head_dim;
    let count = rows.len() / (2 * d);
    widen_tile(rows, d, &mut scratch.keys, &mut scratch.values);

    scratch.scores.fill(0.0);
    let m = block.tokens * block.group;
    let shape = GemmShape { m, n: TILE_KEYS, k: d };
    kernels.gemm(shape, &scratch.queries, &scratch.keys, &mut scratch.scores);

    for (query, scores) in scratch.scores.chunks_exact_mut(TILE_KEYS).enumerate() {
        // Keys up to and including the query's own token.
        let visible = (block.position + query / block.group + 1).saturating_sub(first).min(count);
        let (seen, unseen) = scores.split_at_mut(visible);
        unseen.fill(0.0);
        if seen.is_empty() {
            continue;
        }
        let old = scratch.max[query];
        let max = old.max(kernels.max(seen));
        if max > old {
            let scale = (old - max).exp();
            scratch.max[query] = max;
            scratch.den[query] *= scale;
            out[query * d..][..d].iter_mut().for_each(|x| *x *= scale);
        }
        scratch.den[query] += kernels.exp_sum(seen, max);
    }
    kernels.gemm(GemmShape { m, n: d, k: TILE_KEYS }, &scratch.scores, &scratch.values, out);
}

/// K as `[head_dim, TILE_KEYS]` and V as `[TILE_KEYS, head_dim]` in f32; keys that a short tile lacks are zero.
fn widen_tile(rows: &[u16], d: usize, keys: &mut Vec<f32>, values: &mut Vec<f32>) {
    keys.resize(d * TILE_KEYS, 0.0);
    values.resize(TILE_KEYS * d, 0.0);
    let count = rows.len() / (2 * d);
    if count < TILE_KEYS {
        keys.fill(0.0);
        values[count * d..].fill(0.0);
    }
    for (key, row) in rows.chunks_exact(2 * d).enumerate() {
        for (j, &k) in row[..d].iter().enumerate() {
            keys[j * TILE_KEYS + key] = widen(k);
        }
        for (value, &v) in values[key * d..][..d].iter_mut().zip(&row[d..]) {
            *value = widen(v);
        }
    }
}
