//! Products of matrices in bf16 as products of f32, for instruction sets with sixteen registers that have none of bf16.

use std::ops::Range;

use super::vector::Vector;
use super::{GemmShape, PANEL};
use crate::rows::widen_all;

/// Rows of C that stay in registers, two each: twelve, which leaves room for two of B and one of A.
const ROWS: usize = 6;

/// Elements along k, and columns of B, that are widened at a time for all rows: 16 KiB, half of a first-level cache.
const DEPTH: usize = 64;
const COLUMNS: usize = 64;

/// C += A B. What is multiplied is f32 before the innermost loop begins, which has products and loads alone.
///
/// # Safety
/// - `a`, `b` and `c` have the lengths that the shape calls for.
#[inline(always)]
pub(super) unsafe fn gemm<V: Vector>(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    const { assert!(PANEL.is_multiple_of(2 * V::WIDTH) && COLUMNS.is_multiple_of(PANEL)) }
    let GemmShape { m, n, k } = shape;
    let mut wide_b = [0.0f32; DEPTH * COLUMNS];
    let mut wide_a = [0.0f32; ROWS * DEPTH];
    for column in (0..n).step_by(COLUMNS) {
        let columns = column..n.min(column + COLUMNS);
        for first in (0..k).step_by(DEPTH) {
            let depth = first..k.min(first + DEPTH);
            // SAFETY: the columns and the depth are within B (caller).
            unsafe { widen_columns::<V>(b, k, columns.clone(), depth.clone(), &mut wide_b) };
            let mut row = 0;
            while row < m {
                let rows = if m - row >= ROWS { ROWS } else { 1 };
                for (wide, a) in wide_a.chunks_exact_mut(DEPTH).zip(a[row * k..][..rows * k].chunks_exact(k))
                {
                    widen_all(&a[depth.clone()], wide);
                }
                for (number, column) in columns.clone().step_by(2 * V::WIDTH).enumerate() {
                    let b = &wide_b[number * 2 * V::WIDTH * depth.len()..];
                    let c = &mut c[row * n + column..];
                    // SAFETY: so many rows of A and columns of B were widened, and C has both (caller).
                    unsafe {
                        match rows {
                            ROWS => add_rows::<V, ROWS>(&wide_a, b, depth.len(), n, c),
                            _ => add_rows::<V, 1>(&wide_a, b, depth.len(), n, c),
                        }
                    }
                }
                row += rows;
            }
        }
    }
}

/// Elements `depth` along k of B's `columns`, two registers of columns after the other: `[columns / 2 registers, depth, 2 registers]`.
///
/// # Safety
/// - `b` is `[n / PANEL, k / 2, PANEL]` and has them; columns are whole panels, and the depth of whole pairs.
#[inline(always)]
unsafe fn widen_columns<V: Vector>(
    b: &[u32],
    k: usize,
    columns: Range<usize>,
    depth: Range<usize>,
    wide: &mut [f32; DEPTH * COLUMNS],
) {
    let two = 2 * V::WIDTH;
    for (number, column) in columns.step_by(two).enumerate() {
        let pairs = &b[column / PANEL * PANEL * k / 2 + column % PANEL..];
        let wide = &mut wide[number * two * depth.len()..][..two * depth.len()];
        for (i, wide) in wide.chunks_exact_mut(2 * two).enumerate() {
            for half in [0, V::WIDTH] {
                // SAFETY: a register of pairs (caller), and two places of as many numbers.
                unsafe {
                    let pairs = pairs.as_ptr().add((depth.start / 2 + i) * PANEL + half);
                    let [even, odd] = V::load_pairs(pairs);
                    even.store(wide.as_mut_ptr().add(half));
                    odd.store(wide.as_mut_ptr().add(two + half));
                }
            }
        }
    }
}

/// Adds the products of R rows of A, [`DEPTH`] elements apart, with two registers of B's columns to C, whose rows are `stride` apart.
///
/// # Safety
/// - A has R rows, B `depth` times two registers, and C two registers in each of R rows; `depth` is at most [`DEPTH`].
#[inline(always)]
unsafe fn add_rows<V: Vector, const R: usize>(
    a: &[f32; ROWS * DEPTH],
    b: &[f32],
    depth: usize,
    stride: usize,
    c: &mut [f32],
) {
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    // SAFETY: all offsets stay inside A, B and C (caller).
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (half, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(c.add(r * stride + half * V::WIDTH));
            }
        }
        for i in 0..depth {
            let b = b.add(2 * V::WIDTH * i);
            let b = [V::load(b), V::load(b.add(V::WIDTH))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*a.add(r * DEPTH + i));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = V::multiply_add(a, b, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                sum.store(c.add(r * stride + half * V::WIDTH));
            }
        }
    }
}
