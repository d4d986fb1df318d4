//! The meaning of every kernel, in portable Rust. Sums run in index order with one f32 accumulator.

use super::{GemmShape, Isa, Table};
use crate::hash::{HashPlan, LANES, Lanes};
use crate::rows::widen;

pub(super) static TABLE: Table =
    Table { isa: Isa::Scalar, hash, dot_gathered, add_gathered, dot_block, add_block, max, exp_sum, gemm };

fn hash(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    hash_body(plan, input, work, codes);
}

/// Inlined into each instruction set's `hash`, where the compiler turns the loops over lanes into its vectors.
#[inline(always)]
pub(super) fn hash_body(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    codes.fill([0; LANES]);
    for rotation in plan.rotations() {
        for (round, signs) in rotation.signs.chunks_exact(input.len()).enumerate() {
            for (index, &sign) in signs.iter().enumerate() {
                let source = if round == 0 { &input[index] } else { &work[index] };
                work[index] = Lanes(source.0.map(|x| x * sign));
            }
            hadamard(work);
        }
        for bit in rotation.bits {
            let code = &mut codes[usize::from(bit.table)];
            for (lane, x) in work[usize::from(bit.dim)].0.iter().enumerate() {
                code[lane] |= ((x.to_bits() >> 31) as u16) << bit.shift;
            }
        }
    }
}

/// Fast Hadamard transform over the first index, unnormalised, in place: two levels a pass.
#[inline(always)]
fn hadamard(x: &mut [Lanes]) {
    let mut half = 1;
    while half * 4 <= x.len() {
        for block in x.chunks_exact_mut(half * 4) {
            let (low, high) = block.split_at_mut(half * 2);
            let (x0, x1) = low.split_at_mut(half);
            let (x2, x3) = high.split_at_mut(half);
            for (((x0, x1), x2), x3) in x0.iter_mut().zip(x1).zip(x2).zip(x3) {
                for lane in 0..LANES {
                    let (a, b) = (x0.0[lane] + x1.0[lane], x0.0[lane] - x1.0[lane]);
                    let (c, d) = (x2.0[lane] + x3.0[lane], x2.0[lane] - x3.0[lane]);
                    x0.0[lane] = a + c;
                    x1.0[lane] = b + d;
                    x2.0[lane] = a - c;
                    x3.0[lane] = b - d;
                }
            }
        }
        half *= 4;
    }
    if half < x.len() {
        let (low, high) = x.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            for lane in 0..LANES {
                (a.0[lane], b.0[lane]) = (a.0[lane] + b.0[lane], a.0[lane] - b.0[lane]);
            }
        }
    }
}

fn dot(q: &[f32], k: &[u16]) -> f32 {
    q.iter().zip(k).map(|(&q, &k)| q * widen(k)).sum()
}

fn add(acc: &mut [f32], v: &[u16], weight: f32) {
    for (acc, &v) in acc.iter_mut().zip(v) {
        *acc += weight * widen(v);
    }
}

fn dot_gathered(q: &[f32], rows: &[u16], row_len: usize, ids: &[u16], out: &mut [f32]) {
    for (out, &id) in out.iter_mut().zip(ids) {
        *out = dot(q, &rows[usize::from(id) * row_len..][..q.len()]);
    }
}

fn add_gathered(acc: &mut [f32], rows: &[u16], row_len: usize, ids: &[u16], weights: &[f32]) {
    for (&weight, &id) in weights.iter().zip(ids) {
        let row = &rows[usize::from(id) * row_len..][..row_len];
        add(acc, &row[row_len - acc.len()..], weight);
    }
}

fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    let count = rows.len() / (2 * head_dim);
    for (q, out) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(count.max(1))) {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(2 * head_dim)) {
            *out = dot(q, &row[..head_dim]);
        }
    }
}

fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    let count = rows.len() / (2 * head_dim);
    for (acc, weights) in acc.chunks_exact_mut(head_dim).zip(weights.chunks_exact(count.max(1))) {
        for (&weight, row) in weights.iter().zip(rows.chunks_exact(2 * head_dim)) {
            add(acc, &row[head_dim..], weight);
        }
    }
}

pub(super) fn max(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

pub(super) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    x.iter_mut().fold(0.0, |sum, x| {
        *x = (*x - max).exp();
        sum + *x
    })
}

fn gemm(shape: GemmShape, a: &[f32], b: &[f32], c: &mut [f32]) {
    let GemmShape { n, k, .. } = shape;
    for (a, c) in a.chunks_exact(k.max(1)).zip(c.chunks_exact_mut(n.max(1))) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            for (c, &b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
}
