//! The meaning of kernels over rows of 8 bits: sums of integers, which no order changes.

use super::super::{INT8_CHUNK, INT8_MOST_DIM, RowKernels};
use crate::rows::{Int8Row, RowType, quantise};

pub(in super::super) const KERNELS: RowKernels =
    RowKernels { dot_gathered, add_gathered, dot_block, add_block };

fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    dot(q, rows, head_dim, |i| usize::from(ids[i]), out);
}

fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    dot(q, rows, head_dim, |i| i, out);
}

fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    add(acc, rows, head_dim, |i| usize::from(ids[i]), weights);
}

fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    add(acc, rows, head_dim, |i| i, weights);
}

fn stored(rows: &[u16], head_dim: usize, number: usize) -> Int8Row<'_> {
    let units = RowType::Int8.units(head_dim);
    Int8Row::new(&rows[number * units..][..units])
}

fn dot(q: &[f32], rows: &[u16], head_dim: usize, row: impl Fn(usize) -> usize, out: &mut [f32]) {
    let count = out.len() / (q.len() / head_dim);
    let mut quants = [0; INT8_MOST_DIM];
    for (q, out) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(count.max(1))) {
        let quants = &mut quants[..head_dim];
        let scale = quantise(q, quants);
        for (i, out) in out.iter_mut().enumerate() {
            let row = stored(rows, head_dim, row(i));
            let sum: i32 = quants.iter().zip(row.k).map(|(&q, &k)| i32::from(q) * i32::from(k)).sum();
            *out = sum as f32 * (scale * row.k_scale);
        }
    }
}

fn add(acc: &mut [f32], rows: &[u16], head_dim: usize, row: impl Fn(usize) -> usize, weights: &[f32]) {
    let count = weights.len() / (acc.len() / head_dim);
    let (mut scaled, mut quants) = ([0.0; INT8_CHUNK], [0; INT8_CHUNK]);
    for (acc, weights) in acc.chunks_exact_mut(head_dim).zip(weights.chunks_exact(count.max(1))) {
        for (chunk, weights) in weights.chunks(INT8_CHUNK).enumerate() {
            let row = |i: usize| stored(rows, head_dim, row(chunk * INT8_CHUNK + i));
            let (scaled, quants) = (&mut scaled[..weights.len()], &mut quants[..weights.len()]);
            for (i, (scaled, weight)) in scaled.iter_mut().zip(weights).enumerate() {
                *scaled = weight * row(i).v_scale;
            }
            let scale = quantise(scaled, quants);
            let mut sums = [0i32; INT8_MOST_DIM];
            for (i, &weight) in quants.iter().enumerate() {
                for (sum, &v) in sums.iter_mut().zip(row(i).v) {
                    *sum += i32::from(weight) * i32::from(v);
                }
            }
            for (acc, sum) in acc.iter_mut().zip(sums) {
                *acc += sum as f32 * scale;
            }
        }
    }
}
