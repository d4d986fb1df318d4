//! A step under a policy that is there for comparison. All have the static set of `sketch`, and count as it does: the budget is
//! the fraction of the indexed keys whose rows a query head uses. They may look at every key, and say so in their bytes.

use std::cmp::Ordering;
use std::ops::Range;

use kv_store::SEGMENT_ROWS;
use lsh_attn::mix::{derive_seed, mix64};
use lsh_attn::rows::Rows;
use lsh_attn::softmax::Partial;
use team::Team;

use crate::config::{Budget, Rule, SINKS, WINDOW};
use crate::decode::{RowsRead, Step, attend_rows, scaled};

/// Keys of a page of `quest` (Tang et al. 2024, section 4.1).
const PAGE_KEYS: usize = 16;

/// Rows below which `sketch` indexes nothing, since their mean is no good centre.
const LEAST_INDEXED: usize = 512;

/// A key that a query head uses: its place among the indexed keys, and ln of the probability that it was to be in the sample.
type Chosen = (usize, f32);

/// The rows that are not of the static set: those that `sketch` has indexed in a session of so many tokens.
fn indexed_rows(tokens: usize) -> Range<usize> {
    let first = SINKS.next_multiple_of(PAGE_KEYS);
    let end = tokens.saturating_sub(WINDOW);
    if end < first + LEAST_INDEXED {
        first.min(tokens)..first.min(tokens)
    } else {
        first..end / PAGE_KEYS * PAGE_KEYS
    }
}

/// Attends the static set, and what `rule` chooses of the others.
pub(crate) fn compared(
    team: &Team<'_>,
    step: Step<'_>,
    (rule, budget): (Rule, Budget),
    seed: u64,
    q: &[f32],
    out: &mut [f32],
) -> RowsRead {
    let (group, d) = (step.shape.group(), step.shape.head_dim);
    let q = scaled(step.shape, q);
    let indexed = indexed_rows(step.tokens);
    let keys = indexed.len();
    let wanted = match rule {
        Rule::Static => 0,
        _ if keys == 0 => 0,
        _ => ((budget.of(keys) * keys as f64).round() as usize).clamp(1, keys),
    };
    let seed = derive_seed(derive_seed(seed, step.tokens as u64), step.layer as u64);
    let parts: Vec<(Partial, RowsRead)> = team.map(step.shape.kv_heads, |kv_head| {
        let mut partial = attend_rows(step, kv_head, 0..indexed.start, &q);
        partial.merge(0, &attend_rows(step, kv_head, indexed.end..step.tokens, &q));
        let own = &q[kv_head * group * d..][..group * d];
        let mut scores = match rule {
            Rule::TopK | Rule::Oracle if wanted > 0 => scores(step, kv_head, indexed.clone(), own),
            _ => Vec::new(),
        };
        partial.cap(step.kernels, &mut scores);
        let bounds = match rule {
            Rule::Quest if wanted > 0 => page_bounds(step, kv_head, indexed.clone(), own),
            _ => Vec::new(),
        };
        let mut used = vec![false; keys];
        let mut sampled = 0;
        for query in 0..group {
            let chosen = match rule {
                _ if wanted == 0 => Vec::new(),
                Rule::Static => Vec::new(),
                Rule::TopK => greatest(&scores[query * keys..][..keys], wanted),
                Rule::Oracle => {
                    let random = mix64(derive_seed(seed, (kv_head * group + query) as u64));
                    let start = (random >> 11) as f64 / (1u64 << 53) as f64;
                    drawn(&scores[query * keys..][..keys], wanted, start)
                }
                Rule::Quest => {
                    let pages = bounds.len() / group;
                    let wanted = ((wanted as f64 / PAGE_KEYS as f64).round() as usize).clamp(1, pages);
                    let pages = greatest(&bounds[query * pages..][..pages], wanted);
                    let keys_of = |page: usize| page * PAGE_KEYS..keys.min((page + 1) * PAGE_KEYS);
                    pages.into_iter().flat_map(|(page, _)| keys_of(page).map(|key| (key, 0.0))).collect()
                }
            };
            sampled += chosen.len() as u64;
            chosen.iter().for_each(|&(key, _)| used[key] = true);
            step.note_drawn(0, chosen.iter().map(|&(key, _)| indexed.start + key), 1);
            let query_q = &own[query * d..][..d];
            partial.merge(query, &attend_chosen(step, kv_head, indexed.start, query_q, &chosen));
        }
        let fixed = step.tokens - keys;
        let rows = used.into_iter().filter(|&used| used).count();
        // K alone is half a row; a page's least and greatest elements are 2 d of 16 bits.
        let row_bytes = step.storage.row_type().row_bytes(d);
        let (all_keys, pages) = (scores.len() / group, bounds.len() / group);
        let bytes = match rule {
            Rule::TopK | Rule::Oracle => row_bytes / 2 * (all_keys + rows + 2 * fixed),
            Rule::Quest | Rule::Static => 4 * d * pages + row_bytes * (rows + fixed),
        };
        let read = RowsRead {
            fixed: (fixed * group) as u64,
            sampled,
            indexed: (keys * group) as u64,
            bytes: bytes as u64,
            ..RowsRead::default()
        };
        (partial, read)
    });
    let mut whole = Partial::new(step.shape.heads, d);
    let mut read = RowsRead::default();
    for (kv_head, (partial, part)) in parts.iter().enumerate() {
        whole.merge(kv_head * group, partial);
        read.fixed += part.fixed;
        read.sampled += part.sampled;
        read.indexed += part.indexed;
        read.bytes += part.bytes;
    }
    whole.finish(out);
    read
}

