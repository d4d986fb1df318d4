//! AVX-512 (F, BW, VL, DQ): 16 f32 lanes, and twice as many registers as `avx2` has.

use core::arch::x86_64::*;

pub(super) mod bf16;
mod collisions;
mod sketch;
mod vector;

use self::collisions::take_repeated;
use self::sketch::{draw_keys, rotate, sketch_encode, sketch_weights};
use self::vector::widened;
use super::bf16_rows::{self, Gathered, Straight};
use super::vector::Vector;
use super::{GemmShape, Isa, PANEL, RowKernels, Table, avx2, exponentials, scalar};
use crate::hash::{HashPlan, LANES, Lanes};
use crate::inclusion::NODES;

pub(super) static TABLE: Table = BASE;

const BASE: Table = Table {
    isa: Isa::Avx512,
    hash,
    take_repeated,
    ln_inclusion,
    rotate,
    sketch_encode,
    sketch_weights,
    draw_keys,
    value_encode: avx2::values::encode,
    value_sums: avx2::values::sums,
    bf16: RowKernels { dot_gathered, add_gathered, dot_block, add_block },
    // Whoever has AVX-512 has AVX2. Nobody has measured yet what wider ones would gain.
    int8: super::avx2::int8::KERNELS,
    max,
    exp_sum,
    narrow,
    gemm,
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn hash(plan: &HashPlan, input: &[Lanes], work: &mut [Lanes], codes: &mut [[u16; LANES]]) {
    scalar::hash_body(plan, input, work, codes);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn ln_inclusion(nodes: &[f32; NODES], cosines: &mut [f32]) {
    scalar::ln_inclusion_body(nodes, cosines);
}

/// # Safety
/// - as [`bf16_rows::dot`], for the rows of `ids`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_gathered(q: &[f32], rows: &[u16], head_dim: usize, ids: &[u16], out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<__m512, _, 4>(Gathered(ids), q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for the rows of `ids`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_gathered(acc: &mut [f32], rows: &[u16], head_dim: usize, ids: &[u16], weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<__m512, _, 4>(Gathered(ids), acc, rows, head_dim, weights) }
}

/// # Safety
/// - as [`bf16_rows::dot`], for all rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot_block(q: &[f32], rows: &[u16], head_dim: usize, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::dot::<__m512, _, 1>(Straight, q, rows, head_dim, out) }
}

/// # Safety
/// - as [`bf16_rows::add`], for all rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_block(acc: &mut [f32], rows: &[u16], head_dim: usize, weights: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { bf16_rows::add::<__m512, _, 1>(Straight, acc, rows, head_dim, weights) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn max(x: &[f32]) -> f32 {
    // SAFETY: the features are this function's.
    unsafe { exponentials::max::<__m512>(x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    // SAFETY: the features are this function's.
    unsafe { exponentials::exp_sum::<__m512>(x, max) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn narrow(x: &[f32], out: &mut [u16]) {
    scalar::narrow_body(x, out);
}

/// # Safety
/// - `a`, `b` and `c` have the lengths that the shape calls for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn gemm(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    for column in (0..shape.n).step_by(PANEL) {
        let mut row = 0;
        while row < shape.m {
            // SAFETY: rows `row..row + R` exist, the rest is the caller's promise.
            unsafe {
                match shape.m - row {
                    8.. => {
                        gemm_rows::<8>(row, column, shape, a, b, c);
                        row += 8
                    }
                    _ => {
                        gemm_rows::<1>(row, column, shape, a, b, c);
                        row += 1
                    }
                }
            }
        }
    }
}

/// R rows by 16 columns of C stay in registers, with even and odd products apart: 2 R sums hide the multiply-add's latency.
///
/// # Safety
/// - as [`gemm`], and rows `row..row + R` and the panel at `column` exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn gemm_rows<const R: usize>(
    row: usize,
    column: usize,
    shape: GemmShape,
    a: &[u16],
    b: &[u32],
    c: &mut [f32],
) {
    let GemmShape { n, k, .. } = shape;
    // SAFETY: all offsets stay inside A, B and C (caller).
    unsafe {
        let to = c.as_mut_ptr().add(row * n + column);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let a = a.as_ptr().add(row * k);
        let b = b.as_ptr().add(column * k / 2);
        for i in 0..k / 2 {
            let b = __m512::load_pairs(b.add(i * PANEL));
            for (r, sum) in sums.iter_mut().enumerate() {
                let a = widened(_mm512_set1_epi32(a.add(r * k + 2 * i).cast::<i32>().read_unaligned()));
                sum[0] = _mm512_fmadd_ps(a[0], b[0], sum[0]);
                sum[1] = _mm512_fmadd_ps(a[1], b[1], sum[1]);
            }
        }
        for (r, [even, odd]) in sums.into_iter().enumerate() {
            let to = to.add(r * n);
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_add_ps(even, odd)));
        }
    }
}
