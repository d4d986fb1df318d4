//! Exact causal attention of many rows: flash attention by tiles (Dao et al. 2022), products of bf16 summed in f32.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernels::{GemmShape, Kernels, PANEL, prefetch};
use crate::rows::{RowType, Rows};
use crate::soft_cap::soft_cap;

/// Keys of a tile: with 64 its K, V and the scores of a query block stay in the second-level cache.
const TILE_KEYS: usize = 64;

/// Query rows (tokens times query heads of the KV head) that share one pass over the keys. Rearranging a tile costs about
/// as much as the products of a dozen rows.
pub const BLOCK_QUERIES: usize = 384;

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
    /// Position of the block's first token; token i attends the keys up to position + i.
    pub position: usize,
    /// How many of these it attends at most, the newest ones.
    pub window: usize,
    /// What caps scores softly, if anything does.
    pub score_cap: Option<f32>,
}

/// Scratch space of [`attend_causal`], kept by a thread between calls.
#[derive(Debug, Default)]
pub struct PrefillScratch {
    scaled: Vec<f32>,
    queries: Vec<u16>,
    decoded: Vec<f32>,
    tile: Vec<u16>,
    keys: Vec<u32>,
    values: Vec<u32>,
    scores: Vec<f32>,
    weights: Vec<u16>,
    max: Vec<f32>,
    den: Vec<f32>,
}

impl QueryBlock<'_> {
    /// Positions of the keys that a query `[tokens * group]` attends.
    fn visible(&self, query: usize) -> Range<usize> {
        let end = self.position + query / self.group + 1;
        end.saturating_sub(self.window)..end
    }
}

/// Attends a block of queries to the keys up to their own that are in their window, into `out` `[tokens, group * head_dim]`.
///
/// `segments` are the KV head's rows in order, all but the last a multiple of 64 rows long. Returns false, with
/// `out` unfinished, once `cancel` is set. Scaled queries and the weights of values are rounded to bf16, as rows are (those
/// of 8 bits for the second time, by another 2^-9 at most), and products summed in f32: differs from a float64 softmax of the
/// rounded queries and rows by at most 2^-8 of the weighted mean of |v|.
///
/// # Panics
/// If the segments hold fewer rows than the last token attends.
pub fn attend_causal(
    kernels: Kernels,
    block: QueryBlock<'_>,
    segments: &[Rows<'_>],
    out: &mut [f32],
    scratch: &mut PrefillScratch,
    cancel: &AtomicBool,
) -> bool {
    let d = block.head_dim;
    let count = block.tokens * block.group;
    assert_eq!(out.len(), count * d, "one output a query");
    load_queries(kernels, block, scratch);
    scratch.max.clear();
    scratch.max.resize(count, f32::NEG_INFINITY);
    scratch.den.clear();
    scratch.den.resize(count, 0.0);
    scratch.scores.resize(count * TILE_KEYS, 0.0);
    scratch.weights.resize(count * TILE_KEYS, 0);
    out.fill(0.0);

    let keys = block.position + block.tokens;
    let start = block.visible(0).start;
    let mut first = 0;
    let mut tiles = segments.iter().flat_map(|segment| segment.chunks(TILE_KEYS)).peekable();
    while let Some(rows) = tiles.next_if(|_| first < keys) {
        if first + rows.len() > start {
            if cancel.load(Ordering::Relaxed) {
                return false;
            }
            if let Some(next) = tiles.peek() {
                // A tile is shorter than what a prefetcher needs to see a walk, and its products take longer than it takes to come.
                prefetch::far(next.stored().as_ptr(), next.stored().len());
            }
            add_tile(kernels, block, first, rows, out, scratch);
        }
        first += rows.len();
    }
    assert!(first >= keys, "{first} rows for {keys} keys");
    for (out, den) in out.chunks_exact_mut(d).zip(&scratch.den) {
        out.iter_mut().for_each(|x| *x /= den);
    }
    true
}

/// Queries `[tokens * group, head_dim]`, scaled by 1/sqrt(d).
fn load_queries(kernels: Kernels, block: QueryBlock<'_>, scratch: &mut PrefillScratch) {
    let width = block.group * block.head_dim;
    let scale = 1.0 / (block.head_dim as f32).sqrt();
    scratch.scaled.clear();
    for token in 0..block.tokens {
        scratch.scaled.extend(block.q[token * block.stride..][..width].iter().map(|q| q * scale));
    }
    scratch.queries.resize(scratch.scaled.len(), 0);
    kernels.narrow(&scratch.scaled, &mut scratch.queries);
}

/// Adds up to [`TILE_KEYS`] keys, the first at position `first`.
fn add_tile(
    kernels: Kernels,
    block: QueryBlock<'_>,
    first: usize,
    rows: Rows<'_>,
    out: &mut [f32],
    scratch: &mut PrefillScratch,
) {
    let d = block.head_dim;
    let count = rows.len();
    let tile = tile_of(kernels, rows, &mut scratch.decoded, &mut scratch.tile);
    arrange_tile(tile, d, &mut scratch.keys, &mut scratch.values);

    scratch.scores.fill(0.0);
    let m = block.tokens * block.group;
    let shape = GemmShape { m, n: TILE_KEYS, k: d };
    kernels.gemm(shape, &scratch.queries, &scratch.keys, &mut scratch.scores);

    if let Some(cap) = block.score_cap {
        soft_cap(kernels, cap, &mut scratch.scores);
    }

    for (query, scores) in scratch.scores.chunks_exact_mut(TILE_KEYS).enumerate() {
        let visible = block.visible(query);
        let in_tile = |position: usize| position.saturating_sub(first).min(count);
        let (before, rest) = scores.split_at_mut(in_tile(visible.start));
        let (seen, after) = rest.split_at_mut(in_tile(visible.end) - before.len());
        before.fill(0.0);
        after.fill(0.0);
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
    kernels.narrow(&scratch.scores, &mut scratch.weights);
    kernels.gemm(GemmShape { m, n: d, k: TILE_KEYS }, &scratch.weights, &scratch.values, out);
}

/// `rows` as bf16 `[rows, 2 * head_dim]`: what they are, or what becomes of codes.
fn tile_of<'a>(
    kernels: Kernels,
    rows: Rows<'a>,
    decoded: &mut Vec<f32>,
    tile: &'a mut Vec<u16>,
) -> &'a [u16] {
    match rows.row_type() {
        RowType::Bf16 => rows.stored(),
        RowType::Int8 => {
            let d = rows.head_dim();
            decoded.resize(rows.len() * 2 * d, 0.0);
            for (number, row) in decoded.chunks_exact_mut(2 * d).enumerate() {
                let (k, v) = row.split_at_mut(d);
                rows.key(number, k);
                rows.value(number, v);
            }
            tile.resize(decoded.len(), 0);
            kernels.narrow(decoded, tile);
            tile
        }
    }
}