/// Products `[queries, range]` with the queries `[queries, head_dim]` of a KV head.
pub(crate) fn scores(step: Step<'_>, kv_head: usize, range: Range<usize>, q: &[f32]) -> Vec<f32> {
    let d = step.shape.head_dim;
    let (queries, keys) = (q.len() / d, range.len());
    let mut scores = vec![0.0; queries * keys];
    for (at, rows) in segments(step, kv_head, range) {
        let count = rows.len();
        let mut part = vec![0.0; queries * count];
        step.kernels.dot_block(q, rows, &mut part);
        for (query, part) in part.chunks_exact(count).enumerate() {
            scores[query * keys + at..][..count].copy_from_slice(part);
        }
    }
    scores
}

/// What no score of a page exceeds, `[queries, pages]`: the sum over dimensions of the greater of q_j min_j and q_j max_j.
fn page_bounds(step: Step<'_>, kv_head: usize, range: Range<usize>, q: &[f32]) -> Vec<f32> {
    let d = step.shape.head_dim;
    let (queries, pages) = (q.len() / d, range.len().div_ceil(PAGE_KEYS));
    let mut bounds = vec![0.0; queries * pages];
    for (at, rows) in segments(step, kv_head, range) {
        for (page, rows) in rows.chunks(PAGE_KEYS).enumerate() {
            let mut extremes = vec![(f32::INFINITY, f32::NEG_INFINITY); d];
            let mut key = vec![0.0; d];
            for row in 0..rows.len() {
                rows.key(row, &mut key);
                for ((low, high), &x) in extremes.iter_mut().zip(&key) {
                    (*low, *high) = (low.min(x), high.max(x));
                }
            }
            for (query, q) in q.chunks_exact(d).enumerate() {
                let bound = q.iter().zip(&extremes).map(|(q, (low, high))| (q * low).max(q * high)).sum();
                bounds[query * pages + at / PAGE_KEYS + page] = bound;
            }
        }
    }
    bounds
}

