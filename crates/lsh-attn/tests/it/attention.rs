//! Exact attention, decoding and prefill, against a float64 softmax.

use std::sync::atomic::AtomicBool;

use crate::support::{Random, bf16, rows};
use lsh_attn::HEAD_DIMS;
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::prefill::{PrefillScratch, QueryBlock, attend_causal};
use lsh_attn::rows::widen;
use lsh_attn::softmax::Partial;

fn all_kernels() -> impl Iterator<Item = Kernels> {
    Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok())
}

/// softmax(q k / sqrt(d)) v over bf16 rows, in f64.
fn reference(q: &[f32], rows: &[u16], cap: Option<f32>) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scaled: Vec<f64> = q.iter().map(|&q| f64::from(q) * scale).collect();
    softmax(&scaled, rows, cap, |v| f64::from(widen(v)))
}

/// The weighted mean of `value` over the V of all rows, for a scaled query and scores that `cap` caps softly.
fn softmax(q: &[f64], rows: &[u16], cap: Option<f32>, value: impl Fn(u16) -> f64) -> Vec<f64> {
    let d = q.len();
    let score = |row: &[u16]| -> f64 {
        let product = q.iter().zip(row).map(|(&q, &k)| q * f64::from(widen(k))).sum();
        cap.map_or(product, |cap| f64::from(cap) * (product / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = rows.chunks_exact(2 * d).map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; d];
    for (weight, row) in weights.iter().zip(rows.chunks_exact(2 * d)) {
        for (out, &v) in out.iter_mut().zip(&row[d..]) {
            *out += weight / total * value(v);
        }
    }
    out
}

fn assert_attention(got: &[f32], q: &[f32], rows: &[u16], cap: Option<f32>) {
    for (got, want) in got.iter().zip(reference(q, rows, cap)) {
        assert!((f64::from(*got) - want).abs() < 2e-5, "{got} {want}");
    }
}

/// Prefill rounds scaled queries to bf16, and weights, by 2^-8 of each at most.
fn assert_prefill(got: &[f32], q: &[f32], rows: &[u16], cap: Option<f32>) {
    let scale = 1.0 / (q.len() as f32).sqrt();
    let rounded: Vec<f64> = q.iter().map(|q| half::bf16::from_f32(q * scale).to_f64()).collect();
    let want = softmax(&rounded, rows, cap, |v| f64::from(widen(v)));
    let size = softmax(&rounded, rows, cap, |v| f64::from(widen(v).abs()));
    for ((got, want), size) in got.iter().zip(want).zip(size) {
        assert!((f64::from(*got) - want).abs() < size / 256.0 + 2e-5, "{got} {want}");
    }
}

#[test]
fn consecutive_rows_for_a_group_of_queries() {
    for kernels in all_kernels() {
        for d in HEAD_DIMS {
            for (count, queries) in [(1, 1), (63, 3), (64, 4), (65, 5), (300, 8)] {
                let mut random = Random::new((count + d) as u64);
                // Scores of up to about 20: a softmax that is neither flat nor one key.
                let rows = rows(&random.normals(count * d), &random.normals(count * d), d);
                let q: Vec<f32> = random.normals(queries * d).iter().map(|x| 5.0 * x).collect();
                let scaled: Vec<f32> = q.iter().map(|q| q / (d as f32).sqrt()).collect();
                let mut out = vec![0.0; queries * d];
                let cap = queries.is_multiple_of(2).then_some(3.0);
                let empty = Partial::new(queries, d).with_cap(cap);
                let mut whole = empty.clone();
                whole.add_rows(kernels, &scaled, bf16(&rows, d), &mut Vec::new());
                whole.finish(&mut out);
                // The same in two parts, merged.
                let cut = (count / 3) * 2 * d;
                let (mut first, mut second) = (empty.clone(), empty);
                first.add_rows(kernels, &scaled, bf16(&rows[..cut], d), &mut Vec::new());
                second.add_rows(kernels, &scaled, bf16(&rows[cut..], d), &mut Vec::new());
                first.merge(0, &second);
                let mut merged = vec![0.0; queries * d];
                first.finish(&mut merged);
                for (query, q) in q.chunks_exact(d).enumerate() {
                    assert_attention(&out[query * d..][..d], q, &rows, cap);
                    assert_attention(&merged[query * d..][..d], q, &rows, cap);
                }
            }
        }
    }
}

#[test]
fn a_chunk_of_tokens_is_causal() {
    for kernels in all_kernels() {
        for (d, group, position, tokens, window, score_cap) in [
            (64, 3, 0, 70, usize::MAX, None),
            (80, 1, 5, 3, 1, None),
            (96, 2, 64, 64, usize::MAX, Some(3.0)),
            (112, 1, 200, 9, 64, None),
            (128, 4, 130, 50, 71, None),
            (256, 8, 63, 2, usize::MAX, None),
            (256, 2, 190, 70, 33, Some(2.0)),
        ] {
            let mut random = Random::new(d as u64);
            let count = position + tokens;
            let rows = rows(&random.normals(count * d), &random.normals(count * d), d);
            // Two KV heads' queries a token; this is the second one's block.
            let width = 2 * group * d;
            let q: Vec<f32> = random.normals(tokens * width).iter().map(|x| 5.0 * x).collect();
            let block = QueryBlock {
                q: &q[group * d..],
                stride: width,
                group,
                head_dim: d,
                tokens,
                position,
                window,
                score_cap,
            };
            let mut out = vec![f32::NAN; tokens * group * d];
            let cut = 64.min(count) * 2 * d;
            let segments = [bf16(&rows[..cut], d), bf16(&rows[cut..], d)];
            let mut scratch = PrefillScratch::default();
            assert!(attend_causal(
                kernels,
                block,
                &segments,
                &mut out,
                &mut scratch,
                &AtomicBool::new(false)
            ));
            for (index, out) in out.chunks_exact(d).enumerate() {
                let (token, head) = (index / group, index % group);
                let q = &q[token * width + (group + head) * d..][..d];
                let end = position + token + 1;
                assert_prefill(out, q, &rows[end.saturating_sub(window) * 2 * d..end * 2 * d], score_cap);
            }
        }
    }
}

#[test]
fn a_set_flag_stops_a_prefill() {
    let kernels = Kernels::of(Isa::Scalar).expect("always there");
    let rows = vec![0; 128];
    let block = QueryBlock {
        q: &[0.0; 64],
        stride: 64,
        group: 1,
        head_dim: 64,
        tokens: 1,
        position: 0,
        window: usize::MAX,
        score_cap: None,
    };
    let cancelled = AtomicBool::new(true);
    let mut scratch = PrefillScratch::default();
    assert!(!attend_causal(kernels, block, &[bf16(&rows, 64)], &mut [0.0; 64], &mut scratch, &cancelled));
}

#[test]
fn no_keys_attend_to_zero() {
    let mut out = vec![1.0; 64];
    Partial::new(1, 64).finish(&mut out);
    assert_eq!(out, vec![0.0; 64]);
}