/// K^T `[head_dim, TILE_KEYS]` and V `[TILE_KEYS, head_dim]` in panels of pairs; keys that a short tile lacks are zero.
fn arrange_tile(rows: &[u16], d: usize, keys: &mut Vec<u32>, values: &mut Vec<u32>) {
    keys.resize(d / 2 * TILE_KEYS, 0);
    values.resize(TILE_KEYS / 2 * d, 0);
    let count = rows.len() / (2 * d);
    if count < TILE_KEYS {
        keys.fill(0);
        values.fill(0);
    }
    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    for (panel, rows) in keys.chunks_exact_mut(d / 2 * PANEL).zip(rows.chunks(PANEL * 2 * d)) {
        for (key, row) in rows.chunks_exact(2 * d).enumerate() {
            for (i, k) in row[..d].chunks_exact(2).enumerate() {
                panel[i * PANEL + key] = pair(k[0], k[1]);
            }
        }
    }
    for (i, two) in rows.chunks(4 * d).enumerate() {
        let (even, odd) = (&two[d..2 * d], two.get(3 * d..));
        for (number, panel) in values.chunks_exact_mut(TILE_KEYS / 2 * PANEL).enumerate() {
            let columns = number * PANEL..(number + 1) * PANEL;
            let to = &mut panel[i * PANEL..][..PANEL];
            match odd {
                Some(odd) => {
                    for ((to, &even), &odd) in to.iter_mut().zip(&even[columns.clone()]).zip(&odd[columns]) {
                        *to = pair(even, odd);
                    }
                }
                None => to.iter_mut().zip(&even[columns]).for_each(|(to, &even)| *to = u32::from(even)),
            }
        }
    }
}
