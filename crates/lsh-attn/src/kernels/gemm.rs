//! Products of matrices in bf16 as products of f32, for instruction sets with sixteen registers that have none of bf16.

use super::vector::Vector;
use super::{GemmShape, PANEL};

/// C += A B, four rows at a time by as many columns as two registers hold.
///
/// # Safety
/// - `a`, `b` and `c` have the lengths that the shape calls for.
#[inline(always)]
pub(super) unsafe fn gemm<V: Vector>(shape: GemmShape, a: &[u16], b: &[u32], c: &mut [f32]) {
    const { assert!(PANEL.is_multiple_of(2 * V::WIDTH)) }
    for column in (0..shape.n).step_by(2 * V::WIDTH) {
        let mut row = 0;
        while row < shape.m {
            // SAFETY: rows `row..row + R` exist, the rest is the caller's promise.
            unsafe {
                match shape.m - row {
                    4.. => {
                        gemm_rows::<V, 4>(row, column, shape, a, b, c);
                        row += 4
                    }
                    _ => {
                        gemm_rows::<V, 1>(row, column, shape, a, b, c);
                        row += 1
                    }
                }
            }
        }
    }
}

/// R rows by two registers of C stay in registers; four rows leave room for the widened pairs of A and B, where there are sixteen.
///
/// # Safety
/// - as [`gemm`], and rows `row..row + R` and the columns exist.
#[inline(always)]
unsafe fn gemm_rows<V: Vector, const R: usize>(
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
        let mut sums = [[V::splat(0.0); 2]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (half, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(to.add(r * n + half * V::WIDTH));
            }
        }
        let a = a.as_ptr().add(row * k);
        // Without a row, B is nowhere.
        let b = b.as_ptr().wrapping_add(column / PANEL * PANEL * k / 2 + column % PANEL);
        for i in 0..k / 2 {
            let b = b.add(i * PANEL);
            let b = [V::load_pairs(b), V::load_pairs(b.add(V::WIDTH))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = V::splat_pair(a.add(r * k + 2 * i));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = V::multiply_add(a[0], b[0], *sum);
                    *sum = V::multiply_add(a[1], b[1], *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                sum.store(to.add(r * n + half * V::WIDTH));
            }
        }
    }
}
