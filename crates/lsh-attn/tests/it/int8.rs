//! Rows of 8 bits: what they stand for, kernels on every instruction set against scalar and against what was meant, and
//! attention over them.

use std::sync::atomic::AtomicBool;

use crate::kernels::{COUNTS, DIMS, on_each_isa};
use crate::support::{Random, rows_of};
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::prefill::{PrefillScratch, QueryBlock, attend_causal};
use lsh_attn::rows::{RowType, Rows};
use lsh_attn::softmax::Partial;

fn int8(stored: &[u16], dim: usize) -> Rows<'_> {
    Rows::new(RowType::Int8, dim, stored)
}

fn key(rows: Rows<'_>, row: usize) -> Vec<f32> {
    let mut key = vec![0.0; rows.head_dim()];
    rows.key(row, &mut key);
    key
}

fn value(rows: Rows<'_>, row: usize) -> Vec<f32> {
    let mut value = vec![0.0; rows.head_dim()];
    rows.value(row, &mut value);
    value
}

/// Rows whose sizes differ by up to a few thousand, one unit into their allocation.
fn unaligned_rows(random: &mut Random, count: usize, dim: usize) -> Vec<u16> {
    let mut sized = || {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let size = (4.0 * random.normal()).exp();
            numbers.extend(random.normals(dim).iter().map(|x| size * x));
        }
        numbers
    };
    let (keys, values) = (sized(), sized());
    [vec![0], rows_of(RowType::Int8, &keys, &values, dim)].concat()
}

fn scalar() -> Kernels {
    Kernels::of(Isa::Scalar).expect("always there")
}

#[test]
fn an_element_is_off_by_a_253rd_of_the_greatest_at_most() {
    let mut random = Random::new(31);
    for dim in DIMS {
        for size in [1e-30, 1.0, 1e30] {
            let (k, v) = (random.normals(dim), random.normals(dim));
            let k: Vec<f32> = k.iter().map(|x| x * size).collect();
            let stored = rows_of(RowType::Int8, &k, &v, dim);
            for (x, got) in [(&k, key(int8(&stored, dim), 0)), (&v, value(int8(&stored, dim), 0))] {
                let greatest = x.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
                for (x, got) in x.iter().zip(got) {
                    assert!(
                        (x - got).abs() <= greatest / 253.0,
                        "{x} became {got}, the greatest is {greatest}"
                    );
                }
            }
        }
    }
}

#[test]
fn zeros_and_what_is_not_finite_stay_so() {
    let zeros = rows_of(RowType::Int8, &[0.0; 16], &[0.0; 16], 16);
    assert_eq!((key(int8(&zeros, 16), 0), value(int8(&zeros, 16), 0)), (vec![0.0; 16], vec![0.0; 16]));
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut k = [1.0; 16];
        k[3] = wrong;
        let stored = rows_of(RowType::Int8, &k, &[1.0; 16], 16);
        on_each_isa("int8, not finite", |kernels| {
            let mut out = [0.0];
            kernels.dot_block(&[1.0; 16], int8(&stored, 16), &mut out);
            assert!(!out[0].is_finite(), "{kernels:?}: {out:?}");
        });
    }
}

#[test]
fn isa_int8_dot_is_bit_exact_and_near_the_product() {
    on_each_isa("dot_gathered, dot_block of int8", |kernels| {
        let mut random = Random::new(32);
        for dim in DIMS {
            for (count, queries) in COUNTS.into_iter().zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 1]) {
                let stored = unaligned_rows(&mut random, 100, dim);
                let rows = int8(&stored[1..], dim);
                let q = random.normals(queries * dim + 1);
                let q = &q[1..];
                // Four more ids than results: rows that come next.
                let ids: Vec<u16> = (0..count + 4).map(|_| (random.uniform() * 100.0) as u16).collect();
                let (mut got, mut want) = (vec![0.0; queries * count], vec![0.0; queries * count]);
                kernels.dot_gathered(q, rows, &ids, &mut got);
                scalar().dot_gathered(q, rows, &ids, &mut want);
                assert_eq!(got, want, "{kernels:?} d {dim}");
                for (at, &got) in got.iter().enumerate() {
                    let (q, k) = (&q[at / count * dim..][..dim], key(rows, usize::from(ids[at % count])));
                    assert_product(got, q, &k);
                }
                kernels.dot_block(q, rows.slice(0..count), &mut got);
                scalar().dot_block(q, rows.slice(0..count), &mut want);
                assert_eq!(got, want, "{kernels:?} d {dim}");
            }
        }
    });
}

/// A query is rounded to 16 bits.
fn assert_product(got: f32, q: &[f32], k: &[f32]) {
    let exact: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
    let greatest = q.iter().fold(0.0f32, |greatest, q| greatest.max(q.abs()));
    let bound = greatest * k.iter().map(|k| k.abs()).sum::<f32>() / 65_000.0;
    assert!((f64::from(got) - exact).abs() <= f64::from(bound) + 1e-6 * exact.abs(), "{got} {exact}");
}