/// The `wanted` greatest of `values`, the first among equals, in order of their places.
fn greatest(values: &[f32], wanted: usize) -> Vec<Chosen> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    let before =
        |&a: &usize, &b: &usize| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b));
    if wanted < places.len() {
        places.select_nth_unstable_by(wanted, before);
        places.truncate(wanted);
    }
    places.sort_unstable();
    places.into_iter().map(|place| (place, 0.0)).collect()
}

/// Places drawn with pi_i = min(1, c e^(s_i)), c such that the pi sum to `wanted`. They are lengths on a line, of which each
/// step of one, from `start` in [0, 1) on, takes the key that it lands on: a key is taken with probability pi exactly.
fn drawn(scores: &[f32], wanted: usize, start: f64) -> Vec<Chosen> {
    let pi = inclusion(scores, wanted);
    let mut chosen = Vec::with_capacity(wanted + 1);
    let (mut line, mut next) = (0.0, start);
    for (place, &pi) in pi.iter().enumerate() {
        line += pi;
        if line > next {
            chosen.push((place, pi.ln() as f32));
            next += 1.0;
        }
    }
    chosen
}

/// min(1, c e^(s_i)) with sum `wanted`.
fn inclusion(scores: &[f32], wanted: usize) -> Vec<f64> {
    if wanted >= scores.len() {
        return vec![1.0; scores.len()];
    }
    let max = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |&score: &f32| (f64::from(score) - max).exp().max(f64::MIN_POSITIVE);
    let weights: Vec<f64> = scores.iter().map(weight).collect();
    let mut ascending = weights.clone();
    ascending.sort_unstable_by(f64::total_cmp);
    // Keys below each place weigh this much together. Those above reach 1: as few of them as leave the others below it.
    let mut below = 0.0;
    let below: Vec<f64> = ascending
        .iter()
        .map(|weight| {
            below += weight;
            below
        })
        .collect();
    let c = (0..wanted)
        .map(|certain| {
            let last = ascending.len() - 1 - certain;
            ((wanted - certain) as f64 / below[last], ascending[last])
        })
        .find(|(c, greatest)| c * greatest <= 1.0)
        .map_or(f64::INFINITY, |(c, _)| c);
    weights.iter().map(|weight| (c * weight).min(1.0)).collect()
}

/// One query over chosen keys, whose places count from row `first` on.
fn attend_chosen(step: Step<'_>, kv_head: usize, first: usize, q: &[f32], chosen: &[Chosen]) -> Partial {
    let mut partial = step.partial(1);
    for chosen in chosen.chunk_by(|a, b| (first + a.0) / SEGMENT_ROWS == (first + b.0) / SEGMENT_ROWS) {
        let rows = step.storage.rows(step.layer, kv_head, (first + chosen[0].0) / SEGMENT_ROWS);
        let ids: Vec<u16> = chosen.iter().map(|(place, _)| ((first + place) % SEGMENT_ROWS) as u16).collect();
        let mut logits = vec![0.0; ids.len()];
        step.kernels.dot_gathered(q, rows, &ids, &mut logits);
        partial.cap(step.kernels, &mut logits);
        logits.iter_mut().zip(chosen).for_each(|(logit, (_, ln_pi))| *logit -= ln_pi);
        partial.add_gathered(step.kernels, rows, &ids, &mut logits);
    }
    partial
}

/// The rows of `range`, segment by segment, each with its place in the range.
fn segments(step: Step<'_>, kv_head: usize, range: Range<usize>) -> impl Iterator<Item = (usize, Rows<'_>)> {
    (range.start / SEGMENT_ROWS..range.end.div_ceil(SEGMENT_ROWS)).map(move |segment| {
        let start = range.start.max(segment * SEGMENT_ROWS);
        let end = range.end.min((segment + 1) * SEGMENT_ROWS);
        let rows = step.storage.rows(step.layer, kv_head, segment);
        let first = start - segment * SEGMENT_ROWS;
        (start - range.start, rows.slice(first..first + end - start))
    })
}

#[cfg(test)]
mod tests;