#[test]
fn isa_int8_add_is_bit_exact_and_near_the_sum() {
    on_each_isa("add_gathered, add_block of int8", |kernels| {
        let mut random = Random::new(33);
        for dim in DIMS {
            // Beyond one chunk of weights too.
            let counts = [COUNTS.as_slice(), &[127, 128, 129, 300]].concat();
            for (count, queries) in counts.into_iter().zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 1, 2, 3, 4, 5]) {
                let stored = unaligned_rows(&mut random, count.max(100), dim);
                let rows = int8(&stored[1..], dim);
                let ids: Vec<u16> = (0..count).map(|_| (random.uniform() * 100.0) as u16).collect();
                let weights = random.normals(queries * count);
                let before = random.normals(queries * dim + 1);
                let (mut got, mut want) = (before.clone(), before.clone());
                kernels.add_gathered(&mut got[1..], rows, &ids, &weights);
                scalar().add_gathered(&mut want[1..], rows, &ids, &weights);
                assert_eq!(got, want, "{kernels:?} d {dim}");
                for (query, weights) in weights.chunks_exact(count.max(1)).enumerate() {
                    let at = 1 + query * dim;
                    assert_sum(&got[at..][..dim], &before[at..][..dim], rows, &ids, weights);
                }
                let (mut got, mut want) = (before.clone(), before);
                kernels.add_block(&mut got[1..], rows.slice(0..count), &weights);
                scalar().add_block(&mut want[1..], rows.slice(0..count), &weights);
                assert_eq!(got, want, "{kernels:?} d {dim}");
            }
        }
    });
}

/// Weights times scales are rounded to 16 bits of the greatest; an element is at most 127 scales.
fn assert_sum(got: &[f32], before: &[f32], rows: Rows<'_>, ids: &[u16], weights: &[f32]) {
    let mut greatest = 0.0f64;
    let mut exact: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
    for (&id, &weight) in ids.iter().zip(weights) {
        let v = value(rows, usize::from(id));
        let size = v.iter().fold(0.0f32, |size, v| size.max(v.abs()));
        greatest = greatest.max(f64::from((weight * size).abs()));
        exact.iter_mut().zip(v).for_each(|(sum, v)| *sum += f64::from(weight) * f64::from(v));
    }
    let bound = ids.len() as f64 * greatest / 65_000.0 + 1e-6;
    for (got, exact) in got.iter().zip(exact) {
        assert!((f64::from(*got) - exact).abs() <= bound + 1e-6 * exact.abs(), "{got} {exact} bound {bound}");
    }
}

/// softmax(q k) v over what the rows stand for, in f64; with `true` the mean of |v|.
fn softmax(q: &[f32], rows: Rows<'_>, of_sizes: bool) -> Vec<f64> {
    let scores: Vec<f64> = (0..rows.len())
        .map(|row| q.iter().zip(key(rows, row)).map(|(&q, k)| f64::from(q) * f64::from(k)).sum())
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
    let mut out = vec![0.0; q.len()];
    for (row, score) in scores.iter().enumerate() {
        let weight = (score - max).exp() / total;
        for (out, v) in out.iter_mut().zip(value(rows, row)) {
            *out += weight * f64::from(if of_sizes { v.abs() } else { v });
        }
    }
    out
}

#[test]
fn consecutive_rows_for_a_group_of_queries() {
    on_each_isa("attention over int8", |kernels| {
        for (d, count, queries) in [(64, 1, 1), (80, 63, 3), (96, 65, 5), (128, 300, 4), (256, 130, 8)] {
            let mut random = Random::new((count + d) as u64);
            let stored = rows_of(RowType::Int8, &random.normals(count * d), &random.normals(count * d), d);
            let rows = int8(&stored, d);
            // Scores of up to about 20: a softmax that is neither flat nor one key.
            let q: Vec<f32> =
                random.normals(queries * d).iter().map(|x| 5.0 * x / (d as f32).sqrt()).collect();
            let mut whole = Partial::new(queries, d);
            let mut out = vec![0.0; queries * d];
            whole.add_rows(kernels, &q, rows, &mut Vec::new());
            whole.finish(&mut out);
            for (out, q) in out.chunks_exact(d).zip(q.chunks_exact(d)) {
                for (got, want) in out.iter().zip(softmax(q, rows, false)) {
                    // Scores are off by some 1e-4, from queries in 16 bits.
                    assert!((f64::from(*got) - want).abs() < 1e-3, "{got} {want}");
                }
            }
        }
    });
}

#[test]
fn a_chunk_of_tokens_is_causal() {
    on_each_isa("prefill over int8", |kernels| {
        let (d, group, position, tokens) = (128, 4, 70, 20);
        let mut random = Random::new(35);
        let count = position + tokens;
        let stored = rows_of(RowType::Int8, &random.normals(count * d), &random.normals(count * d), d);
        let rows = int8(&stored, d);
        let q: Vec<f32> = random.normals(tokens * group * d).iter().map(|x| 3.0 * x).collect();
        let block = QueryBlock {
            q: &q,
            stride: group * d,
            group,
            head_dim: d,
            tokens,
            position,
            window: usize::MAX,
            score_cap: None,
        };
        let mut out = vec![f32::NAN; q.len()];
        let segments = [rows.slice(0..64), rows.slice(64..count)];
        let mut scratch = PrefillScratch::default();
        assert!(attend_causal(kernels, block, &segments, &mut out, &mut scratch, &AtomicBool::new(false)));
        for (index, (out, q)) in out.chunks_exact(d).zip(q.chunks_exact(d)).enumerate() {
            let q: Vec<f32> = q.iter().map(|q| q / (d as f32).sqrt()).collect();
            let seen = rows.slice(0..position + index / group + 1);
            // Queries, rows and weights in bf16, each off by up to 2^-9: scores of about 3 move by up to 2^-6, and so do weights.
            for ((got, want), size) in out.iter().zip(softmax(&q, seen, false)).zip(softmax(&q, seen, true)) {
                assert!((f64::from(*got) - want).abs() < size / 64.0 + 1e-4, "{got} {want}");
            }
        }
    });
}
